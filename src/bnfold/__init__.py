"""bnfold folds BatchNormalization out of exported ONNX models, and proves the result.

    >>> import bnfold
    >>> result = bnfold.optimize("model.onnx", "model.bnfold.onnx")
    >>> result.record.equivalence.verdict
    'pass'

`optimize`, `check`, `bench` and `explain` do what the commands of the same names do, without
printing. Each failure is a `BnfoldError` with one line of text and the command's exit code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfold.api import InputRequest as InputRequest
    from bnfold.api import PassOptions as PassOptions
    from bnfold.api import Result as Result
    from bnfold.api import RunOptions as RunOptions
    from bnfold.api import TimingOptions as TimingOptions
    from bnfold.api import ToleranceRequest as ToleranceRequest
    from bnfold.api import bench as bench
    from bnfold.api import check as check
    from bnfold.api import explain as explain
    from bnfold.api import optimize as optimize
    from bnfold.errors import BnfoldError as BnfoldError
    from bnfold.errors import ModelError as ModelError
    from bnfold.errors import NotEquivalentError as NotEquivalentError
    from bnfold.errors import NotVerifiedError as NotVerifiedError
    from bnfold.errors import ProviderError as ProviderError
    from bnfold.errors import TooSlowError as TooSlowError
    from bnfold.errors import UsageError as UsageError

__version__ = "0.1.0"

_HOMES = {
    "bnfold.api": (
        "InputRequest",
        "PassOptions",
        "Result",
        "RunOptions",
        "TimingOptions",
        "ToleranceRequest",
        "bench",
        "check",
        "explain",
        "optimize",
    ),
    "bnfold.errors": (
        "BnfoldError",
        "ModelError",
        "NotEquivalentError",
        "NotVerifiedError",
        "ProviderError",
        "TooSlowError",
        "UsageError",
    ),
}

__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> object:
    """Import on first use: ``bnfold --help`` need not wait for onnx."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'bnfold' has no attribute {name!r}")
