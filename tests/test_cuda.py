"""Tests on a CUDA device; skipped elsewhere, with the diagnosis that users get."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import bnfold
from bnfold.errors import ProviderError
from bnfold.proof.first_run import RememberingSession
from bnfold.running.runtime import Feeds, Level, Session, require_provider
from tests.support.cli import REWRITTEN, SAMPLES, run


@pytest.fixture
def device() -> None:
    try:
        require_provider("cuda")
    except ProviderError as error:
        pytest.skip(str(error))


@pytest.mark.cuda
@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_equivalent_on_cuda(path: Path) -> None:
    record = bnfold.optimize(path, providers="cuda").record
    assert record.equivalence is not None
    assert record.equivalence.verdict == ("pass" if record.rewrites else "identical")
    for provider in record.equivalence.providers:
        assert provider.tf32
        assert provider.placement is not None


@pytest.mark.cuda
@pytest.mark.usefixtures("device")
def test_timing_on_cuda() -> None:
    speed = bnfold.bench(SAMPLES[0], providers="cuda").speed
    assert [timing.provider for timing in speed] == ["cuda", "cuda"]
    assert all(timing.original_ms > 0 for timing in speed)


# --- The surrounding logic, with the CPU in place of a device -------------------------------------


class PretendedDevice(Session):
    """Runs on the CPU but claims to be a device; with TF32, outputs are off by a thousandth."""

    modes: ClassVar[list[tuple[Level, bool]]] = []

    def __init__(
        self,
        model: Path | bytes,
        provider: str,
        level: Level,
        threads: int | None = None,
        *,
        tf32: bool = False,
        initializers: Feeds | None = None,
    ) -> None:
        super().__init__(model, "cpu", level, threads)
        assert provider == "cuda"
        assert not initializers
        self.modes.append((level, tf32))
        self._factor = np.float32(1.001 if tf32 else 1.0)

    def run(self, feeds: Feeds) -> dict[str, Any]:
        return {name: output * self._factor for name, output in super().run(feeds).items()}

    @property
    def placement(self) -> dict[str, int]:
        return {"CUDAExecutionProvider": 7, "CPUExecutionProvider": 1}


@pytest.fixture
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> type[PretendedDevice]:
    monkeypatch.setattr(PretendedDevice, "modes", [])
    for module in ("proof.equivalence", "api.runtime"):
        monkeypatch.setattr(f"bnfold.{module}.require_provider", lambda _: None)
    for module in ("original", "runs"):
        monkeypatch.setattr(f"bnfold.proof.{module}.Session", PretendedDevice)
    remembering = type("Remembering", (RememberingSession, PretendedDevice), {})
    monkeypatch.setattr("bnfold.proof.original.RememberingSession", remembering)
    monkeypatch.setattr("bnfold.proof.equivalence.isolated", lambda work, progress: work(progress))
    return PretendedDevice


def test_the_verdict_is_taken_without_tf32_and_the_default_shown(
    pretended_device: type[PretendedDevice], tmp_path: Path
) -> None:
    arguments = ("optimize", REWRITTEN, tmp_path / "out.onnx", "--provider", "cuda", "--no-bench")
    outcome = run(*arguments, "--json")
    assert outcome.code == 0
    (comparison,) = outcome.record["equivalence"]["providers"]
    assert (comparison["provider"], comparison["verdict"]) == ("cuda", "pass")
    assert comparison["tf32"][0]["max_rel"] == pytest.approx(1e-3, rel=0.2)
    placement = {"CUDAExecutionProvider": 7, "CPUExecutionProvider": 1}
    assert comparison["placement"] == [placement] * 2
    assert pretended_device.modes == [
        (Level.DISABLED, False),
        (Level.ALL, False),
        (Level.DISABLED, False),
        (Level.ALL, False),
        (Level.ALL, True),
    ]
    text = " ".join(run(*arguments).out.split())
    assert "with the device's default rounding" in text
    assert "7 on CUDAExecutionProvider, 1 on CPUExecutionProvider" in text


@pytest.mark.parametrize("command", ["optimize", "check", "bench"])
def test_without_a_device_the_exit_code_is_4_and_nothing_is_replaced(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    other = tmp_path / "out.onnx" if command == "optimize" else REWRITTEN
    for providers in (["cuda"], ["cpu", "cuda"]):
        options = [option for provider in providers for option in ("--provider", provider)]
        run(command, REWRITTEN, other, *options).failed(4, "'cuda' is not available")
    assert not (tmp_path / "out.onnx").exists()


def test_a_requested_device_is_required_even_for_timing_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    arguments = ("optimize", REWRITTEN, tmp_path / "out.onnx", "--provider", "cuda", "--no-check")
    run(*arguments).failed(4, "'cuda' is not available")
    assert run(*arguments, "--no-bench").code == 4
