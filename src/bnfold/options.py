"""The options of a run, in groups."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path

from bnfold.arrays import Array
from bnfold.errors import UsageError, parameter

PROVIDER_CHOICES = ("cpu", "cuda")
_PROVIDER_NAMES = {f"{name}executionprovider": name for name in PROVIDER_CHOICES}
OUTPUT_CHOICES = ("declared", "all")
TRUTH_CHOICES = ("auto", "off", "always")
CERTIFY_CHOICES = ("auto", "off", "always")
REQUIRE_CHOICES = ("certified", "pass")
SPEEDUP_CHOICES = ("bound", "median")
EXTERNAL_DATA_CHOICES = ("auto", "always", "never")


def require_from(least: float, **numbers: float | None) -> None:
    """Require that numbers are not below the least; None stands for a default.

    Whole ones have a whole number as the least.

    Raises:
        UsageError: if one of them is, or is not finite.
    """
    for name, number in numbers.items():
        if number is None:
            continue
        is_whole = isinstance(least, float) or isinstance(number, Integral)
        if not is_whole or not least <= number < math.inf:
            raise UsageError(f"{parameter(name)} {number} is not a number from {least} on")


@dataclass(frozen=True)
class PassOptions:
    """Select the rewrites to make, and the changes of meaning to make first.

    Args:
        only: the names of the passes to run; all if empty.
        skip: the names of passes to skip.
        keep_node: a regular expression; do not change nodes whose name matches.
        force_inference: switch training-mode Dropout and BatchNormalization to inference first.
        freeze_initializers: treat initializers that are also inputs as constants.
        keep_functions: do not inline the functions of the model.
        set_shapes: shapes by the name of an input, which the model will have then.
    """

    only: Iterable[str] = ()
    skip: Iterable[str] = ()
    keep_node: str | None = None
    force_inference: bool = False
    freeze_initializers: bool = False
    keep_functions: bool = False
    set_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def keep_pattern(self) -> re.Pattern[str] | None:
        """Return `keep_node` as a compiled pattern.

        Raises:
            UsageError: if it is not a valid regular expression.
        """
        try:
            return re.compile(self.keep_node) if self.keep_node else None
        except re.error as error:
            raise UsageError(
                f"{parameter('keep_node')} {self.keep_node!r} is not a valid regular expression: "
                f"{error}"
            ) from error


@dataclass(frozen=True)
class InputOptions:
    """Specify the inputs that models run on.

    Args:
        seed: the seed of the random generator.
        samples: the number of samples to draw.
        arrays: arrays by input name, used instead of drawn ones.
        shapes: shapes by input name.
        data: a .npz file or an onnx test-data folder.
        batch_sizes: sizes to try for free first dimensions, in order; if there is only one, the
            model must accept it.
        other_sizes: sizes to try for the other free dimensions.
        image_size: the size to try first for the last two of four dimensions.
        scales: standard deviations of the normal distributions that floats are drawn from, for one
            sample after another.

    Raises:
        UsageError: if a number is too small.
    """

    seed: int = 0
    samples: int = 3
    arrays: Mapping[str, Array] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    data: Path | None = None
    batch_sizes: Sequence[int] = (2, 1)
    other_sizes: Sequence[int] = (64, 48, 224, 32, 128, 16, 8, 3, 1)
    image_size: int | None = None
    scales: Sequence[float] = (1.0, 10.0, 0.1)

    def __post_init__(self) -> None:
        require_from(0, seed=self.seed)
        require_from(1, samples=self.samples)

    @property
    def are_given(self) -> bool:
        """Whether the content or the shape of any input was asked for."""
        return bool(self.arrays or self.shapes or self.data)


@dataclass(frozen=True)
class ExecutionOptions:
    """Specify where models run, and on which inputs.

    Args:
        providers: ``cpu``, ``cuda`` or both, in any case, or by the names that onnxruntime has for
            them, such as ``CUDAExecutionProvider``.
        threads: the size of onnxruntime's thread pool, and how many processes prove rewrites; None
            for one per available processor.
        inputs: the inputs to run on.
        custom_ops: shared libraries with operators that onnxruntime lacks.

    Raises:
        UsageError: if a provider is unknown, or a number is too small.
    """

    providers: Sequence[str] = ("cpu",)
    threads: int | None = None
    inputs: InputOptions = field(default_factory=InputOptions)
    custom_ops: Sequence[str | os.PathLike[str]] = ()

    def __post_init__(self) -> None:
        names = [_PROVIDER_NAMES.get(name.lower(), name.lower()) for name in self.providers]
        object.__setattr__(self, "providers", tuple(dict.fromkeys(names)))
        for provider in self.providers:
            if provider not in PROVIDER_CHOICES:
                known = ", ".join(PROVIDER_CHOICES)
                raise UsageError(f"unknown provider {provider!r}; known: {known}")
        require_from(1, threads=self.threads)


SECONDS_TO_CERTIFY = 30.0
"""For all certificates, unless ``--certify always`` asks for each of them."""


@dataclass(frozen=True)
class CheckOptions:
    """Specify how strictly to compare two models.

    Args:
        rtol: the relative tolerance; None for the default of the output's type.
        atol: the absolute tolerance, in the output's own unit; None for a share of its magnitude.
        rtols: relative tolerances by the name of the output, which count more.
        atols: absolute tolerances by the name of the output, which count more.
        truth: whether to evaluate in float64, too: ``auto`` (for 10 seconds, or 60 where an output
            exceeds its tolerance), ``always`` or ``off``.
        save_inputs: a folder to save the inputs to.
        certify: whether to prove each rewrite by itself: ``auto`` (for 30 seconds at most),
            ``always`` (a rewrite that cannot be certified is not verified) or ``off``.
        require: the least verdict that is accepted: ``certified`` or ``pass``.

    Raises:
        UsageError: if a choice is unknown, or a tolerance is not finite or below 0.
    """

    rtol: float | None = None
    atol: float | None = None
    rtols: Mapping[str, float] = field(default_factory=dict)
    atols: Mapping[str, float] = field(default_factory=dict)
    truth: str = "auto"
    save_inputs: Path | None = None
    certify: str = "auto"
    require: str = "certified"

    def __post_init__(self) -> None:
        for name, known in (
            ("truth", TRUTH_CHOICES),
            ("certify", CERTIFY_CHOICES),
            ("require", REQUIRE_CHOICES),
        ):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"unknown {parameter(name)} {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        tolerances = [("rtol", self.rtol), ("atol", self.atol)]
        tolerances += [("rtol", tolerance) for tolerance in self.rtols.values()]
        tolerances += [("atol", tolerance) for tolerance in self.atols.values()]
        for name, tolerance in tolerances:
            if tolerance is not None and not math.isfinite(tolerance):
                raise UsageError(
                    f"{parameter(name)} {tolerance} would let anything pass; give a finite number"
                )
            require_from(0.0, **{name: tolerance})

    @property
    def seconds_to_certify(self) -> float:
        """The time for all certificates together."""
        return math.inf if self.certify == "always" else SECONDS_TO_CERTIFY

    def of(self, output: str) -> CheckOptions:
        """Return the options for one output, whose own tolerances count more."""
        return replace(
            self,
            rtol=self.rtols.get(output, self.rtol),
            atol=self.atols.get(output, self.atol),
        )

    def asks_for(self, output: str) -> bool:
        """Return whether a tolerance was asked for."""
        own = self.of(output)
        return own.rtol is not None or own.atol is not None


USUAL_SECONDS: Mapping[str, float] = {"cpu": 5.0, "cuda": 30.0}
"""Of timing, by provider: on CUDA, each session first tries the algorithms of cuDNN for seconds."""


@dataclass(frozen=True)
class TimingOptions:
    """Specify how long to time models, and which speed-up to require.

    Args:
        seconds: the time for all timing, loading included, of which each provider has an equal
            share; more if a single round takes longer. By default, `USUAL_SECONDS` for each.
        require_speedup: the minimum speed-up at onnxruntime's full optimization, on every provider.
        require_speedup_at: what must reach it: the lower ``bound`` of its 95 % interval, or the
            ``median``.
        tune_seconds: approximately how long tuning may take.
        batches: the batch sizes to time, if the first dimension is free; one if empty.
        memory: whether to measure memory, too.
        profile: whether to find out which operators the time goes to, too.

    Raises:
        UsageError: if a number is not finite or below 0, or a choice is unknown.
    """

    seconds: float | None = None
    require_speedup: float | None = None
    require_speedup_at: str = "bound"
    tune_seconds: float = 60.0
    batches: Sequence[int] = ()
    memory: bool = False
    profile: bool = True

    def __post_init__(self) -> None:
        if self.require_speedup_at not in SPEEDUP_CHOICES:
            known = ", ".join(SPEEDUP_CHOICES)
            raise UsageError(
                f"unknown {parameter('require_speedup_at')} {self.require_speedup_at!r}; "
                f"known: {known}"
            )
        require_from(0.0, seconds=self.seconds, tune_seconds=self.tune_seconds)
        require_from(0.0, require_speedup=self.require_speedup)
        for batch in self.batches:
            require_from(1, batch=batch)

    def seconds_on(self, providers: Sequence[str]) -> dict[str, float]:
        """Return the time for each of the providers that models are timed on."""
        if self.seconds is None:
            return {provider: USUAL_SECONDS[provider] for provider in providers}
        return dict.fromkeys(providers, self.seconds / len(providers))


def require_inputs(
    shapes: Mapping[str, Sequence[int]], declared: Mapping[str, Sequence[int | str | None] | None]
) -> None:
    """Require that a model has inputs of these names, and that the shapes fit what it declares.

    A free size is a name or None. None in place of sizes stands for any shape.

    Raises:
        UsageError: if there is no such input, or it has another rank or other fixed sizes.
    """
    for name, shape in shapes.items():
        if name not in declared:
            raise UsageError(f"the model has no input {name!r}; it has {', '.join(declared)}")
        sizes = declared[name]
        if sizes is None:
            continue
        pairs = zip(shape, sizes, strict=False)
        fits = all(not isinstance(fixed, int) or size == fixed for size, fixed in pairs)
        if len(shape) != len(sizes) or not fits:
            wanted = "×".join("?" if size is None else str(size) for size in sizes) or "a scalar"
            given = "×".join(map(str, shape))
            raise UsageError(f"the shape {given} does not fit input {name!r}, which is {wanted}")


@dataclass(frozen=True)
class StorageOptions:
    """Specify how to store a model.

    Args:
        external_data: whether large weights go to a file beside the model: ``auto`` (if the
            original has them there, or the model exceeds 2 GiB), ``always`` or ``never``.
        threshold: the bytes of the smallest weight that goes there; None for 1024.
        name: the name of that file; None for one after its content, which no other model can have
            data at.

    Raises:
        UsageError: if a choice is unknown, a number below 0, or the name more than a name.
    """

    external_data: str = "auto"
    threshold: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.external_data not in EXTERNAL_DATA_CHOICES:
            known = ", ".join(EXTERNAL_DATA_CHOICES)
            raise UsageError(
                f"unknown {parameter('external_data')} {self.external_data!r}; known: {known}"
            )
        require_from(0, threshold=self.threshold)
        asked = {"threshold": self.threshold, "name": self.name}
        for name, value in asked.items():
            if self.external_data == "never" and value is not None:
                idle = parameter(name)
                raise UsageError(
                    f"{parameter('external_data')} 'never' leaves {idle} without effect"
                )
        if self.name is not None and not _is_file_name(self.name):
            raise UsageError(
                f"{parameter('name')} {self.name!r} is not the name of a file: it goes beside "
                "OUTPUT, in the same folder"
            )


def _is_file_name(name: str) -> bool:
    """Say whether a name is one on all systems, and text, as ONNX demands."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")
