"""Work in a process of its own: what comes back, what a crash leaves, and what the host keeps."""

from __future__ import annotations

import contextlib
import copyreg
import ctypes
import faulthandler
import gc
import os
import pickle
import platform
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnfold.errors import ModelError, UsageError
from bnfold.progress import Progress
from bnfold.running import isolation, messages
from bnfold.running.isolation import CrashedError, Forked, isolated
from bnfold.running.runtime import Level, Session
from tests.support.cli import REWRITTEN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")


@pytest.fixture(autouse=True)
def leaves_no_child() -> Iterator[None]:
    """After each test, no child of it is left, running or as a zombie."""
    before = children()
    yield
    assert children() <= before


def children() -> set[str]:
    """Return all processes, zombies too, that any thread of this one has started."""
    lists = Path("/proc/self/task").glob("*/children")
    return {child for each in lists for child in each.read_text().split()}


def nothing(*_: object) -> None:
    """Do nothing."""


def run(work: Any) -> tuple[Any, list[str]]:
    told: list[str] = []
    return isolated(work, told.append), told


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def is_pipe(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")
    except OSError:  # of the listing itself
        return False


def abort(*_: object) -> None:
    faulthandler.disable()  # pytest enables it
    os.abort()


def segfault() -> None:
    faulthandler.disable()
    ctypes.string_at(0)


# --- What comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [None, 7, ("a", [1.5]), {"x": np.arange(3)}])
def test_a_result_comes_back_from_another_process(result: Any) -> None:
    (process, found), told = run(lambda _: (os.getpid(), result))
    assert process != os.getpid()
    assert pickle.dumps(found) == pickle.dumps(result)
    assert told == []


def test_a_result_of_many_megabytes_comes_back() -> None:
    content = np.random.default_rng(0).bytes(5_000_000)
    assert run(lambda _: content)[0] == content


def test_progress_comes_in_order_and_before_the_result() -> None:
    def work(told: Progress) -> str:
        for step in range(300):
            told(f"step {step} " + "." * step * 5)
        return "done"

    result, told = run(work)
    assert result == "done"
    assert told == [f"step {step} " + "." * step * 5 for step in range(300)]


def test_progress_comes_while_the_work_goes_on() -> None:
    def work(told: Progress) -> float:
        told("first")
        time.sleep(0.5)
        return time.monotonic()

    heard: list[float] = []
    ended = isolated(work, lambda _: heard.append(time.monotonic()))
    assert ended - heard[0] > 0.3


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError("no such option"), 2), (ModelError("no model"), 3)]
)
def test_an_exception_comes_back_with_its_type_and_exit_code(error: Exception, code: int) -> None:
    def work(_: Progress) -> None:
        raise error

    with pytest.raises(type(error), match=str(error)) as caught:
        run(work)
    assert caught.type is type(error)
    assert getattr(caught.value, "exit_code", None) == code == getattr(error, "exit_code", None)
    assert caught.value is not error
    assert "in work" in str(caught.value.__cause__)  # where it was raised


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_other_ends_come_back_too(error: BaseException) -> None:
    def work(_: Progress) -> None:
        raise error

    with pytest.raises(type(error)):
        run(work)


class OddError(Exception):
    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{why} at {where}")


class LockedError(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("error", "words"),
    [(OddError("here", "odd"), "OddError: odd at here"), (LockedError(), "LockedError: locked")],
)
def test_an_exception_that_cannot_be_sent_comes_back_as_words(error: Exception, words: str) -> None:
    def work(_: Progress) -> None:
        raise error

    # tblib, once Dask has loaded it into this process, sends exceptions that pickle alone cannot
    with pytest.raises((RuntimeError, type(error))) as caught:
        run(work)
    assert words in f"{type(caught.value).__name__}: {caught.value}"


def test_a_cause_need_not_be_picklable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tblib is installed, as by Dask, causes and tracebacks are pickled, too."""

    def reduced(error: ModelError) -> tuple[Any, ...]:
        return ModelError, error.args, {"cause": error.__cause__, "trace": error.__traceback__}

    def work(_: Progress) -> None:
        raise ModelError("no model") from ValueError(lambda: "not picklable")

    monkeypatch.setitem(copyreg.dispatch_table, ModelError, reduced)
    with pytest.raises(ModelError, match="no model") as caught:
        run(work)
    assert "ValueError: <function" in str(caught.value.__cause__)


def test_what_the_work_changes_stays_in_its_process() -> None:
    kept: list[int] = []
    run(lambda _: kept.append(1))
    assert kept == []


# --- Crashes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crash", "how"),
    [
        (segfault, "SIGSEGV"),
        (abort, "SIGABRT"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "SIGTERM"),
        (lambda: os._exit(7), "exit status 7"),
        (lambda: os._exit(0), "exit status 0"),
    ],
    ids=["segfault", "abort", "term", "exit-7", "exit-0"],
)
def test_a_crash_names_the_signal_and_the_last_progress(crash: Any, how: str) -> None:
    def work(told: Progress) -> None:
        told("loading the original")
        told("running the optimized model")
        crash()

    told: list[str] = []
    with pytest.raises(CrashedError) as caught:
        isolated(work, told.append)
    assert str(caught.value) == (f"onnxruntime crashed ({how}) while running the optimized model")
    assert caught.value.during == told[-1] == "running the optimized model"
    assert caught.value.exit_code == 5


def test_a_kill_is_told_apart_as_it_may_be_for_lack_of_memory() -> None:
    def work(told: Progress) -> None:
        told("loading")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(CrashedError, match=r"killed.* while loading") as caught:
        run(work)
    assert caught.value.is_killed
    with pytest.raises(CrashedError) as caught:
        run(abort)
    assert not caught.value.is_killed


def test_a_crash_before_any_progress_says_so() -> None:
    with pytest.raises(CrashedError, match="while starting"):
        run(abort)


def test_a_result_cut_short_is_a_crash() -> None:
    before = set(descriptors())

    def ours() -> int:
        """Return the one descriptor that this process has got since."""
        (sending,) = {each for each in descriptors() if each not in before and is_pipe(each)}
        return int(sending)

    def work(told: Progress) -> None:
        told("sending")
        os.write(ours(), messages.LENGTH.pack(100) + b"half")
        os._exit(1)

    with pytest.raises(CrashedError, match=r"exit status 1.* while sending"):
        run(work)


def test_after_a_crash_the_next_work_runs() -> None:
    with pytest.raises(CrashedError):
        run(abort)
    assert run(lambda _: 5)[0] == 5


# --- Interrupts -----------------------------------------------------------------------------------


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_progress_raises_ends_the_child(error: type[BaseException]) -> None:
    def work(told: Progress) -> None:
        told(str(os.getpid()))
        time.sleep(60)

    children: list[int] = []

    def progress(doing: str) -> None:
        children.append(int(doing))
        raise error

    begun = time.monotonic()
    with pytest.raises(error):
        isolated(work, progress)
    assert time.monotonic() - begun < 5
    assert not is_alive(children[0])


INTERRUPTED = """
import os, signal, sys, time
from bnfold.running.isolation import isolated

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored

def work(told):
    told(str(os.getpid()))
    time.sleep(60)

try:
    isolated(work, lambda doing: print(doing, flush=True))
except KeyboardInterrupt:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("interrupted, no child left", flush=True)
"""


@pytest.mark.parametrize("to_group", [False, True], ids=["parent", "terminal"])
def test_ctrl_c_ends_both_and_leaves_no_zombie(to_group: bool) -> None:
    """From a terminal it reaches all processes of the group."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert output == "interrupted, no child left\n"
    assert errors == ""
    assert process.returncode == 0
    assert not is_alive(child)


KILLED = """
import os, time
from bnfold.running.isolation import isolated

def work(told):
    told(str(os.getpid()))
    isolated(lambda _: time.sleep(60), lambda _: None)

isolated(work, lambda doing: print(doing, flush=True))
"""


def test_no_work_goes_on_where_the_host_is_killed() -> None:
    host = [sys.executable, "-c", KILLED]
    with subprocess.Popen(
        host, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        end = time.monotonic() + 10
        while len(_group(process.pid)) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        assert is_alive(child)
        process.kill()
        process.wait()
        while _group(process.pid) and time.monotonic() < end:
            time.sleep(0.01)
        assert not _group(process.pid)


def _group(leader: int) -> list[int]:
    """Return the processes of a session that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().rpartition(")")
            state, _, _, session, *_ = rest.split()
            if int(session) == leader and state != "Z":
                found.append(int(name.split()[0]))
    return found


# --- A fork that stands still ---------------------------------------------------------------------


def test_a_fork_that_stands_still_is_ended_and_the_work_done_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolation, "STALLED_SECONDS", 0.5)
    here = os.getpid()

    def work(told: Progress) -> int:
        told(f"{os.getpid()}")
        if os.getpid() != here:
            time.sleep(60)
        return os.getpid()

    result, told = run(work)
    assert result == here
    assert len(told) == 2
    assert told[1] == str(here)
    assert not is_alive(int(told[0]))


def test_a_lock_that_another_thread_held_is_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays locked in the fork for ever."""
    monkeypatch.setattr(isolation, "STALLED_SECONDS", 0.2)
    lock, held = threading.Lock(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(0.5)

    def work(_: Progress) -> int:
        with lock:
            return os.getpid()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert run(work)[0] == os.getpid()
    thread.join()


allocated = 0


def allocate() -> None:
    """Make so many objects at once that the collector runs."""
    assert len([[number] for number in range(allocated)]) == allocated


os.register_at_fork(after_in_child=allocate)


@pytest.mark.parametrize("when", ["in os.fork", "later"])
def test_garbage_of_the_parent_is_not_collected_in_a_fork(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A session of onnxruntime has threads, which a fork lacks: its end would wait for them."""
    if when == "in os.fork":
        monkeypatch.setattr(sys.modules[__name__], "allocated", 5000)
    gc.collect()
    cycle: list[Any] = [Session(REWRITTEN, "cpu", Level.DISABLED, threads=2)]
    cycle.append(cycle)
    del cycle
    before = time.monotonic()
    run(lambda _: gc.collect())
    assert time.monotonic() - before < 30
    assert gc.isenabled()
    assert gc.collect() > 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it sets what glibc has")
def test_a_fork_keeps_the_memory_that_it_frees() -> None:
    """Each round after the first takes no page anew: glibc alone would map all of them again."""

    def pages_of_each_round(_told: Progress) -> list[int]:
        counts = []
        for _ in range(10):
            arrays = [np.ones(size) for _ in range(8)]
            del arrays
            counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        return [int(count) for count in np.diff(counts)]

    size = 3 * 2**17  # 3 MiB: for larger arrays, numpy asks for huge pages
    in_all = 8 * 8 * size // resource.getpagesize()
    assert max(isolated(pages_of_each_round, nothing)) < in_all / 8


def test_a_fork_that_computes_does_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "STALLED_SECONDS", 0.5)

    def work(_: Progress) -> int:
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            pass
        return os.getpid()

    assert run(work)[0] != os.getpid()


def test_a_fork_that_waits_for_less_is_waited_for() -> None:
    def work(_: Progress) -> int:
        time.sleep(1.3)
        return os.getpid()

    assert run(work)[0] != os.getpid()


def test_where_there_is_no_fork_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_CAN_FORK", False)

    def work(told: Progress) -> int:
        told("here")
        return os.getpid()

    assert run(work) == (os.getpid(), ["here"])


# --- The host -------------------------------------------------------------------------------------

HANDLED = [signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD]


def test_the_hosts_timer_and_signal_handlers_stay_as_they_are() -> None:
    def handler(*_: object) -> None:
        raise AssertionError("the timer has not run out")

    before = {number: signal.signal(number, handler) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.setitimer(signal.ITIMER_REAL, 50, 30)

    def work(_: Progress) -> str:
        previous = signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        return str(previous)

    try:
        handlers = [signal.getsignal(number) for number in HANDLED]
        run(work)
        with pytest.raises(CrashedError):
            run(abort)
        assert [signal.getsignal(number) for number in HANDLED] == handlers
        left, interval = signal.getitimer(signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, previous in before.items():
            signal.signal(number, previous)
    assert 40 < left < 50
    assert interval == 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_hosts_handlers_do_not_run_in_the_fork(number: signal.Signals, tmp_path: Path) -> None:
    """They may clean up what is still in use."""
    before = signal.signal(number, lambda *_: (tmp_path / "cleaned").touch())

    def work(told: Progress) -> None:
        told("working")
        os.kill(os.getpid(), number)
        time.sleep(0.2)

    try:
        with pytest.raises((CrashedError, KeyboardInterrupt)):
            run(work)
    finally:
        signal.signal(number, before)
    assert not list(tmp_path.iterdir())


def test_a_fork_that_is_interrupted_interrupts_the_host() -> None:
    """Ctrl-C reaches it first, and is no crash."""

    def work(told: Progress) -> None:
        told("working")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        run(work)


def test_it_works_within_threads_at_the_same_time() -> None:
    results: dict[int, Any] = {}

    def work(number: int) -> Any:
        def inner(told: Progress) -> tuple[int, int]:
            told(f"{number}")
            return number, os.getpid()

        return inner

    def call(number: int) -> None:
        results[number] = run(work(number))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: (found[0], told) for number, (found, told) in results.items()} == {
        number: (number, [f"{number}"]) for number in range(4)
    }
    assert len({found[1] for found, _ in results.values()} - {os.getpid()}) == 4


def test_no_file_descriptor_stays_open() -> None:
    def fail(_: Progress) -> None:
        raise ValueError("no")

    run(nothing)
    gc.collect()  # what other tests have left
    before = descriptors()
    for call in range(50):
        if call % 3 == 0:
            run(nothing)
        elif call % 3 == 1:
            with pytest.raises(ValueError, match="no"):
                run(fail)
        else:
            with pytest.raises(CrashedError):
                run(lambda _: os._exit(1))
    assert descriptors() == before


def test_it_can_be_nested() -> None:
    def work(told: Progress) -> Any:
        def inside(inner: Progress) -> int:
            inner("inner")
            return os.getpid()

        return isolated(inside, told), os.getpid()

    (inner, outer), told = run(work)
    assert len({inner, outer, os.getpid()}) == 3
    assert told == ["inner"]


def test_what_was_printed_before_is_printed_once() -> None:
    script = (
        "from bnfold.running.isolation import isolated\n"
        "print('before')\n"
        "isolated(lambda told: None, print)\n"
        "print('after')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "before\nafter\n"


# --- While this process goes on -------------------------------------------------------------------


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_work_goes_on_while_nobody_asks_for_it(tmp_path: Path) -> None:
    """Also if it reports more than a pipe holds by default."""

    def work(told: Progress) -> int:
        for step in range(2000):
            told(f"step {step} " + "." * 100)
        (tmp_path / "done").touch()
        return os.getpid()

    told: list[str] = []
    with Forked(work) as forked:
        wait_for(tmp_path / "done")
        assert not told
        assert forked.result(told.append) != os.getpid()
    assert len(told) == 2000


def test_work_ends_with_its_context(tmp_path: Path) -> None:
    def work(_: Progress) -> None:
        (tmp_path / "begun").touch()
        time.sleep(600)

    with Forked(work):
        wait_for(tmp_path / "begun")
        assert children()
    with pytest.raises(KeyError), Forked(work):
        raise KeyError


def test_two_at_the_same_time(tmp_path: Path) -> None:
    """Either waits for what the other has written."""

    def work(own: str, other: str) -> int:
        (tmp_path / own).touch()
        wait_for(tmp_path / other)
        return os.getpid()

    with Forked(lambda _: work("a", "b")) as one, Forked(lambda _: work("b", "a")) as other:
        assert len({one.result(nothing), other.result(nothing), os.getpid()}) == 3


def test_a_crash_is_told_when_the_result_is_asked_for() -> None:
    with Forked(abort) as forked, pytest.raises(CrashedError, match="SIGABRT"):
        forked.result(nothing)


def test_where_there_is_no_fork_work_begins_when_its_result_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolation, "_CAN_FORK", False)
    begun: list[int] = []
    with Forked(lambda _: begun.append(os.getpid())) as forked:
        assert not begun
        forked.result(nothing)
    assert begun == [os.getpid()]


@pytest.mark.parametrize("refused", ["pipe", "fork"])
def test_what_the_system_refuses_is_done_here(
    monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse() -> None:
        raise OSError

    before = descriptors()
    monkeypatch.setattr(os, refused, refuse)
    with Forked(lambda _: os.getpid()) as forked:
        assert forked.result(nothing) == os.getpid()
    monkeypatch.undo()
    assert descriptors() == before


def test_an_interrupt_that_has_waited_for_the_fork_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes as soon as signals are no longer blocked."""

    def interrupted(how: int, signals: Any) -> Any:
        found = mask(how, signals)
        if how == signal.SIG_SETMASK and os.getpid() == here:
            raise KeyboardInterrupt
        return found

    here, mask, before = os.getpid(), signal.pthread_sigmask, descriptors()
    monkeypatch.setattr(signal, "pthread_sigmask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Forked(lambda _: time.sleep(60))
    monkeypatch.undo()
    assert descriptors() == before
