"""What all renderings say of certificates: how many there are, of which kind, what they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bnfold.record.data import (
    Certificate,
    Difference,
    ModelCertificate,
    Record,
    RewriteRecord,
)
from bnfold.report.wording import at_most, shortened
from bnfold.text import told_apart

_LONGEST_NOTE = 160

_BITWISE = ("constant", "copying")

MEANINGS = {
    "differs": "At one input at least, the two sides compute different values.",
    "open": "Neither a proof nor a difference was found; the note says why.",
    "sampled": "Nothing is proven: on random inputs, the two sides differ by rounding at most.",
    "constant": "With all that depends on constants alone computed, both sides are the same "
    "operators on the same bits.",
    "copying": "All outputs are elements of the inputs. Inputs of distinct values show that both "
    "sides copy the same ones, bit by bit.",
    "weights": "Both sides apply the same linear operators, scaled and shifted by channels. Their "
    "weights, with the scales in them, are compared number by number, at all sizes.",
    "linear": "Both sides are affine. Gaussian probes in float64 bound each row of the difference.",
    "maximum": "Both sides are maxima of affine functions, each of which is bounded as if linear.",
    "channels": "Both sides apply the same functions to the same channels, all that one of them "
    "has. What is between the functions is affine, and bounded as if it were alone.",
    "selection": "Both sides apply the same function to an element, or to the largest of the same "
    "elements: a grid of values shows the function, one-hot inputs show which elements.",
}
"""A sentence on each kind, and on each verdict that is no proof: these come first."""


@dataclass(frozen=True)
class CertificateSummary:
    """What the certificates of all rewrites show together."""

    lead: str
    how: list[str]
    """The parts of how exactly it holds."""
    others: list[str]
    """A sentence on those of each verdict that is no proof."""
    is_complete: bool

    def __str__(self) -> str:
        """Return all of it on one line."""
        how = f" ({', '.join(self.how)})" if self.how else ""
        return "; ".join([f"{self.lead}{how}", *self.others])


def certified(rewrites: Iterable[RewriteRecord]) -> int:
    """Return how many of these rewrites are certified."""
    found = (rewrite.certificate for rewrite in rewrites)
    return sum(each is not None and each.verdict == "certified" for each in found)


def is_change_of_meaning(rewrite: RewriteRecord) -> bool:
    """Say whether a rewrite changes the model's meaning on request, so that nothing is to prove."""
    return rewrite.exactness == "semantic" and rewrite.certificate is None


def certified_of(rewrites: Sequence[RewriteRecord]) -> str:
    """Return how many rewrites are certified, of those of which something is to prove."""
    total = sum(not is_change_of_meaning(rewrite) for rewrite in rewrites)
    return f"{certified(rewrites):,} of {total:,}"


def certificate_summary(record: Record) -> CertificateSummary | None:
    """Summarize the certificates of a record; None if there are none."""
    found = [(each, each.certificate) for each in record.rewrites if each.certificate is not None]
    if not found:
        whole = record.equivalence.certificate if record.equivalence is not None else None
        return _of_model(whole) if whole is not None else None
    proven = [certificate for _, certificate in found if certificate.verdict == "certified"]
    requested = sum(map(is_change_of_meaning, record.rewrites))
    total = len(record.rewrites) - requested
    for_all = " for all inputs" if proven else ""
    noun = "rewrite" if total == 1 else "rewrites"
    others = [
        _differing(record),
        _open(record, [each for _, each in found if each.verdict == "open"]),
    ]
    if sampled := sum(certificate.verdict == "sampled" for _, certificate in found):
        others.append(f"{sampled:,} sampled: no difference found, but no proof")
    if untried := total - len(found):
        others.append(f"{untried:,} not tried")
    if requested:
        verb = "changes" if requested == 1 else "change"
        others.append(
            f"{requested:,} more {verb} the model's meaning as requested: nothing to prove"
        )
    return CertificateSummary(
        lead=f"{certified_of(record.rewrites)} {noun} certified{for_all}",
        how=_exactness(proven),
        others=[other for other in others if other],
        is_complete=len(proven) == total,
    )


def _of_model(certificate: ModelCertificate) -> CertificateSummary:
    """Summarize how far two models, from any tool, are proven equal."""
    noun = "value" if certificate.values == 1 else "values"
    how = []
    if certificate.bound is not None:
        how.append(f"each to {at_most(certificate.bound)} of its row's norm")
    if certificate.doubt:
        how.append(f"with probability 1 − {at_most(certificate.doubt)}")
    names = ", ".join(shortened(each.output) for each in certificate.open[:3])
    more = f" and {len(certificate.open) - 3:,} more" if len(certificate.open) > 3 else ""
    others = []
    if certificate.open:
        reason = shortened(certificate.open[0].reason, _LONGEST_NOTE)
        others.append(f"not certified: {names}{more} ({reason})")
    return CertificateSummary(
        lead=f"{certificate.values:,} {noun} certified for all inputs",
        how=how,
        others=others,
        is_complete=not certificate.open,
    )


def _exactness(proven: Sequence[Certificate]) -> list[str]:
    """Say how exactly the proofs hold, all of them together."""
    kinds = {certificate.kind for certificate in proven}
    if kinds <= {*_BITWISE}:
        return ["bit by bit"] if proven else []
    bounds = [certificate.bound for certificate in proven if certificate.bound is not None]
    doubt = sum(certificate.doubt or 0.0 for certificate in proven)
    how = []
    if bounds:
        bound = max(bounds)
        how.append(
            f"each output to {at_most(bound)} of its row's norm"
            if bound
            else "no difference in float64"
        )
    if "selection" in kinds:
        how.append("selections to rounding" if bounds else "to rounding")
    return [*how, *([f"with probability 1 − {at_most(doubt)}"] if doubt else [])]


def _open(record: Record, certificates: Sequence[Certificate]) -> str:
    """Say how many are open, and why the first is, unless the verdict has said so."""
    if not certificates:
        return ""
    note = certificates[0].note
    is_said = record.equivalence is not None and note in record.equivalence.reason
    return f"{len(certificates):,} open" + (
        f": {shortened(note, _LONGEST_NOTE)}" if note and not is_said else ""
    )


def _differing(record: Record) -> str:
    """Say how many differ, and where the first does, unless a culprit says so."""
    rewrites = [
        rewrite
        for rewrite in record.rewrites
        if rewrite.certificate is not None and rewrite.certificate.verdict == "differs"
    ]
    if not rewrites:
        return ""
    number = f"{len(rewrites):,} {'differs' if len(rewrites) == 1 else 'differ'}"
    difference = _unsaid(record, rewrites[0])
    if difference is None:
        return number
    where = f"{rewrites[0].pass_name} at {shortened(rewrites[0].site)}"
    return f"{number}: {where}, {shortened(_described(difference), _LONGEST_NOTE)}"


def _unsaid(record: Record, rewrite: RewriteRecord) -> Difference | None:
    """Return where a rewrite differs, if it does and no culprit says so."""
    culprits = record.equivalence.culprits if record.equivalence is not None else []
    if (rewrite.pass_name, rewrite.site) in [(each.pass_name, each.site) for each in culprits]:
        return None
    return rewrite.certificate.worst if rewrite.certificate is not None else None


def _described(difference: Difference) -> str:
    place = f" at {difference.index}" if difference.index else ""
    if difference.mismatch or difference.before is None or difference.after is None:
        return f"{difference.output}{place}: {difference.mismatch or 'the two cannot be compared'}"
    return (
        f"{difference.output}{place}: {' → '.join(told_apart(difference.before, difference.after))}"
    )


# --- Each rewrite, and each kind ------------------------------------------------------------------


def kind_of(certificate: Certificate) -> str:
    """Return the kind of a proof, or the verdict if there is no proof: a key of `MEANINGS`."""
    return certificate.kind if certificate.verdict == "certified" else certificate.verdict


def certificate_note(record: Record, rewrite: RewriteRecord) -> str:
    """Return what is to be said of the certificate of a rewrite, beside its numbers."""
    difference = _unsaid(record, rewrite)
    certificate = rewrite.certificate
    parts = [certificate.note if certificate is not None else ""]
    parts += [_described(difference)] if difference is not None else []
    return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class CertificateGroup:
    """Certificates of one kind. Bound and doubt are those of the least exact one."""

    kind: str
    meaning: str
    number: int
    probes: int
    bound: float | None
    doubt: float | None
    seconds: float


def certificate_groups(rewrites: Sequence[RewriteRecord]) -> list[CertificateGroup]:
    """Group certificates by kind: what is no proof first, then the most frequent."""
    members: dict[str, list[Certificate]] = {}
    for rewrite in rewrites:
        if rewrite.certificate is not None:
            members.setdefault(kind_of(rewrite.certificate), []).append(rewrite.certificate)
    unproven = ("differs", "open", "sampled")
    return [
        CertificateGroup(
            kind=kind,
            meaning=MEANINGS.get(kind, ""),
            number=len(members[kind]),
            probes=sum(each.probes for each in members[kind]),
            bound=max((b for each in members[kind] if (b := each.bound) is not None), default=None),
            doubt=max((d for each in members[kind] if (d := each.doubt) is not None), default=None),
            seconds=sum(each.seconds for each in members[kind]),
        )
        for kind in sorted(members, key=lambda kind: (kind not in unproven, -len(members[kind])))
    ]
