"""Failures that a user can act on: one line of text and one exit code each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfold.record.data import Record


class BnfoldError(Exception):
    """A failure with a one-line message; the command exits with its `exit_code`."""

    exit_code = 2

    def __init__(self, message: str, record: Record | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.record = record


class UsageError(BnfoldError):
    """The request is invalid, such as an unknown pass or an output that cannot be written."""

    exit_code = 2


class ModelError(BnfoldError):
    """The model cannot be read, is invalid, or contains anything bnfold does not support."""

    exit_code = 3


class ProviderError(BnfoldError):
    """A requested execution provider is not available; the message says why."""

    exit_code = 4


class NotEquivalentError(BnfoldError):
    """The optimized model computes other values. Nothing was written."""

    exit_code = 1


class SessionError(BnfoldError):
    """onnxruntime cannot load or run the model."""

    exit_code = 5


class TooSlowError(BnfoldError):
    """The optimized model misses the required speed-up. Nothing was written."""

    exit_code = 6


class PassFailedError(BnfoldError):
    """A bug in a pass: it raised anything but a refusal, or did not terminate."""

    exit_code = 70


class NotVerifiedError(BnfoldError):
    """Equivalence could be neither confirmed nor refuted. Nothing was written."""

    exit_code = 5
