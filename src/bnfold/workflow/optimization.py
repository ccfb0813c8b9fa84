"""One run of `optimize`: its steps, in order."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from bnfold.errors import (
    BnfoldError,
    ModelError,
    ProviderError,
    SessionError,
    TooSlowError,
    UsageError,
    parameter,
    require_text,
)
from bnfold.modelfile.external import require_free
from bnfold.modelfile.saving import StagedModel, is_stored_so
from bnfold.modelfile.source import ModelSource, in_place
from bnfold.options import (
    CheckOptions,
    ExecutionOptions,
    PassOptions,
    StorageOptions,
    TimingOptions,
)
from bnfold.progress import Progress
from bnfold.record.data import Culprit, Equivalence, OutputRecord, Record, SpeedRecord, TuningRecord
from bnfold.rewriting.contract import General, Refusal
from bnfold.rewriting.engine import Site
from bnfold.running.environment import available_threads, environment, load_average
from bnfold.running.isolation import CrashedError
from bnfold.scratch import Scratch
from bnfold.workflow.rejection import rejection
from bnfold.workflow.result import Result
from bnfold.workflow.variants import Variant, Variants


class Optimization:
    """Has one method per step, of which `begin` is the first and `finish` the last.

    Steps that need a rewrite do nothing if there is none.

    Intermediate files go into `scratch`; `stack` cleans up unfinished work. Modules that only one
    step needs are imported in that step: importing them takes as long as a rewrite.
    """

    _variant: Variant
    _is_copy: bool
    """Whether the input is copied, because nothing about it changes."""
    _staged: StagedModel

    def __init__(
        self,
        model: ModelSource,
        output: str | os.PathLike[str] | None,
        *,
        passes: PassOptions,
        execution: ExecutionOptions,
        checking: CheckOptions,
        timing: TimingOptions,
        storage: StorageOptions,
        scratch: Scratch,
        stack: ExitStack,
        progress: Progress,
        hashes: bool,
        figures: bool,
        force: bool,
    ) -> None:
        self._load = load_average()
        self._variants = Variants(model, passes, scratch, execution.providers)
        self._source, self._scratch, self._stack = model, scratch, stack
        self._output = output
        self._place = Path(output) if output is not None else scratch.folder / "optimized.onnx"
        self._execution, self._checking, self._timing = execution, checking, timing
        self._storage = storage
        self._progress = progress
        self._hashes, self._figures, self._force = hashes, figures, force
        self._dropped: dict[Site, Refusal] = {}
        self._equivalence: Equivalence | None = None
        self._speed: list[SpeedRecord] = []
        self._speed_note = ""
        self._tuning: TuningRecord | None = None

    def begin(self) -> None:
        """Rewrite the model, and create the temporary file that it is written to.

        Raises:
            ModelError: if the model cannot be read, is invalid or is not supported.
            PassFailedError: if a pass fails.
            UsageError: if its place cannot or must not hold it.
        """
        require_text(self._place, UsageError)
        self._rewrite()
        model = self._variant.model
        if Path(os.path.realpath(self._place)) in model.data_files:
            raise UsageError(f"{self._place} holds weights of the model; name another file")
        if self._storage.name is not None and not self._is_copy:
            require_free(model, self._place, self._storage.name, force=self._force)
        if not self._force:
            self._require_replaceable()
        if self._hashes:
            model.source.start_hashing()
        self._staged = StagedModel(
            self._place, storage=self._storage, hashed=self._hashes, at_most=model.permissions
        )
        self._stack.push(self._staged)  # first: a signal may come while it is created
        self._staged.create()

    def _require_replaceable(self) -> None:
        """Require that OUTPUT is not a model of another interface, so perhaps given by mistake."""
        if not self._place.is_file() or self._is_in_place:
            return
        from bnfold.proof.interface import Interface

        try:
            there = Interface.of(self._place)
        except ModelError:
            return
        here = Interface.of_proto(self._variant.model.source.read.proto)
        if there.kinds() != here.kinds():
            raise UsageError(
                f"{self._place} is a model with other inputs or outputs than this one; "
                f"{parameter('force')} replaces it"
            )

    def _rewrite(self) -> None:
        """Rewrite the model, except where that is unwanted."""
        self._progress("rewriting")
        self._variant = self._variants.without(self._unwanted, cut=self._checking.certify != "off")
        self._is_copy = self._is_to_be_copied()  # before it is written: its weights move then

    @property
    def _is_unchanged(self) -> bool:
        return not self._variant.rewrites

    @cached_property
    def _reference(self) -> Path:
        """The model to compare with: the original, with the requested changes of meaning.

        If its file is too large for onnxruntime, it is written in a form that onnxruntime reads.
        """
        model = self._variant.model
        if model.path is not None and model.source.is_one_message and not self._variant.requested:
            return model.path
        loaded, _ = self._variants.unchanged()
        return self._variants.write(loaded)

    def _unwanted(self, site: Site) -> Refusal | None:
        return self._dropped.get(site)

    def tune(self) -> None:
        """Drop the rewrites that make the model slower on this machine."""
        if not self._variant.outcome.rewrites:
            return
        from bnfold.speed.measure import compare_speed, for_one_image
        from bnfold.workflow.tuning import tune

        def make(sites: Collection[Site]) -> Path:
            without = dict.fromkeys(sites, General.SLOWER_HERE)
            return self._variants.write(self._variants.without(without.get).model)

        def measure(original: Path, optimized: Path, seconds: float) -> SpeedRecord:
            return compare_speed(
                original,
                optimized,
                provider=self._execution.providers[0],
                request=for_one_image(self._execution.inputs),
                threads=self._execution.threads,
                seconds=seconds,
            )

        try:
            slower, self._tuning = tune(
                self._variant.outcome.rewrites,
                make,
                measure,
                self._variants.discard,
                self._timing.tune_seconds,
                self._progress,
            )
        except (CrashedError, SessionError) as error:
            self._speed_note = f"not tuned: {error}"
            return
        if slower:
            self._dropped |= dict.fromkeys(slower, General.SLOWER_HERE)
            self._rewrite()

    def write(self) -> None:
        """Write the model to a temporary file next to its destination."""
        self._progress("writing")
        if self._is_copy:
            self._staged.write_blocks(self._variant.model.source.blocks())
        else:
            self._staged.write_model(self._variant.model)

    def check(self, *, drop_culprit: bool) -> None:
        """Compare the model with the original; if that fails, find the rewrite to blame.

        `drop_culprit` makes and compares the model again without that rewrite, until it passes.
        """
        from bnfold.proof.equivalence import compare_models
        from bnfold.proof.learned import learning_once
        from bnfold.workflow.certified import differing, with_certificates
        from bnfold.workflow.validity import require_valid_unless_loaded, with_validity

        culprits: list[Culprit] = []
        checking = self._checking
        while not self._is_unchanged:
            self._certify()
            culprit = differing(self._variant.outcome.rewrites)
            if culprit is not None:
                equivalence = Equivalence("fail", culprit.reason)
            else:
                with learning_once(), in_place(self._variant.model.source):
                    equivalence = compare_models(
                        self._reference,
                        self._staged.path,
                        self._execution,
                        checking,
                        self._progress,
                    )
                require_valid_unless_loaded(self._source, equivalence)
                checking = replace(checking, save_inputs=None)  # they are the same each time
                equivalence = with_certificates(
                    equivalence,
                    [*self._variant.inlined, *self._variant.outcome.rewrites],
                    checking,
                    self._execution.inputs,
                )
                equivalence = with_validity(equivalence, self._staged.path)
                if equivalence.verdict == "fail":
                    culprit = self._find_culprit(equivalence)
            if culprit is not None:
                culprits.append(replace(culprit, dropped=drop_culprit))
            self._equivalence = replace(equivalence, culprits=culprits)
            if culprit is None or not drop_culprit:
                return
            self._dropped[culprit.pass_name, culprit.site] = General.NOT_EQUIVALENT
            self._rewrite()
            self.write()
        self._equivalence = Equivalence("identical", culprits=culprits)

    def _certify(self) -> None:
        """Prove each rewrite by itself, and put the certificate into its record."""
        if self._checking.certify == "off":
            return
        from bnfold.workflow.certified import with_proofs

        variant, seconds = self._variant, self._checking.seconds_to_certify
        rewrites, cuts = variant.outcome.rewrites, variant.cuts
        processes = self._execution.threads or available_threads()
        rewrites[:] = with_proofs(rewrites, cuts, seconds, processes, self._progress)
        inlined = variant.inlined
        if variant.inlining is not None:
            from bnfold.proof.certificates.inlined import certify_inlined

            certificate = certify_inlined(*variant.inlining)
            inlined = [replace(rewrite, certificate=certificate) for rewrite in inlined]
        # Cuts keep weights in memory.
        self._variant = replace(variant, inlined=inlined, cuts=(), inlining=None)

    def _find_culprit(self, failed: Equivalence) -> Culprit | None:
        from bnfold.workflow.culprit import find_culprit

        return find_culprit(
            self._reference,
            failed,
            self._variant.outcome.rewrites,
            self._variants,
            self._execution,
            self._checking,
            self._unwanted,
            self._progress,
        )

    def time(self) -> None:
        """Time both models, unless the check has rejected the new one."""
        if self._is_unchanged or self._rejection() is not None:
            return
        from bnfold.speed.profile import time_and_profile

        try:
            self._speed = time_and_profile(
                self._reference,
                self._staged.path,
                self._execution,
                self._timing,
                self._scratch.folder,
                self._progress,
            )
        except (CrashedError, ProviderError, SessionError) as error:
            self._speed_note = f"not timed: {error}"
        except UsageError as error:
            if self._equivalence is None:
                raise
            self._speed_note = f"not timed: {error}"  # keep the result of the check

    def finish(self) -> Result:
        """Move the model to its destination.

        Raises:
            NotEquivalentError: if the check has failed.
            NotVerifiedError: if the check could not decide.
            TooSlowError: if a required speed-up is not met.
        """
        failure = self._rejection() or self._lack_of_speed()
        record = self._record(written=self._output is not None and failure is None)
        if self._figures:
            from bnfold.workflow.inspection import with_figures

            record = with_figures(record, self._source, self._staged.path)
        if failure is not None:
            failure.record = record
            raise failure
        if self._output is not None and not (self._is_copy and self._is_in_place):
            self._staged.commit()
        return Result(record, self._variant.model)

    def _is_to_be_copied(self) -> bool:
        """Return whether to copy the input.

        A copy finds external data only in the original's folder.
        """
        model = self._variant.model
        if not self._is_unchanged or not is_stored_so(model, self._storage):
            return False
        if model.path is None or not model.has_external_data:
            return True
        return self._place.resolve().parent == model.path.resolve().parent

    @property
    def _is_in_place(self) -> bool:
        path = self._variant.model.path
        return path is not None and self._place.exists() and self._place.samefile(path)

    def _rejection(self) -> BnfoldError | None:
        return rejection(self._equivalence, self._checking.require)

    def _lack_of_speed(self) -> BnfoldError | None:
        required = self._timing.require_speedup
        if required is None:
            return None
        from bnfold.speed.cases import require_speedup

        if self._is_unchanged and required <= 1:
            return None
        note = "there was nothing to rewrite" if self._is_unchanged else self._speed_note
        try:
            require_speedup(self._speed, required, self._timing.require_speedup_at, note)
        except TooSlowError as error:
            error.reword("nothing was written: {}".format)
            return error
        return None

    def _record(self, *, written: bool) -> Record:
        ops = self._variant.model.count_operators()
        data = self._staged.data
        return Record(
            command=[],
            model=self._variant.model.source.describe(hashed=self._hashes),
            environment=environment(self._variant.plugins, load=self._load),
            output=OutputRecord(
                path=str(self._output) if self._output is not None else None,
                same=self._is_copy,
                written=written,
                sha256=self._staged.sha256,
                bytes=self._staged.path.stat().st_size,
                nodes=sum(ops.values()),
                ops=ops,
                data=data.name if data is not None else None,
                data_bytes=data.stat().st_size if data is not None else 0,
                outgrew_one_file=data is not None
                and not self._variant.model.has_external_data
                and self._storage.external_data == "auto",
            ),
            rewrites=self._variant.rewrites,
            refusals=self._variant.outcome.refusals,
            equivalence=self._equivalence
            or (Equivalence("identical") if self._is_unchanged else None),
            speed=self._speed,
            speed_note=self._speed_note,
            tuning=self._tuning,
            passes=self._variant.passes,
        )
