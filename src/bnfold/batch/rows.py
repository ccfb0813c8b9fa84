"""Makes a row of the index from the record of a run, or from why there is none."""

from __future__ import annotations

from collections.abc import Sequence

from bnfold.errors import INTERNAL_ERROR, BnfoldError, error_line
from bnfold.record.batch import Row, Speed
from bnfold.record.data import Record, SpeedRecord
from bnfold.report.certificates import certificate_summary, certified, is_change_of_meaning
from bnfold.report.summary import verdict_of


def row_of(
    name: str,
    model: str,
    record: Record | None,
    error: BaseException | None,
    data_bytes: int = 0,
) -> Row:
    """Return what there is to say of a run; `data_bytes` is the size of the external data."""
    exit_code, reason = told(error)
    if record is None:
        return Row(name, model, exit_code, "failed", reason)
    output = record.output
    assert output is not None
    summary = certificate_summary(record)
    before, after = record.model.ops, output.ops
    return Row(
        name=name,
        model=model,
        exit_code=exit_code,
        verdict=verdict_of(record) if exit_code != 6 else "too slow",
        reason=reason,
        rewrites=len(record.rewrites),
        certified=certified(record.rewrites),
        requested=sum(map(is_change_of_meaning, record.rewrites)),
        certificates=str(summary) if summary is not None else "",
        batchnorm=[ops.get("BatchNormalization", 0) for ops in (before, after)],
        nodes=[record.model.nodes, output.nodes],
        bytes=[record.model.bytes + data_bytes, output.bytes + output.data_bytes],
        speed_note=record.speed_note,
    )


def told(error: BaseException | None) -> tuple[int, str]:
    """Return the exit code of a failure, and a line that says what failed."""
    if error is None:
        return 0, ""
    if isinstance(error, BnfoldError):
        return error.exit_code, error_line(error.on_command_line)
    if isinstance(error, MemoryError):
        return INTERNAL_ERROR, "out of memory"
    what = f"unexpected {type(error).__name__}: {error}"
    return INTERNAL_ERROR, error_line(f"{what}; please report it, with what bnfold optimize says")


def speeds_of(speed: Sequence[SpeedRecord], machine: str, page: str) -> list[Speed]:
    """Return timings for a row."""
    return [
        Speed(
            machine=machine,
            provider=each.provider,
            level=each.level,
            original_ms=each.original_ms,
            optimized_ms=each.optimized_ms,
            speedup=each.speedup,
            ci95=each.ci95,
            verdict=each.verdict or "",
            page=page,
        )
        for each in speed
    ]
