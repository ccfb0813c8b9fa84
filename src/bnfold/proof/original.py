"""Runs the original: what it gives, and how far that is from itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from bnfold.arrays import Array
from bnfold.errors import LoadError, SessionError
from bnfold.options import ExecutionOptions
from bnfold.progress import Counted, Progress
from bnfold.proof.first_run import SLOW, RememberingSession
from bnfold.proof.noise import Noise
from bnfold.proof.noise_draws import in_order_of, moved_feeds, moved_weights
from bnfold.proof.outputs import Results, fill, flat
from bnfold.proof.showing import inconclusive_outputs, most_samples, wanted_samples
from bnfold.proof.traits import Traits
from bnfold.proof.verdict import FEWEST_SAMPLES
from bnfold.record.data import Cause, Verdict
from bnfold.running.input_search import make_inputs
from bnfold.running.inputs import Inputs, UnsupportedInput
from bnfold.running.runtime import Feeds, Level, Session

_FIRST_OPSET = 7
"""The first version of the default operator set that onnxruntime supports."""

_FEW_DRAWS, _MORE_DRAWS = (0, 1), (4, 5, 6, 7)
"""Seeds of the draws of the original's noise that are taken where tolerances alone are not enough,
and before an output fails."""

_SPARE_SAMPLES = 16
"""Samples that are drawn, one after another, in the place of one that it does not run on."""

_STEP_DRAWS = (2, 3)
"""With the few, past a step."""

_WIDE_DRAWS = (2, 3, 5, 7)
_WIDE_DRAW = 4
"""Past a step, these draws move inputs and weights by so many units in the last place: a jump that
one unit makes would be missed by as small a move as often as not."""

_MOST_WEIGHTS = 2**28
"""Bytes of weights up to which draws move them, too."""

_Session = TypeVar("_Session", bound=Session)


class Undecided(Exception):  # noqa: N818 - an answer, not an error
    """Ends a comparison early, with a verdict and the reason."""

    def __init__(self, verdict: Verdict, reason: str, cause: Cause = "") -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason
        self.cause: Cause = cause

    @classmethod
    def by(cls, error: Exception, reason: str) -> Undecided:
        """Return that the original does not run, for this reason."""
        return cls("not-verified", reason, "cannot-load" if isinstance(error, LoadError) else "")


@dataclass
class Original:
    """The original on one provider. One session is open at a time, so that memory holds one."""

    path: Path
    traits: Traits
    provider: str
    execution: ExecutionOptions
    progress: Progress
    exact: frozenset[str] = frozenset()
    """Inputs that no draw moves."""
    inputs: Inputs | None = None
    references: Results = field(default_factory=list)
    """Without onnxruntime's optimizations."""
    everything: dict[str, Array] = field(default_factory=dict)
    """An example of each output."""
    best: Results = field(default_factory=list)
    """With them."""
    draws: list[Results] = field(default_factory=list)
    noise: dict[str, Noise] = field(default_factory=dict)
    unsettled: dict[tuple[int, str], float] = field(default_factory=dict)
    """The noise, as a share of the values, of samples and outputs where it is too large."""
    inconclusive: dict[str, str] = field(default_factory=dict)
    """Why an output shows nothing by itself, though it is compared."""
    placement: dict[str, int] | None = None
    _rounds: int = 0
    """How often draws have been taken, beside the run with onnxruntime's optimizations."""
    _seconds: float = 1.0
    """How long a run takes."""

    def run(self) -> None:
        """Run it on inputs that it accepts, again with onnxruntime's optimizations, and take notes.

        Raises:
            Undecided: if it does not run, is not deterministic, or shows nothing.
        """
        try:
            self._run_first()
            self._take_notes()
            self._add_samples()
        except (SessionError, UnsupportedInput) as error:
            raise Undecided.by(error, f"{error}{self._advice}") from error
        if self.inconclusive.keys() >= set(self.names):
            name, reason = next(iter(self.inconclusive.items()))
            reason = f"output {name!r} {reason}; try --data or --input"
            raise Undecided("not-verified", reason, "constant-output")

    @property
    def _advice(self) -> str:
        """What to try where it does not run."""
        if self.traits.opset is not None and self.traits.opset < _FIRST_OPSET:
            return (
                f"; its operator set is {self.traits.opset}, and onnxruntime supports those from "
                f"{_FIRST_OPSET} on: export it with a later one"
            )
        return "" if self.provider == "cpu" else "; try --provider cpu"

    def run_again(self, inputs: Inputs) -> None:
        """Run it on known inputs, without onnxruntime's optimizations, and take no notes.

        Raises:
            Undecided: if it does not run.
        """
        self.inputs = inputs
        try:
            session = self.session(Level.DISABLED)
            self.placement = session.placement
            self.references = self._on_all_samples(session)
        except SessionError as error:
            raise Undecided.by(error, str(error)) from error
        self.everything = {name: a for sample in self.references for name, a in sample.items()}
        fill(self.references, self.everything)

    def _run_first(self) -> None:
        """Find inputs, and see whether it gives the same on the same ones."""
        session = self._load(RememberingSession, Level.DISABLED)
        self.inputs = make_inputs(session, self.execution.inputs, self.traits.hints)
        self.progress("running the original")
        outputs, self._seconds = session.once(next(self.inputs.feeds()))
        once = flat(outputs)
        if self._seconds > SLOW and self.inputs.are_drawn:
            self.inputs = replace(self.inputs, samples=min(self.inputs.samples, FEWEST_SAMPLES))
        self.placement = session.placement
        begun = time.monotonic()
        self._run_again(session)
        mean = (time.monotonic() - begun) / self.inputs.samples
        self._seconds = max(min(self._seconds, mean), 1e-4)  # the first run is a slow one
        fill([once], self.everything)
        if not all(_same(once[name], self.references[0][name]) for name in self.names):
            drawn = f": {self.traits.random} is random" if self.traits.random else ""
            reason = f"the original disagrees with itself from run to run{drawn}"
            raise Undecided("not-verified", reason)

    def _add_samples(self) -> None:
        """Run it on more samples, if that takes it for each output to show something.

        Raises:
            Undecided: if it does not run on them.
        """
        assert self.inputs is not None
        wanted = wanted_samples(
            self.references,
            self.traits,
            {name: len(self.settled(name)) for name in self.names},
            self._seconds,
            is_inconclusive=bool(self.inconclusive),
        )
        if wanted > len(self.references) and self.inputs.are_drawn:
            self._run_on(wanted)

    def add_samples(self) -> bool:
        """Run it on as many samples as there is time for; return whether these are more.

        The draws that have been taken are taken on these, too. Where it does not run on all of
        them, it stays with those that there are.
        """
        assert self.inputs is not None
        wanted = most_samples(self._seconds)
        if wanted <= len(self.references) or not self.inputs.are_drawn:
            return False
        before = dict(vars(self))  # what a run finds out is put in its place, not into it
        try:
            self._run_on(wanted)
            rounds, self._rounds = self._rounds, 0
            while self._rounds < rounds:
                self.draw()
        except Undecided:
            vars(self).update(before)
            return False
        return True

    def _run_on(self, samples: int) -> None:
        assert self.inputs is not None
        self.inputs = replace(self.inputs, samples=samples)
        try:
            self._run_again(self.session(Level.DISABLED))
        except SessionError as error:
            raise Undecided.by(error, f"{error}{self._advice}") from error
        self._take_notes()

    def _run_again(self, session: Session) -> None:
        """Run it on all samples."""
        self.references = self._on_all_samples(session)
        self.everything = {name: a for sample in self.references for name, a in sample.items()}
        fill(self.references, self.everything)
        self.noise = {
            name: Noise(
                [outputs[name] for outputs in self.references], jumps=name in self.traits.steps
            )
            for name in self.names
        }
        self.draws = []

    def _on_all_samples(self, session: Session) -> Results:
        """Return what it gives for each sample; others are drawn for those it does not run on.

        What selects nothing of an image, for one, may end in an error.
        """
        assert self.inputs is not None
        results: Results = []
        for place in range(self.inputs.samples):
            spare = _SPARE_SAMPLES
            while len(results) == place:
                try:
                    results += self.results(session, [self.inputs.sample(place)], place)
                except SessionError:
                    if not (place and spare and self.inputs.are_drawn):
                        raise
                    self.inputs, spare = self.inputs.with_another(place), spare - 1
        return results

    def _take_notes(self) -> None:
        """Run it with optimizations, and find the samples and outputs that show nothing."""
        self.inconclusive = inconclusive_outputs(self.references, self.traits)
        self._run_best()
        self._find_unsettled()

    def session(self, level: Level, weights: Feeds | None = None) -> Session:
        """Load it, with other weights if they are given."""
        return self._load(Session, level, weights)

    def _load(self, kind: type[_Session], level: Level, weights: Feeds | None = None) -> _Session:
        self.progress(f"loading the original ({self.provider}, optimization {level.value})")
        threads = self.execution.threads
        return kind(self.path, self.provider, level, threads, initializers=weights)

    def results(
        self,
        session: Session,
        feeds: Iterable[Feeds],
        first: int = 0,
        doing: str = "running the original",
    ) -> Results:
        """Run it, or another model, on samples from the first on, and say so."""
        assert self.inputs is not None
        total, results = self.inputs.samples, []
        for number, each in enumerate(feeds, first + 1):
            self.progress(Counted(f"{doing}, sample {number} of {total}", number, total))
            results.append(flat(session.run(each)))
        return results

    @property
    def names(self) -> list[str]:
        """The outputs, each array of sequences and maps by a name of its own."""
        return list(self.references[0])

    def unit(self, name: str) -> str:
        """Return the rounding unit of an output."""
        return self.traits.units.get(name, str(self.references[0][name].dtype.name))

    def settled(self, name: str) -> list[int]:
        """Return the samples on which what it gives is more than its own rounding."""
        return [s for s in range(len(self.references)) if (s, name) not in self.unsettled]

    # --- Noise ------------------------------------------------------------------------------------

    def _run_best(self) -> None:
        """Run it with onnxruntime's optimizations, which is a draw as well."""
        assert self.inputs is not None
        try:
            session = self.session(Level.ALL)
            self.best = self.results(session, self.inputs.feeds())
            fill(self.best, self.everything)
        except SessionError as error:
            raise Undecided.by(error, f"the original, optimization all: {error}") from error
        self._add_draw(self.best)

    @property
    def has_all_draws(self) -> bool:
        """Whether all draws have been taken."""
        return self._rounds > 1

    def draw(self) -> bool:
        """Take draws of its noise: a few, and more the next time; return whether any were left.

        There may be more samples afterwards: where the noise is large, too few may be left.
        """
        if self.has_all_draws:
            return False
        self._rounds += 1
        self.progress("running the original again to estimate its rounding noise")
        if self._rounds == 1:
            self._draw_few()
            samples = len(self.references)
            self._add_samples()
            if len(self.references) > samples:
                self._draw_few()
        else:
            self._draw_all(_MORE_DRAWS)
        return True

    def _draw_few(self) -> None:
        self._draw_all((*_FEW_DRAWS, *(_STEP_DRAWS if self.traits.steps else ())))

    def _draw_all(self, seeds: Iterable[int]) -> None:
        for seed in seeds:
            self._draw(seed, _WIDE_DRAW if self.traits.steps and seed in _WIDE_DRAWS else 1)
        self._find_unsettled()

    def _draw(self, seed: int, units: int) -> None:
        """Take a draw with inputs and weights moved, or inputs alone if it does not run so.

        The first one is of inputs alone: their rounding, too, is part of the scale.
        """
        assert self.inputs is not None
        # A device takes no weights from the host in this way.
        most_bytes = _MOST_WEIGHTS if self.provider == "cpu" else 0
        weights = moved_weights(self.traits, most_bytes, seed, units) if seed else None
        for initializers in (weights, None) if seed else (None,):
            try:
                session = self.session(Level.DISABLED, initializers)
                feeds = moved_feeds(self.inputs, self.traits, self.exact, seed, units)
                results = self.results(session, feeds)
            except SessionError:  # a parameter that must be exact was among them
                continue
            self._add_draw(results)
            return

    def _add_draw(self, results: Results) -> None:
        fill(results, self.everything)
        self.draws.append(results)
        units = {name: self.unit(name) for name in self.names if name in self.traits.ordered}
        ordered = in_order_of(self.references, results, units) if units else results
        for name, noise in self.noise.items():
            noise.add([outputs.get(name, np.zeros(())) for outputs in ordered])

    def _find_unsettled(self) -> None:
        """Note where the original's own rounding decides what it gives."""
        self.unsettled = {
            (sample, name): noise.share(sample)
            for name, noise in self.noise.items()
            if self.references[0][name].dtype.kind == "f"
            for sample in range(len(self.references))
            if not noise.is_settled(sample, self.unit(name))
        }


def _same(one: Array, other: Array) -> bool:
    """Say whether two runs on the same inputs agree: to some bits, for a parallel sum may not."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True))


def shapes_of(inputs: Inputs, results: Results) -> dict[str, list[Sequence[int]]]:
    """Return the shapes that each input and output had, sample by sample."""
    shapes: dict[str, list[Sequence[int]]] = {}
    for read, outputs in zip(inputs.shapes_by_sample(), results, strict=True):
        given = {name: content.shape for name, content in outputs.items()}
        for name, shape in (*read.items(), *given.items()):
            shapes.setdefault(name, []).append(shape)
    return shapes
