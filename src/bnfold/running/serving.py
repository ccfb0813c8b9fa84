"""The other end of `workers`: an object in a process of its own that answers calls.

It imports little: starting is what takes time.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from typing import Any, NoReturn

from bnfold.running.messages import answer, read, write


def serve() -> NoReturn:
    """Make the object, then answer calls until the other process ends, or ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the other process as well
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer

    hosted: Any = None

    def make() -> None:
        nonlocal hosted
        kind, arguments = pickle.loads(requests.get())
        hosted = kind(lambda doing: write(answers, ("progress", doing)), *arguments)

    def call() -> Any:
        method, arguments = pickle.loads(requests.get())
        return method(hosted, *arguments)

    write(answers, answer(make))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # nobody reads what is printed from now on
        os.dup2(nowhere, descriptor)
    while True:
        write(answers, answer(call))


def _receive(requests: queue.SimpleQueue[bytes]) -> NoReturn:
    """Pass requests on; end this process with the other one, whatever it is doing."""
    for request in read(lambda: os.read(0, 1 << 20)):
        requests.put(request)
    os._exit(0)
