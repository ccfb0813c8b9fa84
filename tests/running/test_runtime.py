"""onnxruntime: missing or broken installations, and sessions on the requested provider only."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from bnfold.errors import ProviderError, SessionError
from bnfold.running import runtime
from bnfold.running.environment import available_threads, environment, installed_runtimes
from bnfold.running.installation import diagnosis
from bnfold.running.runtime import Level, Session
from tests.support.cli import REWRITTEN, UNCHANGED, run
from tests.support.graphs import build

CPU, GPU = "onnxruntime 1.30.0", "onnxruntime-gpu 1.30.0"
NEGATE = build("(float[N,3] x) => (float[N,3] y) { y = Neg(x) }").SerializeToString()


def install(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    for module in ("runtime", "installation", "environment"):
        monkeypatch.setattr(f"bnfold.running.{module}.installed_runtimes", lambda: list(packages))


def has_device(monkeypatch: pytest.MonkeyPatch, present: bool) -> None:
    exists = Path.exists

    def pretend(path: Path, **options: Any) -> bool:
        return present if str(path).startswith("/dev/nvidia") else exists(path, **options)

    monkeypatch.setattr(Path, "exists", pretend)


@pytest.mark.parametrize(
    ("packages", "device", "words"),
    [
        ([CPU], False, [CPU, "uninstall it", "pip install 'onnxruntime-gpu"]),
        ([CPU], True, [CPU, "uninstall it", "pip install 'onnxruntime-gpu"]),
        ([], True, ["no onnxruntime", "pip install 'onnxruntime-gpu"]),
        (
            [CPU, GPU],
            True,
            [CPU, GPU, "overwrite each other", "pip install 'onnxruntime-gpu"],
        ),
        ([GPU], False, ["no NVIDIA device", "driver"]),
        ([GPU], True, ["CUDA or cuDNN library is missing"]),
    ],
    ids=["cpu package", "cpu package, device", "unknown", "both", "no device", "no library"],
)
def test_the_diagnosis_names_the_cause(
    monkeypatch: pytest.MonkeyPatch, packages: list[str], device: bool, words: list[str]
) -> None:
    install(monkeypatch, *packages)
    has_device(monkeypatch, device)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError) as raised:
        runtime.require_provider("cuda")
    assert raised.value.exit_code == 4
    message = str(raised.value)
    assert not [word for word in ["'cuda'", "CUDAExecutionProvider", *words] if word not in message]
    assert "\n" not in message


def test_each_cause_has_a_diagnosis_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnoses = set()
    for packages, device in (([CPU], False), ([CPU, GPU], False), ([GPU], False), ([GPU], True)):
        install(monkeypatch, *packages)
        has_device(monkeypatch, device)
        diagnoses.add(diagnosis("cuda", ""))
    assert len(diagnoses) == 4


def test_a_provider_that_is_there_is_no_error() -> None:
    runtime.require_provider("cpu")


def test_another_provider_in_its_place_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime itself falls back to the CPU silently if it cannot load CUDA."""
    install(monkeypatch, GPU)
    has_device(monkeypatch, False)
    real = onnxruntime.InferenceSession

    def fall_back(model: Any, options: Any, providers: Any, enable_fallback: int) -> Any:
        assert not enable_fallback
        assert providers[0][0] == "CUDAExecutionProvider"
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    monkeypatch.setattr(runtime, "require_provider", lambda _: None)
    with pytest.raises(ProviderError, match=r"fell back to the CPU; .*no NVIDIA device"):
        Session(NEGATE, "cuda", Level.ALL)


_NO_DEVICE = """/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 \
std::conditional_t<THRW, void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, \
const char*, const char*, SUCCTYPE, const char*, const char*, int) [with ERRTYPE = cudaError; \
bool THRW = true; SUCCTYPE = cudaError; std::conditional_t<THRW, void, common::Status> = void] \
CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; \
file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=355 ; \
expr=cudaSetDevice(info_.device_id); """
"""As onnxruntime-gpu 1.31 raises it where CUDA_VISIBLE_DEVICES is empty."""


def test_a_driver_that_shows_no_device(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, GPU)
    has_device(monkeypatch, True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])

    def refuse(*_: object, **settings: object) -> None:
        assert not settings["enable_fallback"]
        raise RuntimeError(_NO_DEVICE)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(ProviderError) as raised:
        runtime.require_provider("cuda")
    assert str(raised.value) == (
        "the provider 'cuda' is not available: CUDA failure 100: no CUDA-capable device is "
        "detected; the driver says so: see nvidia-smi, and the variable CUDA_VISIBLE_DEVICES"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        ([], "not installed: pip install onnxruntime"),
        ([CPU], "installed but broken.*pip install --force-reinstall --no-deps onnxruntime$"),
        ([CPU, GPU], "broken.*are both installed.*pip uninstall -y onnxruntime onnxruntime-gpu"),
    ],
)
def test_an_import_that_fails(
    monkeypatch: pytest.MonkeyPatch, packages: list[str], message: str
) -> None:
    install(monkeypatch, *packages)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for needs_it in (
        lambda: runtime.require_provider("cpu"),
        lambda: Session(NEGATE, "cpu", Level.ALL),
    ):
        with pytest.raises(ProviderError, match=message):
            needs_it()
    assert environment()["onnxruntime"] is None


def test_a_folder_that_an_uninstalled_package_left_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch)
    (tmp_path / "onnxruntime").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(ProviderError, match=r"incomplete.*remove that folder; pip install"):
        runtime.require_provider("cpu")
    assert environment()["onnxruntime"] is None


@pytest.mark.parametrize("options", [["--no-check"], []])
@pytest.mark.parametrize("model", [REWRITTEN, UNCHANGED])
def test_cuda_that_is_only_listed_is_told_whatever_there_is_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], model: Path
) -> None:
    install(monkeypatch, GPU)
    has_device(monkeypatch, False)
    listed = [*runtime.PROVIDERS.values()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    outcome = run("optimize", model, tmp_path / "out.onnx", "--provider", "cuda", *options)
    outcome.failed(4, "'cuda' is not available", "no NVIDIA device")
    assert not (tmp_path / "out.onnx").exists()


def test_installed_runtimes_are_those_with_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package != "onnxruntime-gpu":
            raise importlib.metadata.PackageNotFoundError(package)
        return "1.30.0"

    monkeypatch.setattr("bnfold.running.environment.version", version)
    monkeypatch.syspath_prepend("elsewhere")  # what is installed on the usual path may be known
    assert installed_runtimes() == [GPU]


def test_the_environment_says_which_package_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, CPU, GPU)
    described = environment()["onnxruntime"]
    assert described["package"] == f"{CPU} and {GPU}"
    assert described["version"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in described["providers"]


@pytest.mark.parametrize("level", Level)
def test_a_session_runs_a_model_from_its_bytes_or_its_path(level: Level) -> None:
    content = np.array([[1, -2, 3]], np.float32)
    results = Session(NEGATE, "cpu", level).run({"x": content})
    assert list(results) == ["y"]
    np.testing.assert_array_equal(results["y"], -content)
    assert [spec.name for spec in Session(REWRITTEN, "cpu", level).inputs] == ["images"]


def test_inputs_are_described_with_names_for_free_dimensions() -> None:
    model = build("(float16[N,?,3] x, bool b, string[2] s) => (float16[N,?,3] y) { y = Neg(x) }")
    inputs = Session(model.SerializeToString(), "cpu", Level.DISABLED).inputs
    assert [(spec.name, spec.shape) for spec in inputs] == [
        ("x", ("N", None, 3)),
        ("b", ()),
        ("s", (2,)),
    ]
    assert [spec.dtype for spec in inputs] == [np.float16, np.bool_, np.object_]


@pytest.mark.parametrize(("asked", "used"), [(1, 1), (None, available_threads())])
def test_threads(asked: int | None, used: int) -> None:
    session = Session(NEGATE, "cpu", Level.ALL, asked)
    assert session._session.get_session_options().intra_op_num_threads == used


def test_threads_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert available_threads() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_threads() == 1


def test_failures_of_onnxruntime_are_one_short_line() -> None:
    with pytest.raises(SessionError, match="cannot load the model: ") as loading:
        Session(b"junk", "cpu", Level.ALL)
    with pytest.raises(SessionError, match="cannot run the model: ") as running:
        Session(NEGATE, "cpu", Level.ALL).run({"x": np.zeros(3, np.float32)})
    for raised in (loading, running):
        assert raised.value.exit_code == 5
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 400
