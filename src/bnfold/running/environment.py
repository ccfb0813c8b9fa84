"""The machine and the libraries that a run depends on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

RUNTIME_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
"""The packages that provide the module ``onnxruntime``."""


def environment(plugins: Sequence[str] = (), **at_start: Any) -> dict[str, Any]:
    """Describe the machine and the libraries, including onnxruntime if the run has used it.

    `at_start` is what was found out before the run itself changed it.
    """
    import onnx

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _processor(),
        "processors": available_threads(),
        "affinity": affinity(),
        "onnx": onnx.__version__,
        "onnxruntime": _runtime(),
        **({"plugins": list(plugins)} if plugins else {}),
        **at_start,
    }


def available_threads() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def affinity() -> str | None:
    """Return which processors this process may use, as in "0-3,6"; None if the system hides it."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    numbers = sorted(os.sched_getaffinity(0))
    first = [number for number in numbers if number - 1 not in numbers]
    last = [number for number in numbers if number + 1 not in numbers]
    ranges = zip(first, last, strict=True)
    return ",".join(f"{low}-{high}" if low < high else f"{low}" for low, high in ranges)


def complaint_on_semaphores() -> str:
    """Say why joblib can start no processes, which share semaphores; "" if it can."""
    if sys.platform == "win32":
        return ""
    import multiprocessing

    try:
        multiprocessing.get_context("fork").Lock()
    except (ImportError, OSError) as error:  # ImportError: the system has none
        cause = (error.strerror if isinstance(error, OSError) else None) or error
        return (
            f"processes cannot share semaphores: {cause}; on Linux, /dev/shm must be there, and "
            "have room that can be written to"
        )
    return ""


def load_average() -> float | None:
    """Return how many processes wanted a processor in the last minute, on average, if it is known.

    Windows does not say.
    """
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def kind_of_machine() -> str:
    """Describe what of this machine timings depend on."""
    cores = available_threads()
    runtime = " and ".join(installed_runtimes()) or "no onnxruntime"
    return f"{_processor()}, {cores} {'core' if cores == 1 else 'cores'}, {runtime}"


def installed_runtimes() -> list[str]:
    """Return those of `RUNTIME_PACKAGES` that are installed, with their versions."""
    return list(_runtimes_on(tuple(sys.path)))


@lru_cache(maxsize=1)
def _runtimes_on(_: tuple[str, ...]) -> list[str]:
    """Ask once for each search path: that takes a tenth as long as to rewrite a small model."""
    installed = []
    for package in RUNTIME_PACKAGES:
        try:
            installed.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return installed


def _runtime() -> dict[str, Any] | None:
    runtime = sys.modules.get("onnxruntime")
    if runtime is None or not hasattr(runtime, "InferenceSession"):
        return None
    return {
        "package": " and ".join(installed_runtimes()) or "unknown",
        "version": runtime.__version__,
        "providers": list(runtime.get_available_providers()),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()
