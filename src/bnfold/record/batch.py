"""The index of a batch: plain data, from which its pages are made and a later run resumes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bnfold.errors import UsageError, in_words
from bnfold.record.data import strict_json
from bnfold.record.reading import read_as
from bnfold.version import __version__

SCHEMA = "bnfold.batch/1"

WAITING = "waiting"
"""The verdict of a model whose turn has not come."""

GRAVEST_FIRST = (1, 70, 5, 3, 4, 2, 6)
"""Exit codes of a model from the gravest on: wrong values, a bug, not verified, unreadable, no such
provider, an option that does not fit, too slow."""


@dataclass(frozen=True)
class FileRecord:
    """A file that was written; its path is relative to the folder of the index."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Speed:
    """How fast a model became on one kind of machine; `page` is the page that has the timing."""

    machine: str
    provider: str
    level: str
    original_ms: float
    optimized_ms: float | None
    speedup: float | None
    ci95: list[float] | None
    verdict: str
    page: str


@dataclass(frozen=True)
class Row:
    """What became of one model. Pairs are before and after; null if it could not be read."""

    name: str
    """The path of the optimized model within the folder, whether it was written or not."""
    model: str
    exit_code: int
    """The one that `optimize` would have ended with."""
    verdict: str
    reason: str = ""
    """Why it failed, in one line."""
    rewrites: int = 0
    certified: int = 0
    """How many of the rewrites are proven for all inputs."""
    requested: int = 0
    """How many of the rewrites change the meaning on request, so that nothing is to prove."""
    certificates: str = ""
    """The same in words; empty if no proof was asked for."""
    batchnorm: list[int] | None = None
    nodes: list[int] | None = None
    bytes: list[int] | None = None
    speeds: list[Speed] = field(default_factory=list)
    """On each kind of machine, at each of onnxruntime's optimization levels."""
    speed_note: str = ""
    seconds: float = 0.0
    """For all of it, pages included; without waiting."""
    starts: int = 1
    """How many workers began it: more than one if a worker died."""
    notes: list[str] = field(default_factory=list)
    pending: bool = False
    """Whether it is still to be timed."""
    page: str = ""
    record: str = ""
    files: list[FileRecord] = field(default_factory=list)
    sha256: str = ""
    """The hash of the model, its external data included."""
    options: str = ""
    """The hash of the options that it was optimized with."""
    version: str = __version__

    @property
    def machines(self) -> list[str]:
        """The kinds of machines that it was timed on."""
        return list(dict.fromkeys(speed.machine for speed in self.speeds))


@dataclass(frozen=True)
class Index:
    """All rows of a batch, in the order of their names, and how the batch was run."""

    rows: list[Row]
    command: list[str] = field(default_factory=list)
    engine: str = ""
    seconds: float = 0.0
    finished: bool = True
    """Whether the batch came to its end; its rows may still be failures."""
    earlier: list[Row] = field(default_factory=list)
    """What earlier batches wrote to the folder, of models that this one did not have."""
    version: str = __version__

    @property
    def exit_code(self) -> int:
        """The gravest exit code of all models."""
        return gravest(row.exit_code for row in self.rows)

    def to_json(self) -> str:
        """Return the index as strict JSON."""
        return strict_json({"schema": SCHEMA} | dataclasses.asdict(self)) + "\n"


def gravest(codes: Iterable[int]) -> int:
    """Return the gravest of these exit codes; one that is not in the order is graver than all."""
    there = set(codes)
    unknown = sorted(there - {0, *GRAVEST_FIRST})
    return next((code for code in (*unknown, *GRAVEST_FIRST) if code in there), 0)


def read_index(path: Path) -> Index | None:
    """Read the index of an earlier batch; None if there is none.

    Raises:
        UsageError: if the file is not an index.
    """
    hint = f"{path} is not the index of a batch; name another --out"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(in_words(error, path, "read")) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(hint) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UsageError(hint)
    index: Index = read_as(content, Index, hint)
    return index
