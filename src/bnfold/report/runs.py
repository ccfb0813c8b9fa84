"""Several runs side by side: a row for each, the same in every rendering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from bnfold.record.data import Record, SpeedRecord
from bnfold.report.certificates import certified_of
from bnfold.report.figures import in_units
from bnfold.report.summary import headline, main_speed, tone_of, worst_share
from bnfold.report.wording import interval, milliseconds, percent, shortened, when


@dataclass(frozen=True)
class RunRow:
    """What a run came to; what does not apply is a dash."""

    name: str
    verdict: str
    tone: str
    certified: str
    """How many rewrites are certified."""
    share: str
    """The share of its tolerance that the worst element uses."""
    speed: str
    speed_tone: str
    ms: str
    nodes: str
    parameters: str
    megabytes: str
    when: str
    anchor: str
    """What the anchors of its part of a page begin with."""


def run_rows(records: Sequence[Record]) -> list[RunRow]:
    """Return a row for each run. Models of one file name are told apart by their folders."""
    names = _names(records)
    return [
        _row(record, name, f"run-{number}-")
        for number, (record, name) in enumerate(zip(records, names, strict=True), 1)
    ]


def verdicts_of(rows: Sequence[RunRow]) -> list[tuple[str, int]]:
    """Count the runs by verdict, the most frequent first."""
    return Counter(row.verdict for row in rows).most_common()


def tone_of_all(rows: Sequence[RunRow]) -> str:
    """Return the tone of the worst run."""
    tones = {row.tone for row in rows}
    return next((tone for tone in ("bad", "open", "neutral") if tone in tones), "good")


def _row(record: Record, name: str, anchor: str) -> RunRow:
    first = headline(record)
    second = record.output or record.candidate
    speed = main_speed(record) if record.speed else None
    equivalence = record.equivalence
    is_tried = any(rewrite.certificate is not None for rewrite in record.rewrites)
    sizes = [record.model.bytes, *([second.bytes] if second is not None else [])]
    sizes = [each.bytes for each in record.figures] or sizes
    nodes = [record.model.nodes, *([second.nodes] if second is not None else [])]
    times = [speed.original_ms, speed.optimized_ms] if speed is not None else []
    return RunRow(
        name=name,
        verdict=first.verdict,
        tone=first.tone,
        certified=certified_of(record.rewrites) if is_tried else "–",
        share=percent(worst_share(equivalence) if equivalence is not None else None),
        speed=_ratio(speed),
        speed_tone=tone_of(speed.verdict if speed is not None else None),
        ms=_change([milliseconds(ms) for ms in times if ms is not None]),
        nodes=_change([f"{number:,}" for number in nodes]),
        parameters=in_units(*(each.parameters for each in record.figures))
        if record.figures
        else "–",
        megabytes=_change([f"{size / 1e6:.4g}" for size in sizes]),
        when=when(record.started, record.seconds) or "–",
        anchor=anchor,
    )


def _ratio(speed: SpeedRecord | None) -> str:
    """Return how many times as fast the second model is; a ratio without an interval is none."""
    if speed is None or speed.speedup is None:
        return "–"
    return interval(speed.speedup, speed.ci95) if speed.ci95 else "not measured"


def _change(texts: Sequence[str]) -> str:
    """Join what is before and after, once if both are the same."""
    return " → ".join(dict.fromkeys(texts)) or "–"


def _names(records: Sequence[Record]) -> list[str]:
    models = [
        [model.path or "in memory" for model in (record.model, record.candidate) if model]
        for record in records
    ]
    long = [" and ".join(paths) for paths in models]
    short = [" and ".join(PurePath(path).name for path in paths) for paths in models]
    unique = Counter(short)
    return [path if unique[name] > 1 else name for path, name in zip(long, short, strict=True)]


def title_of(rows: Sequence[RunRow]) -> str:
    """Return a title for a page: how many runs of each verdict."""
    parts = ", ".join(f"{number} {verdict}" for verdict, number in verdicts_of(rows))
    return f"{parts}: {', '.join(shortened(row.name, 60) for row in rows)}"
