"""Why a rewritten model is not written."""

from __future__ import annotations

from bnfold.errors import BnfoldError, NotEquivalentError, NotVerifiedError, parameter
from bnfold.record.data import Equivalence


def rejection(equivalence: Equivalence | None, require: str) -> BnfoldError | None:
    """Return why a model that was checked so is not written; None if it is, or was not checked."""
    if equivalence is None or equivalence.verdict in ("pass", "identical"):
        return None
    if equivalence.verdict == "certified":
        if require == "certified":
            return None
        return NotVerifiedError(
            f"every rewrite is certified, but {parameter('require')} pass asks for a check of the "
            f"whole model, so nothing was written: {equivalence.reason}"
        )
    if equivalence.verdict == "fail":
        cause = ""
        for culprit in equivalence.culprits[-1:]:
            name = f"{culprit.pass_name} at {culprit.site!r}"
            by = "" if name in equivalence.reason else f"caused by {name}, "
            cause = f"; {by}which {parameter('drop_culprit')} leaves out"
        return NotEquivalentError(
            f"not equivalent, so nothing was written: {equivalence.reason}{cause}"
        )
    return NotVerifiedError(
        f"could not be verified, so nothing was written: {equivalence.reason}; "
        f"{parameter('check=False')} writes it anyway"
    )
