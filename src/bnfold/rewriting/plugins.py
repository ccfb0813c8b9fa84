"""Runs code of other packages, which may raise, exit, print, or never end."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import onnx_ir as ir

from bnfold.errors import Interrupted
from bnfold.rewriting.contract import Pass, Refused, Replace

SECONDS = 20.0
"""How long a plugin may take to be imported, or one of its passes for one node."""

_Result = TypeVar("_Result")


class PluginError(Exception):
    """A plugin did not do its work; the message says why."""


class _OverBudgetError(BaseException):
    """Raised within code that takes too long; no `except Exception` of its own catches it."""


def guarded(call: Callable[[], _Result], *, is_limited: bool = True) -> _Result:
    """Return what `call` returns. What it prints goes to stderr.

    Its time is limited, unless `is_limited` is false: a limit takes a thread.

    Raises:
        PluginError: if it raises an exception, exits, or takes too long.
    """
    try:
        limit = _limited(SECONDS) if is_limited else contextlib.nullcontext()
        with contextlib.redirect_stdout(sys.stderr), limit:
            return call()
    except (Interrupted, KeyboardInterrupt, Refused):
        raise
    except _OverBudgetError:
        raise PluginError(f"it takes more than {SECONDS:g} s") from None
    except SystemExit as error:
        raise PluginError(f"it exits with {error.code!r}") from error
    except BaseException as error:
        raise PluginError(f"{type(error).__name__}: {error}") from error


def guarded_pass(pass_: Pass, origin: str) -> Pass:
    """Return the pass of the package `origin` such that it cannot end or stop the program."""

    def function(node: ir.Node) -> Replace | None:
        result: object = guarded(lambda: pass_(node))
        if result is None or isinstance(result, Replace):
            return result
        raise PluginError(f"it returns {type(result).__name__}, not a Replace or None")

    return replace(pass_, function=function, origin=origin)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `_OverBudgetError` in this thread after so many seconds.

    It strikes at the next step of the interpreter: a call of native code is not interrupted.
    """
    thread, lock, is_over = threading.get_ident(), threading.Lock(), threading.Event()

    def stop() -> None:
        with lock:
            if not is_over.is_set():
                exception = ctypes.py_object(_OverBudgetError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            is_over.set()
        timer.cancel()
