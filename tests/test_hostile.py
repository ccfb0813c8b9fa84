"""Damaged files end in words or are rewritten, in bounded time; ``python -m tests.test_hostile``
runs many more: SEED and COUNT."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import bnfold
from bnfold.errors import BnfoldError
from bnfold.running.workers import Worker
from tests.support.cli import run
from tests.support.graphs import build, normal
from tests.support.mutants import mutants

SECONDS = 30.0
"""The most that one file may take."""


@pytest.fixture
def shapes_are_inferred_here() -> None:
    """Infer them where the command does: some of these models crash onnx."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let onnx_ir not warn, as the command does."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def ending(content: bytes, folder: Path) -> str:
    """Return how a run over the file ends, or what is wrong with how it ends."""
    model, output = folder / "m.onnx", folder / "out.onnx"
    model.write_bytes(content)
    output.unlink(missing_ok=True)
    start = time.monotonic()
    try:
        bnfold.optimize(model, output, check=False, hashes=False)
    except BnfoldError as error:
        end = f"exit {error.exit_code}"
        if error.exit_code != 3:
            end = f"wrong: {end}, {error}"
        if output.exists():
            end = f"wrong: {end}, and OUTPUT is there"
    except Exception as error:
        end = f"wrong: {error!r}"
    else:
        end = "done"
    if model.read_bytes() != content:
        end = f"wrong: {end}, and the model has changed"
    if time.monotonic() - start > SECONDS:
        end = f"wrong: {end}, after {time.monotonic() - start:.0f} s"
    return end


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of weights that are damaged
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
def test_a_damaged_file_is_refused_in_words_or_rewritten(tmp_path: Path, seed: int) -> None:
    with quiet():
        ends = Counter(ending(content, tmp_path) for content in mutants(seed, 75))
    assert not [end for end in ends if end.startswith("wrong")]
    assert set(ends) == {"done", "exit 3"}


def small() -> onnx.ModelProto:
    return build("(float[4] x) => (float[4] y) { y = Add(x, w) }", w=normal(4))


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    content = small().SerializeToString().replace(b"Add", b"A\xffd")
    (tmp_path / "m.onnx").write_bytes(content)
    run("explain", tmp_path / "m.onnx").failed(3, "not UTF-8")


def test_a_tensor_without_a_type_is_told(tmp_path: Path) -> None:
    model = small()
    model.graph.initializer[0].data_type = onnx.TensorProto.UNDEFINED
    onnx.save(model, tmp_path / "m.onnx")
    run("explain", tmp_path / "m.onnx").failed(3, "'w'", "UNDEFINED")


def test_a_crash_of_onnx_is_told_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel larger than the map: onnx infers a negative size, and aborts at the Slice of it."""
    monkeypatch.setattr("bnfold.speed.processes.Worker", Worker)  # timing crashes, too
    model, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    proto = build(
        """(float[1,3,4,4] x) => (float[a,b,c,d] y, float[1,3,4,4] q) {
            c = Conv(x, w) y = Slice(c, z, e, a) d = Dropout(x) q = Neg(d)
        }""",
        w=np.ones((2, 3, 10, 10), np.float32),
        z=np.array([0]),
        e=np.array([-1]),
        a=np.array([2]),
    )
    onnx.save(proto, model)
    told = "bnfold: onnx's shape inference crashes on this model, so some sizes stay unknown\n"
    for arguments in (
        ("explain", model),
        ("inspect", model),
        ("inspect", model, model),
        ("optimize", model, output, "--no-check", "--no-bench"),
    ):
        outcome = run(*arguments)
        assert (outcome.code, outcome.err) == (0, told)
    output.unlink()
    off = ("--certify", "off")
    outcome = run("optimize", model, output, *off)
    assert outcome.code == 5
    assert outcome.err.startswith(told)
    assert "onnxruntime crashed" in outcome.err
    assert not output.exists()
    outcome = run("check", model, model, *off)
    assert outcome.code == 5
    assert "onnxruntime crashed" in outcome.out
    run("bench", model).failed(5, "onnxruntime crashed (SIGABRT) while loading")
    outcome = run("optimize", model, output, "--no-check")
    assert (outcome.code, outcome.err) == (0, told)
    assert "not timed: onnxruntime crashed" in outcome.out


def laughs(depth: int) -> onnx.ModelProto:
    """Return functions that each call the one before twice: 2 to the power of `depth` nodes."""
    lines = ["F0 (a) => (c) { c = Neg(a) }"]
    lines += [f"F{n} (a) => (c) {{ b = l.F{n - 1}(a) c = l.F{n - 1}(b) }}" for n in range(1, depth)]
    opsets = '<domain: "l", opset_import: ["": 17, "l": 1]>'
    functions = "\n".join(f"{opsets} {line}" for line in lines)
    return onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 17, "l": 1]> g (float[4] x) => (float[4] y) '
        f"{{ y = l.F{depth - 1}(x) }} {functions}"
    )


@pytest.mark.parametrize("depth", [3, 16, 40])
def test_functions_that_multiply_end_with_a_reason_in_seconds(tmp_path: Path, depth: int) -> None:
    onnx.save(laughs(depth), tmp_path / "m.onnx")
    start = time.monotonic()
    outcome = run("explain", tmp_path / "m.onnx")
    assert outcome.code == 0
    assert time.monotonic() - start < SECONDS
    if depth > 3:
        assert "kept" in outcome.out


def main() -> None:
    """Run the mutants of a seed, and keep the files that end wrongly."""
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    ends: Counter[str] = Counter()
    with quiet():
        for number, content in enumerate(mutants(seed, count)):
            (folder / "last.onnx").write_bytes(content)  # if it crashes or hangs
            end = ending(content, folder)
            ends[end.partition(":")[0]] += 1
            if end.startswith("wrong"):
                (folder / f"{seed}_{number}.onnx").write_bytes(content)
                print(f"{folder}/{seed}_{number}.onnx: {end}")
    print(dict(ends))


if __name__ == "__main__":
    main()
