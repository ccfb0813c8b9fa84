"""What the certificates of all rewrites say of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bnfold.options import CheckOptions, InputOptions
from bnfold.progress import Progress
from bnfold.proof.verdict import is_narrow, of_all
from bnfold.record.data import (
    Certificate,
    Culprit,
    Difference,
    Equivalence,
    ModelCertificate,
    RewriteRecord,
    Worst,
)
from bnfold.text import told_apart
from bnfold.workflow.windows import Cut

_CLOSE = 5 * 2.0**-24
"""In units of a row of weights: the roundings of one that two tools have folded in float32."""


def with_proofs(
    rewrites: Sequence[RewriteRecord],
    cuts: Sequence[Cut],
    seconds: float,
    processes: int,
    progress: Progress,
) -> list[RewriteRecord]:
    """Return the rewrites with their certificates, each proven by itself on its window."""
    from bnfold.proof.certificates.in_turn import (
        certify_all,  # slow to import: `check` proves in a fork
    )

    def by_need(index: int) -> tuple[bool, int]:
        """What rounds comes first, for there is most to prove; and what is small."""
        return rewrites[index].exactness == "bitwise", cuts[index].nbytes

    order = sorted(range(len(cuts)), key=by_need)
    windows = [cuts[index].windows for index in order]
    certificates = certify_all(windows, seconds, progress, processes=processes)
    proofs = dict(zip(order, certificates, strict=True))
    return [replace(one, certificate=proofs[place]) for place, one in enumerate(rewrites)]


def differing(rewrites: Sequence[RewriteRecord]) -> Culprit | None:
    """Return the first rewrite whose window differs, as what the check fails with."""
    for rewrite in rewrites:
        certificate = rewrite.certificate
        if certificate is not None and certificate.worst is not None:
            difference = certificate.worst
            return Culprit(
                pass_name=rewrite.pass_name,
                site=rewrite.site,
                nodes=rewrite.nodes,
                detail=rewrite.detail,
                reason=_described(rewrite, difference),
                output=difference.output,
                worst=_worst(difference),
                dropped=False,
                is_certified=True,
            )
    return None


def _described(rewrite: RewriteRecord, difference: Difference) -> str:
    what = f"{rewrite.pass_name} at {rewrite.site!r} changes {difference.output!r}"
    if difference.mismatch or difference.before is None or difference.after is None:
        return f"{what}: {difference.mismatch or 'the two cannot be compared'}"
    before, after = told_apart(difference.before, difference.after)
    place = f" at {difference.index}" if difference.index else ""
    return f"{what}{place}: {before} before, {after} after"


def _worst(difference: Difference) -> Worst | None:
    if difference.before is None or difference.after is None:
        return None
    return Worst(0, difference.index, difference.before, difference.after)


def with_certificates(
    equivalence: Equivalence,
    rewrites: Sequence[RewriteRecord],
    checking: CheckOptions,
    inputs: InputOptions,
) -> Equivalence:
    """Return the verdict on a model, all of whose rewrites have been tried to be certified.

    Where no run of the whole model decides, certificates for all rewrites do, unless certain inputs
    were asked for. Where certificates were asked for, each of them is needed.
    """
    open_ones = [rewrite for rewrite in rewrites if not _is_certified(rewrite.certificate)]
    may_decide = checking.certify != "off" and not inputs.are_given
    if equivalence.verdict == "not-verified" and not open_ones and may_decide:
        return replace(equivalence, verdict="certified")
    if equivalence.verdict == "pass" and open_ones and checking.certify == "always":
        first = open_ones[0]
        why = first.certificate.note if first.certificate is not None else ""
        reason = f"{len(open_ones)} of {len(rewrites)} rewrites could not be certified, "
        reason += f"{first.pass_name} at {first.site!r} among them"
        return replace(
            equivalence, verdict="not-verified", reason=f"{reason}: {why}" if why else reason
        )
    return equivalence


def may_be_narrow(equivalence: Equivalence) -> bool:
    """Say whether a certificate may let models pass that fail."""
    failed = [each for each in equivalence.providers if each.verdict == "fail"]
    return equivalence.verdict == "fail" and all(map(is_narrow, failed))


def _without_narrow_failures(equivalence: Equivalence) -> Equivalence:
    if not may_be_narrow(equivalence):
        return equivalence
    providers = [
        replace(provider, verdict="pass", reason="", narrow=True)
        if is_narrow(provider)
        else provider
        for provider in equivalence.providers
    ]
    verdict, reason = of_all(providers)
    return replace(equivalence, verdict=verdict, reason=reason, providers=providers)


def _is_certified(certificate: Certificate | None) -> bool:
    return certificate is not None and certificate.verdict == "certified"


def with_certificate(
    equivalence: Equivalence,
    certificate: ModelCertificate | None,
    checking: CheckOptions,
    inputs: InputOptions,
) -> Equivalence:
    """Return the verdict on two models of which the outputs have been tried to be certified."""
    equivalence = replace(equivalence, certificate=certificate)
    is_proven = certificate is not None and not certificate.open
    is_close = is_proven and certificate is not None and (certificate.bound or 0) <= _CLOSE
    if equivalence.verdict == "fail" and is_close:
        return _without_narrow_failures(equivalence)
    may_decide = checking.require == "certified" and not inputs.are_given
    if equivalence.verdict == "not-verified" and is_proven and may_decide:
        return replace(equivalence, verdict="certified")
    if equivalence.verdict == "pass" and not is_proven and checking.certify == "always":
        if certificate is None:
            why = "the models could not be certified"
        else:
            why = f"output {certificate.open[0].output!r} could not be certified: "
            why += certificate.open[0].reason
        return replace(equivalence, verdict="not-verified", reason=why)
    return equivalence
