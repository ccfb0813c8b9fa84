"""Finds the passes, bnfold's own and those of other packages, by their entry points.

A package offers a pass as an entry point of the group ``bnfold.passes`` that names a
`bnfold.rewriting.contract.Pass`. One that is broken is left out, with a warning, unless it is asked
for by its name.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from bnfold.errors import UsageError, parameter
from bnfold.rewriting.contract import Pass
from bnfold.rewriting.plugins import PluginError, guarded, guarded_pass

ENTRY_POINT_GROUP = "bnfold.passes"
_OWN = "bnfold_passes."

_log = logging.getLogger("bnfold")
_log.addHandler(logging.NullHandler())  # the command shows warnings; a program chooses

_failures: dict[EntryPoint, str] = {}


@dataclass(frozen=True)
class Installed:
    """The passes that can be used, by name, and what is wrong with the others."""

    passes: dict[str, Pass] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    """By the name of the entry point."""

    def plugins(self) -> list[str]:
        """Describe what other packages offer, for the record."""
        used = [pass_.title for pass_ in self.passes.values() if pass_.origin]
        return sorted([*used, *self.broken.values()])


def installed(skip: Collection[str] = ()) -> Installed:
    """Find all passes, without importing those of other packages that `skip` names.

    Raises:
        UsageError: if one of bnfold's own cannot be imported.
    """
    return _usable(tuple(offered()), frozenset(skip))


@lru_cache(maxsize=4)
def _usable(entry_points: Collection[EntryPoint], skip: frozenset[str]) -> Installed:
    """Load them once: to ask for each again would take longer than to rewrite a small model."""
    found = Installed()
    for entry_point in sorted(
        entry_points, key=lambda each: (not _is_own(each), each.name, each.value)
    ):
        is_own = _is_own(entry_point)
        if entry_point.name in skip and not is_own:
            continue
        try:
            candidate = _load(entry_point)
            if candidate.name in found.passes:
                other = found.passes[candidate.name].origin or "bnfold"
                raise PluginError(f"{other} has a pass named {candidate.name!r}, too")
        except PluginError as error:
            text = f"{entry_point.name} of {_origin(entry_point)} cannot be used: {error}"
            if is_own:
                raise UsageError(f"the pass {text}; reinstall bnfold") from error
            found.broken[entry_point.name] = text
        else:
            found.passes[candidate.name] = candidate
    return found


def offered() -> tuple[EntryPoint, ...]:
    """Return the entry points of passes."""
    return _offered_on(tuple(sys.path))


@lru_cache(maxsize=1)
def _offered_on(_: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Read them once for each search path: that takes as long as to rewrite a small model."""
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _is_own(entry_point: EntryPoint) -> bool:
    return entry_point.value.startswith(_OWN)


def _origin(entry_point: EntryPoint) -> str:
    """Return the package and its version, or the module if the package is unknown."""
    package = entry_point.dist
    return f"{package.name} {package.version}" if package is not None else entry_point.value


def _load(entry_point: EntryPoint) -> Pass:
    if entry_point in _failures:  # it may have taken long
        raise PluginError(_failures[entry_point])
    try:
        candidate = guarded(entry_point.load, is_limited=not _is_own(entry_point))
        if not isinstance(candidate, Pass):
            raise PluginError(f"{entry_point.value} is not a pass")
    except PluginError as error:
        _failures[entry_point] = str(error)
        raise
    return candidate if _is_own(entry_point) else guarded_pass(candidate, _origin(entry_point))


def all_passes(skip: Collection[str] = ()) -> list[Pass]:
    """Return all passes that can be used, sorted by name; warn of the others.

    Raises:
        UsageError: if one of bnfold's own cannot be imported, or there is none.
    """
    found = installed(skip)
    _warn(found)
    return _sorted(found)


def _warn(found: Installed) -> None:
    for problem in found.broken.values():
        _log.warning("the pass %s; uninstall the package, or --skip the pass", problem)


def _sorted(found: Installed) -> list[Pass]:
    if not found.passes:
        raise UsageError("no passes are installed; reinstall bnfold")
    return [found.passes[name] for name in sorted(found.passes)]


def choose_passes(only: Iterable[str] = (), skip: Iterable[str] = ()) -> list[Pass]:
    """Return all passes, or those named in `only`, without those named in `skip`.

    Raises:
        UsageError: if a name is unknown or its pass cannot be used, or no pass is left.
    """
    only, skip = list(only), list(skip)
    found = installed(skip=set(skip) - set(only))
    passes = _sorted(found)
    known = [pass_.name for pass_ in passes]
    names = {entry_point.name for entry_point in offered()}
    for name in only:
        if name in found.broken:
            raise UsageError(f"the pass {found.broken[name]}")
    for name in [*only, *skip]:
        if name not in known and not (name in skip and name in names):
            raise UsageError(f"unknown pass {name!r}{_suggestion(name, known)}")
    if not only:
        _warn(found)
    chosen = [
        pass_ for pass_ in passes if (not only or pass_.name in only) and pass_.name not in skip
    ]
    if not chosen:
        raise UsageError(f"{parameter('only')} and {parameter('skip')} leave no pass to run")
    return chosen


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} known: {', '.join(known)}"
