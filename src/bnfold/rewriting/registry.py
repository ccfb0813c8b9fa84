"""Finds the passes, bnfold's own and those of other packages, by their entry points.

A package offers a pass as an entry point of the group ``bnfold.passes`` that names a
`bnfold.rewriting.contract.Pass`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points

from bnfold.errors import UsageError
from bnfold.rewriting.contract import Pass

ENTRY_POINT_GROUP = "bnfold.passes"


def all_passes() -> list[Pass]:
    """Return all installed passes, sorted by name.

    Raises:
        UsageError: if one cannot be imported, is not a pass, or has the name of another.
    """
    passes: dict[str, Pass] = {}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            candidate = entry_point.load()
        except Exception as error:
            raise UsageError(
                f"the pass {entry_point.name!r} ({entry_point.value}) cannot be imported: {error}; "
                "reinstall or uninstall the package that offers it"
            ) from error
        if not isinstance(candidate, Pass):
            raise UsageError(f"{entry_point.value} is offered as a pass but is not one")
        if candidate.name in passes:
            raise UsageError(f"two installed packages offer a pass named {candidate.name!r}")
        passes[candidate.name] = candidate
    if not passes:
        raise UsageError("no passes are installed; reinstall bnfold")
    return [passes[name] for name in sorted(passes)]


def choose_passes(only: Iterable[str] = (), skip: Iterable[str] = ()) -> list[Pass]:
    """Return all passes, or those named in `only`, without those named in `skip`.

    Raises:
        UsageError: if a name is unknown, or no pass is left.
    """
    passes = all_passes()
    known = [pass_.name for pass_ in passes]
    only, skip = list(only), list(skip)
    for name in [*only, *skip]:
        if name not in known:
            raise UsageError(f"unknown pass {name!r}{_suggestion(name, known)}")
    chosen = [
        pass_ for pass_ in passes if (not only or pass_.name in only) and pass_.name not in skip
    ]
    if not chosen:
        raise UsageError("--only and --skip leave no pass to run")
    return chosen


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} known: {', '.join(known)}"
