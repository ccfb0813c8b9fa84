"""Renders a record for a terminal: what changed, what was kept and why, and the verdict.

The last lines are the result: the verdict, the speed and the file. Tables and sentences fit the
width of the terminal, 80 columns if there is none.
"""

from __future__ import annotations

from rich.console import Console

from bnfold.record.data import Equivalence, ModelRecord, OutputRecord, Record, RefusalRecord
from bnfold.report.certificates import certificate_summary
from bnfold.report.changes import operator_changes, refusal_groups, rewrite_groups
from bnfold.report.figures import figures_line
from bnfold.report.summary import CERTIFIED, headline, level_text
from bnfold.report.terminal.equivalence import print_comparisons
from bnfold.report.terminal.lines import Detail, cell, say, styled, table
from bnfold.report.terminal.speed import print_timings
from bnfold.report.wording import count

_VERDICT_STYLES = {
    "pass": "green",
    "certified": "green",
    "identical": "green",
    "fail": "red",
    "not-verified": "yellow",
}

_MOST_SITES = 3


def print_optimization(console: Console, record: Record, detail: Detail = Detail.USUAL) -> None:
    """Print the summary of `optimize`."""
    assert record.output is not None
    if detail > Detail.QUIET:
        _print_operators(console, record.model.ops, record.output.ops)
        if figures := figures_line(record):
            say(console, figures)
        _print_rewrites(console, record)
        _print_refusals(console, record.refusals, detail)
        if record.equivalence is not None:
            print_comparisons(console, record.equivalence, detail)
        print_timings(console, record, detail)
        _print_certificates(console, record)
        console.print()
    if record.equivalence is not None:
        print_verdict(console, record.equivalence, detail)
    else:
        say(console, "equivalence: not checked")
    _print_speed(console, record)
    if record.output.written:
        _print_file(console, record.model, record.output)


def print_comparison(console: Console, record: Record, detail: Detail = Detail.USUAL) -> None:
    """Print the summary of `check`."""
    assert record.equivalence is not None
    if detail > Detail.QUIET:
        print_comparisons(console, record.equivalence, detail)
        _print_certificates(console, record)
    print_verdict(console, record.equivalence, detail)


def print_speed(console: Console, record: Record, detail: Detail = Detail.USUAL) -> None:
    """Print the summary of `bench`."""
    if detail > Detail.QUIET:
        print_timings(console, record, detail)
    _print_speed(console, record)


def print_explanation(console: Console, record: Record, detail: Detail = Detail.USUAL) -> None:
    """Print one line per candidate: rewritten by which pass, or kept and why."""
    if detail > Detail.QUIET:
        for rewrite in record.rewrites:
            more = f" ({rewrite.detail})" if rewrite.detail else ""
            what = f" {rewrite.op_type} {rewrite.site} by {rewrite.pass_name}{more}"
            say(console, styled("rewritten", "green"), what)
            for site, op_type in rewrite.gone.items():
                what = f" {op_type} {site} by {rewrite.pass_name} (with {rewrite.site})"
                say(console, styled("rewritten", "green"), what)
        for refusal in record.refusals:
            say(console, styled("kept", "yellow"), f"      {_explain(refusal)}")
    if record.rewrites or record.refusals:
        what = headline(record).change
    else:
        what = "no candidates for any pass"
    say(console, f"{record.model.path}: {record.model.nodes} nodes; {what}")


# --- The last lines -------------------------------------------------------------------------------


def print_verdict(console: Console, equivalence: Equivalence, detail: Detail) -> None:
    """Print the verdict and its reason, and on how many samples it rests."""
    verdict = styled(equivalence.verdict, f"bold {_VERDICT_STYLES[equivalence.verdict]}")
    proven = f", {CERTIFIED}" if equivalence.verdict == "certified" else ""
    said = {culprit.reason for culprit in equivalence.culprits if culprit.is_certified}
    is_new = equivalence.reason and equivalence.reason not in said
    reason = f"{proven}: {equivalence.reason}" if is_new else proven
    inputs, how = equivalence.inputs, ""
    if inputs is not None:
        source = f", {inputs.source}" if detail == Detail.VERBOSE else ""
        how = f" ({count(inputs.samples, 'sample')}, seed {inputs.seed}{source})"
    say(console, "equivalence: ", verdict, reason, how)


def _print_speed(console: Console, record: Record) -> None:
    """Print the speed with all optimizations of the runtime, which is its default."""
    if record.speed:
        line = headline(record).speed[0].removesuffix(f", {level_text('all')}")
        say(console, f"speed: {line}")
    if record.speed_note:
        say(console, f"speed: {record.speed_note}")


def _print_file(console: Console, before: ModelRecord, after: OutputRecord) -> None:
    """Print where the model was written, and how it has changed."""
    size = f"{before.bytes / 1e6:.2f} → {after.bytes / 1e6:.2f} MB"
    nodes = f"{before.nodes:,} → {after.nodes:,} nodes"
    same = f"{after.bytes / 1e6:.2f} MB, identical to the input: nothing to rewrite"
    weights = ""
    if after.data is not None:
        why = ", more than one model file may hold" if after.outgrew_one_file else ""
        weights = f"; weights in {after.data} ({after.data_bytes / 1e6:.2f} MB{why})"
    what = same if after.same else f"{size}, {nodes}"
    say(console, "wrote", styled(f" {after.path}"), f" ({what}){weights}")


def _print_certificates(console: Console, record: Record) -> None:
    """Print how many rewrites are proven, how exactly, and what is said of the others."""
    summary = certificate_summary(record)
    if summary is None:
        return
    lead = styled(summary.lead, "green" if summary.is_complete else "")
    say(console, "certificates: ", lead)
    for line in [*([", ".join(summary.how)] if summary.how else []), *summary.others]:
        say(console, line, indent=2)


# --- What changed ---------------------------------------------------------------------------------


def _print_operators(console: Console, before: dict[str, int], after: dict[str, int]) -> None:
    rows = table("operators", "before", "after", "change")
    for row in operator_changes(before, after):
        rows.add_row(cell(console, row.name), str(row.before), str(row.after), row.change)
    console.print(rows)


def _print_rewrites(console: Console, record: Record) -> None:
    if not record.rewrites:
        console.print("\nno rewrite applies")
        return
    rows = table("rewrites", "exactness", "what", "count", numbers=False)
    for group in rewrite_groups(record.rewrites):
        name, what = styled(group.pass_name), styled(group.what)
        rows.add_row(name, group.exactness, what, str(len(group.rewrites)))
    console.print()
    console.print(rows)


def _print_refusals(console: Console, refusals: list[RefusalRecord], detail: Detail) -> None:
    if not refusals:
        console.print()
        return
    console.print("\nkept:")
    most = len(refusals) if detail == Detail.VERBOSE else _MOST_SITES
    for group in refusal_groups(refusals):
        number = len(group.refusals)
        sites = ", ".join(refusal.site for refusal in group.refusals[:most])
        more = f" and {number - most} more" if number > most else ""
        remedy = f" → {group.remedy}" if group.remedy else ""
        what = f"{number} {group.op_type} [{group.reason}]: {group.message}{remedy}: "
        say(console, what, f"{sites}{more}", indent=2)
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
