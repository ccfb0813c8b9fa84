"""What a run came to, in a few lines: the headline of every rendering."""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.record.data import Culprit, Equivalence, OutputComparison, Record, SpeedRecord
from bnfold.report.certificates import certificate_summary
from bnfold.report.changes import operator_changes, operators_after
from bnfold.report.wording import count, interval, percent, shortened, sizes

LONGEST_REASON = 400
"""The most characters of a reason in the headline."""

_TONES = {
    "pass": "good",
    "certified": "good",
    "identical": "good",
    "fail": "bad",
    "not-verified": "open",
    "faster": "good",
    "slower": "bad",
}
CERTIFIED = "while running both models could not decide"
"""What follows the verdict "certified", and is followed by the reason."""

_MOST_CHANGES = 3
_MOST_SPEEDS = 3


@dataclass(frozen=True)
class Headline:
    """The most important results. A line that does not apply is empty."""

    verdict: str
    tone: str
    """``good``, ``bad``, ``open`` or ``neutral``."""
    meaning: str
    certificates: str
    """How many rewrites are proven, and how exactly."""
    speed: list[str]
    """A line for each timing, full optimization first."""
    change: str


def headline(record: Record) -> Headline:
    """Summarize a record."""
    verdict = verdict_of(record)
    certificates = certificate_summary(record)
    return Headline(
        verdict=verdict,
        tone=tone_of(verdict),
        meaning=_meaning(record),
        certificates=str(certificates) if certificates is not None else "",
        speed=_speed_lines(record),
        change=_change_line(record),
    )


def verdict_of(record: Record) -> str:
    """Return the verdict in a word or two: on equivalence, else on speed."""
    if record.equivalence is not None:
        return record.equivalence.verdict
    if record.output is not None:
        return "not checked"
    if record.speed:
        return main_speed(record).verdict or "timed"
    return "explained"


def tone_of(verdict: str | None) -> str:
    """Return what a verdict means: ``good``, ``bad``, ``open`` or ``neutral``."""
    return _TONES.get(verdict or "", "neutral")


def subject_of(record: Record) -> str:
    """Return what to call the second model, which may come from any tool."""
    return "candidate" if record.candidate is not None else "optimized model"


def _meaning(record: Record) -> str:
    equivalence, subject = record.equivalence, subject_of(record)
    if equivalence is None:
        if record.output is not None:
            return "not compared with the original (--no-check)"
        if record.speed:
            main = main_speed(record)
            return f"{main.provider}, {level_text(main.level)}"
        return "what optimize would do; nothing was written"
    if equivalence.verdict == "identical":
        return "nothing to rewrite: the output is identical to the input"
    if equivalence.verdict == "pass":
        share = worst_share(equivalence)
        worst = f"; the worst element uses {percent(share)} of its tolerance"
        where = " and ".join(provider.provider for provider in equivalence.providers)
        outputs = sum(len(provider.outputs) for provider in equivalence.providers[:1])
        open_ones = sum(len(provider.inconclusive) for provider in equivalence.providers[:1])
        inconclusive = f", {open_ones:,} inconclusive" if open_ones else ""
        unsettled = sum(len(provider.unsettled) for provider in equivalence.providers)
        excluded = f"; {count(unsettled, 'comparison')} excluded" if unsettled else ""
        return (
            f"the {subject} computes the same values as the original: "
            f"{count(outputs, 'output')} on {where}{inconclusive}"
            f"{worst if share is not None else ''}{_by_float64(equivalence)}{excluded}"
        )
    culprit = culprit_of(equivalence)
    because = ""
    if culprit is not None and not culprit.is_certified:
        because = f", because of {culprit.pass_name} at {shortened(culprit.site)}"
    opening = {
        "fail": f"the {subject} computes different values",
        "certified": f"each {'rewrite' if record.rewrites else 'output'} is proven, {CERTIFIED}",
    }.get(equivalence.verdict, "equivalence could not be decided")
    return f"{opening}{because}: {shortened(equivalence.reason, LONGEST_REASON)}"


def culprit_of(equivalence: Equivalence) -> Culprit | None:
    """Return the rewrite that makes the check fail, if one was found and not dropped."""
    return next((culprit for culprit in equivalence.culprits if not culprit.dropped), None)


def worst_share(equivalence: Equivalence) -> float | None:
    """Return the largest share of its tolerance that an element uses, at any level.

    Outputs that pass by float64 instead do not count. None if it is not known of some other output.
    """
    shares = [
        share_of_tolerance(output)
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
        if not output.by_float64
    ]
    known = [share for share in shares if share is not None]
    return max(known, default=None) if len(known) == len(shares) else None


def share_of_tolerance(output: OutputComparison) -> float | None:
    """Return the share of its tolerance that the worst element uses.

    Return None if no tolerance would pass, or if elements beyond it are ignored.
    """
    needed, allowed = output.needed, output.tolerance
    if needed is None or output.excused:
        return None
    shares = [
        used / limit
        for used, limit in ((needed.atol, allowed.atol), (needed.rtol, allowed.rtol))
        if limit > 0
    ]
    return max(shares, default=0.0)


def _by_float64(equivalence: Equivalence) -> str:
    names = {
        (provider.provider, output.name)
        for provider in equivalence.providers
        for level in provider.levels
        for output in level.outputs
        if output.by_float64
    }
    if not names:
        return ""
    exceed = "exceeds its" if len(names) == 1 else "exceed their"
    why = "the original's own rounding is as large"
    return f"; {count(len(names), 'output')} {exceed} tolerance, but {why}"


# --- Speed ----------------------------------------------------------------------------------------


def main_speed(record: Record) -> SpeedRecord:
    """Return the timing with full optimization, onnxruntime's default."""
    return next((speed for speed in record.speed if speed.level == "all"), record.speed[0])


def level_text(level: str) -> str:
    """Describe an optimization level of onnxruntime."""
    texts = {"all": "all onnxruntime optimizations", "disabled": "no onnxruntime optimizations"}
    return texts.get(level, f"onnxruntime optimization {level}")


def _speed_lines(record: Record) -> list[str]:
    notes = [record.speed_note] if record.speed_note else []
    several = len({(speed.provider, str(speed.shapes)) for speed in record.speed}) > 1
    lines = []
    for speed in record.speed[:_MOST_SPEEDS]:
        shapes = ", ".join(sizes(shape) for shape in speed.shapes.values())
        where = f"{speed.provider}, {shapes}, {level_text(speed.level)}"
        where = where if several else level_text(speed.level)
        if speed.speedup is None:
            lines.append(f"{speed.original_ms:.4g} ms, {where}")
        elif speed.ci95 is None:
            note = f" ({speed.note})" if speed.note else ""
            lines.append(f"{speed.verdict}{note}, {where}")
        else:
            ratio = interval(speed.speedup, speed.ci95)
            verdict = f"{speed.verdict}, " if speed.verdict else ""
            lines.append(f"{ratio} times as fast: {verdict}{where}")
    more = len(record.speed) - len(lines)
    return [*lines, *([f"and {more} more"] if more > 0 else []), *notes]


def machine_line(record: Record) -> str:
    """Say how many processors there are for timings, and whether others use them, too."""
    processors, load = (record.environment.get(key) for key in ("processors", "load"))
    if not record.speed or not isinstance(processors, int):
        return ""
    where = count(processors, "processor")
    if not isinstance(load, (int, float)):
        return where
    if load > processors:
        return f"the machine is busy: load {load:.1f} on {where} at the start"
    return f"{where}, load {load:.1f} at the start"


# --- What changed ---------------------------------------------------------------------------------


def _change_line(record: Record) -> str:
    kept = _kept(record)
    after = operators_after(record)
    if after is None:
        rewritten = f"{count(len(record.rewrites), 'rewrite')} would be made"
        is_explained = bool(record.rewrites or record.refusals)
        return ", ".join([rewritten, *([kept] if kept else [])]) if is_explained else ""
    *changes, total = operator_changes(record.model.ops, after)
    changes.sort(key=lambda change: -abs(change.after - change.before))
    parts = [f"{shortened(c.name)} {c.before} → {c.after}" for c in changes[:_MOST_CHANGES]]
    by = ""
    if record.output is not None and record.rewrites:
        passes = len({rewrite.pass_name for rewrite in record.rewrites})
        by = f"{count(len(record.rewrites), 'rewrite')} by {count(passes, 'pass')}: "
    nodes = f"{by}nodes {total.before:,} → {total.after:,}"
    return "; ".join([", ".join([nodes, *parts]), *([kept] if kept else [])])


def _kept(record: Record) -> str:
    """Describe how many candidates are kept, and how many rewrites were dropped."""
    culprits = record.equivalence.culprits if record.equivalence is not None else []
    dropped = sum(culprit.dropped for culprit in culprits)
    parts = [f"{count(len(record.refusals), 'candidate')} kept"] if record.refusals else []
    parts += [f"{count(dropped, 'rewrite')} dropped after the check failed"] if dropped else []
    return ", ".join(parts)
