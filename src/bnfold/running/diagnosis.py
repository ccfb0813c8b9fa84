"""What of this machine and its packages works, piece by piece."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bnfold.errors import ProviderError
from bnfold.options import PROVIDER_CHOICES
from bnfold.running.environment import (
    available_threads,
    complaint_on_semaphores,
    installed_runtimes,
)
from bnfold.running.runtime import require_provider
from bnfold.version import __version__

_REQUIRED = ("onnx", "onnx-ir", "numpy", "typer", "rich", "jinja2", "ml-dtypes", "threadpoolctl")
_PACKAGES = (*_REQUIRED, "matplotlib")


@dataclass(frozen=True)
class Finding:
    """Whether one thing works, and what is to be said of it."""

    name: str
    works: bool
    detail: str


def versions() -> dict[str, str]:
    """Return the versions of bnfold and of what it depends on; those that are installed."""
    found = {"bnfold": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | dict(runtime.split(" ", 1) for runtime in installed_runtimes())


def diagnose() -> Iterator[Finding]:
    """Yield what is found of the packages, the providers, the processors and the folders."""
    found = versions()
    for name, number in found.items():
        yield Finding(name, True, number)
    for name in _REQUIRED:
        if name not in found:
            yield Finding(name, False, f"not installed; try: pip install {name}")
    for provider in PROVIDER_CHOICES:
        try:
            require_provider(provider)
        except ProviderError as error:
            yield Finding(f"provider {provider}", False, str(error))
        else:
            yield Finding(f"provider {provider}", True, "available")
    yield Finding("processors", True, f"{available_threads()} of {os.cpu_count()} may be used")
    yield _folder("this folder", Path.cwd)
    yield _folder("temporary files", lambda: Path(tempfile.gettempdir()))
    complaint = complaint_on_semaphores()
    yield Finding("semaphores", not complaint, complaint or "available to bnfold batch")


def _folder(name: str, find: Callable[[], Path]) -> Finding:
    """Try to make a file in a folder."""
    try:
        place = find()
        with tempfile.NamedTemporaryFile(dir=place):
            return Finding(name, True, f"{place} can be written to")
    except OSError as error:
        return Finding(name, False, f"{error}; for temporary files, set TMPDIR to another folder")
