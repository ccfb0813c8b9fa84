"""Prints how fast models are: a table of timings, each with its control."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from bnfold.record.data import Record, SpeedRecord
from bnfold.report.figures import shown_time_rows
from bnfold.report.summary import machine_line
from bnfold.report.terminal.equivalence import placements
from bnfold.report.terminal.lines import Detail, cell, say, styled, table
from bnfold.report.wording import count, interval, milliseconds, sizes

_STYLES = {"faster": "green", "slower": "red", "not measured": "yellow"}


def print_timings(console: Console, record: Record, detail: Detail) -> None:
    """Print the trials of `--tune`, and a table for each provider and each size of the inputs."""
    for trial in record.tuning.trials if record.tuning is not None else []:
        dropped = ", ".join(f"{len(sites)} of {name}" for name, sites in trial.without.items())
        measured = interval(trial.speedup, trial.interval or trial.ci95)
        control = interval(trial.control, trial.control_ci95)
        verdict = f"{trial.verdict}{'; dropped' if trial.dropped else ''}"
        say(console, f"tuning, without {dropped}: {measured} times as fast, control {control}: ")
        say(console, verdict, indent=2)
    groups: dict[str, list[SpeedRecord]] = {}
    for speed in record.speed:
        groups.setdefault(_conditions(speed), []).append(speed)
    for conditions, speeds in groups.items():
        _print_group(console, conditions, speeds, detail)
    if machine := machine_line(record):
        say(console, machine)


def _conditions(speed: SpeedRecord) -> str:
    shapes = ", ".join(sizes(shape) for shape in speed.shapes.values())
    threads = count(speed.threads, "thread")
    return ", ".join([f"speed on {speed.provider}", threads, *([shapes] if shapes else [])])


def _print_group(
    console: Console, conditions: str, speeds: list[SpeedRecord], detail: Detail
) -> None:
    """Print the timings of one provider at one size; a control is a copy of the original."""
    say(console, conditions)
    rows = table("  level", "ms", "times as fast", "", numbers=False)
    for speed in speeds:
        ms, ratio, verdict = milliseconds(speed.original_ms), "", styled("")
        if speed.speedup is not None:
            ms += f" → {milliseconds(speed.optimized_ms)}"
            ratio = interval(speed.speedup, speed.ci95)
            verdict = styled(
                speed.verdict or "", f"bold {_STYLES.get(speed.verdict or '', 'default')}"
            )
        rows.add_row(f"  {speed.level}", ms, ratio, verdict)
        rows.add_row("  control", "", interval(speed.control, speed.control_ci95))
    console.print(rows)
    for speed in speeds:
        if notes := ", ".join(_notes(speed, detail)):
            say(console, f"{speed.level}: {notes}", indent=2)
    if detail == Detail.VERBOSE:
        for speed in speeds:
            _print_profile(console, speed)


def _print_profile(console: Console, speed: SpeedRecord) -> None:
    """Print how long the nodes of each operator take, by onnxruntime's profiler."""
    if speed.profile_note:
        say(console, f"{speed.level}: no time by operator: {speed.profile_note}", indent=2)
    if not speed.profile:
        return
    rows = table("  time by operator", "nodes", "ms", "change")
    for row in shown_time_rows(speed.profile):
        nodes = " → ".join(f"{number:,}" for number in row.nodes)
        ms = " → ".join(map(milliseconds, row.ms))
        rows.add_row(cell(console, f"  {row.op_type}"), nodes, ms, row.change)
    console.print(rows)


def _notes(speed: SpeedRecord, detail: Detail) -> Iterator[str]:
    if detail == Detail.VERBOSE or speed.peak_mb is not None:
        yield f"loads in {' → '.join(f'{ms:.0f}' for ms in speed.load_ms)} ms"
    if speed.peak_mb is not None:
        yield f"memory {' → '.join(f'{mb:.0f}' for mb in speed.peak_mb)} MB"
    if speed.provider != "cpu" and speed.placement is not None:
        yield f"nodes {placements(speed.placement)}"
    if speed.note:
        yield speed.note
