"""Renders a record for a terminal: what changed, what was kept and why, and the verdict.

Names come from untrusted models: markup in them stays text, and control characters are replaced by
visible symbols.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnfold.record.data import (
    Culprit,
    Equivalence,
    OutputComparison,
    ProviderEquivalence,
    Record,
    RefusalRecord,
    SpeedRecord,
)
from bnfold.report.certificates import certificate_summary, is_of_certificate
from bnfold.report.summary import (
    CERTIFIED,
    Sentence,
    counted,
    divergence_note,
    draws_note,
    exact_note,
    inconclusive_note,
    joined,
    no_truth_note,
    operator_changes,
    refusal_groups,
    remarks,
    rewrite_groups,
    selection_note,
    unit_note,
)
from bnfold.report.wording import count, interval, legible, sizes

_VERDICT_STYLES = {
    "pass": "green",
    "certified": "green",
    "identical": "green",
    "fail": "red",
    "not-verified": "yellow",
}


_SPEED_STYLES = {"faster": "green", "slower": "red", "no significant difference": "default"}


_MOST_SITES = 3
_WIDTH = 80
"""Of most terminals."""


def _text(content: str, style: str = "") -> Text:
    return Text(legible(content), style)


def _say(console: Console, *parts: str | Text) -> None:
    """Print one line, however long."""
    line = Text.assemble(*(_text(part) if isinstance(part, str) else part for part in parts))
    console.print(line, soft_wrap=True)


def print_optimization(console: Console, record: Record) -> None:
    """Print the summary of `optimize`."""
    assert record.output is not None
    _print_operators(console, record.model.ops, record.output.ops)
    _print_rewrites(console, record)
    _print_refusals(console, record.refusals)
    if record.equivalence is not None:
        print_equivalence(console, record.equivalence)
    _print_certificates(console, record)
    print_speed(console, record)
    if record.output.written:
        same = ", identical to the input: nothing to rewrite"
        size = f"{record.output.bytes / 1e6:.2f} MB{same if record.output.same else ''}"
        _say(console, f"wrote {record.output.path} ({size})")
        if record.output.data is not None:
            why = ", more than one model file may hold" if record.output.outgrew_one_file else ""
            size = f"{record.output.data_bytes / 1e6:.2f} MB{why}"
            _say(console, f"wrote its weights to {record.output.data} ({size})")


def print_comparison(console: Console, record: Record) -> None:
    """Print the summary of `check`."""
    assert record.equivalence is not None
    print_equivalence(console, record.equivalence)
    _print_certificates(console, record)


def print_equivalence(console: Console, equivalence: Equivalence) -> None:
    """Print the verdict, and for each output its tolerance and the smallest one that passes."""
    for provider in equivalence.providers:
        name = provider.provider
        for level in provider.levels:
            for output in level.outputs:
                where = f"  {name}, onnxruntime optimization {level.level}: "
                _print_output(console, where, output, equivalence)
        for output in provider.noise_floor:
            where = f"  {name}, noise floor (original, disabled against all): "
            _say(console, where, f"{output.name} max |Δ| {output.max_abs:.2e}")
        for sample in provider.unsettled:
            where = f"  {name}, sample {sample.sample} is inconclusive for {sample.output}: "
            why = f"the original changes by {sample.noise:.1%} from rounding alone"
            _say(console, where, why)
        if note := draws_note(provider):
            _say(console, f"  {name}: {note}")
        if provider.selection is not None:
            _say(console, f"  {name}: ", _words(selection_note(provider.selection)))
        for inconclusive in provider.inconclusive:
            _say(console, f"  {name}: ", _words(inconclusive_note(inconclusive)))
        _print_truth(console, provider)
        for output in provider.tf32:
            where = f"  {name}, with the device's default rounding: "
            _print_output(console, where, output, equivalence)
        if provider.placement is not None and name != "cpu":
            _say(console, f"  {name}, nodes: {_placements(provider.placement)}")
    for culprit in equivalence.culprits:
        _print_culprit(console, culprit)
    if equivalence.divergence is not None:
        _say(console, "  ", _words(divergence_note(equivalence.divergence)))
    verdict = _text(equivalence.verdict, f"bold {_VERDICT_STYLES[equivalence.verdict]}")
    proven = f", {CERTIFIED}" if equivalence.verdict == "certified" else ""
    said = {culprit.reason for culprit in equivalence.culprits if is_of_certificate(culprit)}
    is_new = equivalence.reason and equivalence.reason not in said
    reason = f"{proven}: {equivalence.reason}" if is_new else proven
    inputs = equivalence.inputs
    how = f" ({inputs.samples} samples, seed {inputs.seed}, {inputs.source})" if inputs else ""
    _say(console, "equivalence: ", verdict, reason, how)


def _print_certificates(console: Console, record: Record) -> None:
    """Print how many rewrites are proven, how exactly, and what is said of the others."""
    summary = certificate_summary(record)
    if summary is None:
        return
    lead = _text(summary.lead, "green" if summary.is_complete else "")
    _say(console, "certificates: ", lead)
    how = ", ".join(summary.how)
    fits = len(how) <= _WIDTH - 2
    for line in [*([how] if how and fits else summary.how), *summary.others]:
        _say(console, f"  {line}")


def _words(sentence: Sentence) -> str:
    return joined(sentence, plain=str, name=str)


def _print_output(
    console: Console, where: str, output: OutputComparison, equivalence: Equivalence
) -> None:
    _say(console, where, _describe(output, counted(output, equivalence)))
    for remark in remarks(output):
        _say(console, f"    {remark}")


def _print_truth(console: Console, provider: ProviderEquivalence) -> None:
    truth = provider.truth
    if truth is None:
        return
    where = f"  {provider.provider}, float64: "
    if note := no_truth_note(truth):
        _say(console, f"  {provider.provider}: {note}")
    for output in truth.outputs:
        errors = f"{output.original:.2e} → {output.optimized:.2e}"
        limit = f", up to {output.limit:.1e}" if output.limit is not None else ""
        unit = f"; {note}" if (note := unit_note(output)) else ""
        _say(console, where, f"{output.name} error {errors} (relative RMS{limit}{unit})")
        if note := exact_note(output):
            _say(console, f"    {note}")


def _print_culprit(console: Console, culprit: Culprit) -> None:
    detail = f" ({culprit.detail})" if culprit.detail else ""
    dropped = ", which was dropped" if culprit.dropped else ""
    what = f"  the check fails with {culprit.pass_name} at {culprit.site}{detail}{dropped}: "
    if is_of_certificate(culprit):
        what = f"  the check fails{dropped}: "
    _say(console, _text(what, "red"), culprit.reason)


def _placements(placement: list[dict[str, int]]) -> str:
    return " → ".join(
        ", ".join(f"{nodes} on {provider}" for provider, nodes in counts.items())
        for counts in placement
    )


def print_speed(console: Console, record: Record) -> None:
    """Print one line per timing, after the trials of `--tune`."""
    for trial in record.tuning.trials if record.tuning is not None else []:
        dropped = ", ".join(f"{len(sites)} of {name}" for name, sites in trial.without.items())
        measured = interval(trial.speedup, trial.ci95)
        verdict = f"{trial.verdict}{'; dropped' if trial.dropped else ''}"
        control = interval(trial.control, trial.control_ci95)
        _say(console, f"  tuning, without {dropped}: {measured} times as fast, control {control}: ")
        _say(console, f"    {verdict}")
    for speed in record.speed:
        _say(console, *_describe_speed(speed))
    if record.speed_note:
        _say(console, "speed: ", record.speed_note)


def _describe_speed(speed: SpeedRecord) -> list[str | Text]:
    shapes = ", ".join(sizes(shape) for shape in speed.shapes.values())
    where = f"{speed.provider}, onnxruntime optimization {speed.level}"
    where += f", {speed.threads} threads, {shapes}" if shapes else f", {speed.threads} threads"
    loads = " → ".join(f"{ms:.0f}" for ms in speed.load_ms)
    memory = ""
    if speed.peak_mb is not None:
        memory = f"; memory {' → '.join(f'{mb:.0f}' for mb in speed.peak_mb)} MB"
    more = f"; loads in {loads} ms{memory}{_placed(speed)}{'; ' if speed.note else ''}{speed.note}"
    control = f"control {interval(speed.control, speed.control_ci95)}"
    if speed.speedup is None or speed.ci95 is None or speed.verdict is None:
        return [f"speed: {speed.original_ms:.4g} ms ({where}; {control}{more})"]
    return [
        "speed: ",
        _text(speed.verdict, f"bold {_SPEED_STYLES[speed.verdict]}"),
        f", {interval(speed.speedup, speed.ci95)} times ({where}; {control}; "
        f"{speed.original_ms:.4g} → {speed.optimized_ms:.4g} ms{more})",
    ]


def _placed(speed: SpeedRecord) -> str:
    """Describe which providers run the nodes, if not only the CPU."""
    if speed.provider == "cpu" or speed.placement is None:
        return ""
    return f"; nodes {_placements(speed.placement)}"


def print_explanation(console: Console, record: Record) -> None:
    """Print one line per candidate: rewritten by which pass, or kept and why."""
    _say(console, f"{record.model.path}: {record.model.nodes} nodes")
    for rewrite in record.rewrites:
        detail = f" ({rewrite.detail})" if rewrite.detail else ""
        what = f" {rewrite.op_type} {rewrite.site} by {rewrite.pass_name}{detail}"
        _say(console, _text("rewritten", "green"), what)
        for site, op_type in rewrite.gone.items():
            what = f" {op_type} {site} by {rewrite.pass_name} (with {rewrite.site})"
            _say(console, _text("rewritten", "green"), what)
    for refusal in record.refusals:
        _say(console, _text("kept", "yellow"), f"      {_explain(refusal)}")
    if not record.rewrites and not record.refusals:
        _say(console, "no candidates for any pass")


def _print_operators(console: Console, before: dict[str, int], after: dict[str, int]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("operators")
    for title in ("before", "after", "change"):
        table.add_column(title, justify="right")
    for row in operator_changes(before, after):
        table.add_row(_text(row.name), str(row.before), str(row.after), row.change)
    console.print(table)


def _print_rewrites(console: Console, record: Record) -> None:
    if not record.rewrites:
        console.print("\nno rewrite applies")
        return
    table = Table("rewrites", "exactness", "what", "count", box=None, pad_edge=False)
    for group in rewrite_groups(record.rewrites):
        name, what = _text(group.pass_name), _text(group.what)
        table.add_row(name, group.exactness, what, str(len(group.rewrites)))
    console.print()
    console.print(table)


def _print_refusals(console: Console, refusals: list[RefusalRecord]) -> None:
    if not refusals:
        console.print()
        return
    console.print("\nkept:")
    for group in refusal_groups(refusals):
        count = len(group.refusals)
        sites = ", ".join(refusal.site for refusal in group.refusals[:_MOST_SITES])
        more = f" and {count - _MOST_SITES} more" if count > _MOST_SITES else ""
        remedy = f" → {group.remedy}" if group.remedy else ""
        what = f"  {count} {group.op_type} [{group.reason}]: {group.message}{remedy}: "
        _say(console, what, f"{sites}{more}")
    console.print()


def _explain(refusal: RefusalRecord) -> str:
    blocker = f" [blocked by {refusal.in_the_way}]" if refusal.in_the_way else ""
    remedy = f" → {refusal.remedy}" if refusal.remedy else ""
    also = ""
    if refusal.also_reason:
        where = f" [blocked by {refusal.also_in_the_way}]" if refusal.also_in_the_way else ""
        also = f"; downstream {refusal.also_reason}: {refusal.also_message}{where}"
    return (
        f"{refusal.op_type} {refusal.site}: {refusal.pass_name} {refusal.reason}: "
        f"{refusal.message}{blocker}{also}{remedy}"
    )


def _describe(output: OutputComparison, samples: str) -> str:
    needed, allowed = output.needed, output.tolerance
    name = f"{output.name} ({samples})" if samples else output.name
    if not (allowed.rtol or allowed.atol):
        but = f" but for {count(output.excused, 'element')}" if output.excused else ""
        return f"{name} {output.mismatch or f'equal{but}'}"
    note = output.mismatch or "no tolerance would pass"
    if needed is not None:
        note = f"needed rtol {needed.rtol:.1e} atol {needed.atol:.1e}"
    return (
        f"{name} max |Δ| {output.max_abs:.2e} (allowed rtol {allowed.rtol:.1e} "
        f"atol {allowed.atol:.1e}; {note}){_agreement(output)}"
    )


def _agreement(output: OutputComparison) -> str:
    """Describe how often the best classes agree, if there are classes, and the worst flip."""
    if output.top1_agreement is None:
        return ""
    five = "" if output.top5_agreement is None else f", top-5 in {output.top5_agreement:.2%}"
    flips = max((flip.margin for flip in output.flips), default=None)
    margin = "" if flips is None else f", largest flipped margin {flips:.2g}"
    return f"; same top-1 in {output.top1_agreement:.2%}{five}{margin}"
