"""bnfold folds BatchNormalization out of exported ONNX models, and verifies the result.

    >>> import bnfold
    >>> result = bnfold.optimize("model.onnx", "model.bnfold.onnx")
    >>> result.record.equivalence.verdict
    'pass'

`optimize`, `check`, `bench` and `explain` do what the commands of the same names do, without
printing. Each failure is a `BnfoldError` with one line of text and the command's exit code.
`RewritePass` runs the rewrites as one pass of an onnx_ir pipeline.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bnfold.version import __version__ as __version__

if TYPE_CHECKING:
    from bnfold.api import bench as bench
    from bnfold.api import check as check
    from bnfold.api import explain as explain
    from bnfold.api import inspect as inspect
    from bnfold.api import optimize as optimize
    from bnfold.errors import BnfoldError as BnfoldError
    from bnfold.errors import LoadError as LoadError
    from bnfold.errors import ModelError as ModelError
    from bnfold.errors import NotEquivalentError as NotEquivalentError
    from bnfold.errors import NotVerifiedError as NotVerifiedError
    from bnfold.errors import PassFailedError as PassFailedError
    from bnfold.errors import ProviderError as ProviderError
    from bnfold.errors import SessionError as SessionError
    from bnfold.errors import TooSlowError as TooSlowError
    from bnfold.errors import UsageError as UsageError
    from bnfold.options import CheckOptions as CheckOptions
    from bnfold.options import ExecutionOptions as ExecutionOptions
    from bnfold.options import InputOptions as InputOptions
    from bnfold.options import PassOptions as PassOptions
    from bnfold.options import StorageOptions as StorageOptions
    from bnfold.options import TimingOptions as TimingOptions
    from bnfold.record.data import Record as Record
    from bnfold.workflow.ir_pass import RewritePass as RewritePass
    from bnfold.workflow.result import Result as Result

_HOMES = {
    "bnfold.api": ("bench", "check", "explain", "inspect", "optimize"),
    "bnfold.errors": (
        "BnfoldError",
        "LoadError",
        "ModelError",
        "NotEquivalentError",
        "NotVerifiedError",
        "PassFailedError",
        "ProviderError",
        "SessionError",
        "TooSlowError",
        "UsageError",
    ),
    "bnfold.options": (
        "CheckOptions",
        "ExecutionOptions",
        "InputOptions",
        "PassOptions",
        "StorageOptions",
        "TimingOptions",
    ),
    "bnfold.record.data": ("Record",),
    "bnfold.workflow.ir_pass": ("RewritePass",),
    "bnfold.workflow.result": ("Result",),
}

__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> object:
    """Import on first use: ``bnfold --help`` need not wait for onnx."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'bnfold' has no attribute {name!r}")
