"""Failures that a user can act on. Each is one line of text and one exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfold.record.data import Record


class BnfoldError(Exception):
    """A failure with one line for the user. `exit_code` is what the command returns."""

    exit_code = 2

    def __init__(self, message: str, record: Record | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.record = record


class UsageError(BnfoldError):
    """What was asked for makes no sense: an unknown pass, an output that cannot be written."""

    exit_code = 2


class ModelError(BnfoldError):
    """The model cannot be read, is invalid, or holds something bnfold does not support."""

    exit_code = 3


class ProviderError(BnfoldError):
    """A requested execution provider is not available; the message is the diagnosis."""

    exit_code = 4


class NotEquivalentError(BnfoldError):
    """The optimized model computes something else. Nothing was written."""

    exit_code = 1


class SessionError(BnfoldError):
    """onnxruntime cannot load or run the model."""

    exit_code = 5


class TooSlowError(BnfoldError):
    """The optimized model is not as much faster as was required. Nothing was written."""

    exit_code = 6


class PassFailedError(BnfoldError):
    """A bug of a pass: it raised something other than a refusal, or never came to an end."""

    exit_code = 70


class NotVerifiedError(BnfoldError):
    """Equivalence could be neither shown nor refuted. Nothing was written."""

    exit_code = 5
