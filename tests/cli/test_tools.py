"""The commands that look at models and at this machine: `inspect`, `doctor`, `--version`."""

from __future__ import annotations

import io
import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from unittest import mock

import onnx
import pytest
from rich.console import Console

import bnfold
from bnfold.cli.passes import print_pass
from bnfold.errors import ProviderError
from bnfold.graph.cost import Cost
from bnfold.rewriting.contract import Exactness, Pass
from tests.support.cli import REWRITTEN, UNCHANGED, run
from tests.support.graphs import Parameters, batch_norm, build, normal

COMMANDS = (
    *("optimize", "batch", "check", "bench", "explain"),
    *("report", "passes", "inspect", "doctor"),
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns_uncut(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run(*([command] if command else []), "--help").out
    assert not [line for line in text.splitlines() if len(line) > 80]
    usage, _, described = text.partition("\n\n")
    assert "{" not in usage
    assert "..." not in described
    assert "<list" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_is_true_of_each_command(command: str) -> None:
    text = " ".join(run(command, "--help").out.split())
    has_record = command in ("optimize", "check", "bench", "explain")
    assert ("--json Print only the JSON record." in text) == has_record
    assert ("Print the verdict, the speed and the file" in text) == (command == "optimize")
    assert ("Print all outputs, nodes and conditions." in text) == (command == "optimize")


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (("check", REWRITTEN, REWRITTEN, "--certify", "off", "--truth", "off"), "equivalence: "),
        (("bench", REWRITTEN, "--seconds", "0", "--no-memory"), "speed: "),
        (("explain", REWRITTEN), f"{REWRITTEN}: "),
    ],
)
def test_what_is_left_by_quiet(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str | Path, ...], start: str
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    (line,) = run(*arguments, "--quiet").out.splitlines()
    assert line.startswith(start)


def test_options_are_listed_in_groups() -> None:
    text = run("optimize", "--help").out
    places = [text.index(f"\n{title}:") for title in ("Arguments", "What to rewrite", "Check")]
    assert places == sorted(places)
    assert text.index("--only") < places[2] < text.index("--rtol")
    assert "<float range>" not in text


# --- passes ---------------------------------------------------------------------------------------

DOCUMENTATION = """Fold what
lies in lines of any length.

    y = a formula + that stays as long as it is
    z = likewise

It passes

- one item, which goes on
  in a line of its own;
- another.
"""


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            80,
            [
                "Fold what lies in lines of any length.",
                "",
                "    y = a formula + that stays as long as it is",
                "    z = likewise",
                "",
                "It passes",
                "",
                "- one item, which goes on in a line of its own;",
                "- another.",
            ],
        ),
        (
            24,
            [
                "Fold what lies in lines",
                "of any length.",
                "",
                "    y = a formula + that stays as long as it is",
                "    z = likewise",
                "",
                "It passes",
                "",
                "- one item, which goes",
                "  on in a line of its",
                "  own;",
                "- another.",
            ],
        ),
    ],
)
def test_the_prose_of_a_pass_fills_lines_and_formulas_stay(width: int, lines: list[str]) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    print_pass(console, Pass("x", ("Relu",), Exactness.BITWISE, (), mock.Mock(), DOCUMENTATION))
    assert console.export_text().splitlines()[2:-2] == lines


# --- inspect --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "weights", "multiplications"),
    [
        ("y = Conv(x, w)", {"w": normal(8, 6, 3, 3)}, 8 * 5 * 6 * 6 * 9),
        ("y = Conv<group=2>(x, w)", {"w": normal(8, 3, 3, 3)}, 8 * 5 * 6 * 3 * 9),
        ("y = Conv<strides=[2,2]>(x, w)", {"w": normal(8, 6, 1, 1)}, 8 * 4 * 4 * 6),
        ("y = ConvTranspose(x, w)", {"w": normal(6, 4, 2, 2)}, 6 * 7 * 8 * 4 * 4),
        ("f = Flatten(x) y = Gemm(f, w)", {"w": normal(336, 10)}, 336 * 10),
        ("f = Flatten(x) y = Gemm<transB=1>(f, w)", {"w": normal(10, 336)}, 336 * 10),
        ("y = MatMul(x, w)", {"w": normal(8, 5)}, 6 * 7 * 8 * 5),
        ("y = Relu(x)", {}, 0),
    ],
)
def test_multiplications_are_those_of_one_image(
    lines: str, weights: Parameters, multiplications: int
) -> None:
    model = build(f"(float[N,6,7,8] x) => (float y) {{ {lines} }}", **weights)
    parameters = sum(weight.size for weight in weights.values())
    assert bnfold.inspect(model).cost == Cost(parameters, multiplications, 0)


def test_operators_of_unknown_sizes_are_counted_apart() -> None:
    model = build("(float[N,6,H,8] x) => (float y) { y = Conv(x, w) }", w=normal(8, 6, 3, 3))
    assert bnfold.inspect(model).cost == Cost(8 * 6 * 9, 0, 1)


def test_one_model() -> None:
    outcome = run("inspect", REWRITTEN)
    assert (outcome.code, outcome.err) == (0, "")
    assert "images: float32[batch,1,8,8]" in outcome.out
    assert outcome.out.startswith("file ")
    assert "BatchNormalization" in outcome.out
    described = json.loads(run("inspect", REWRITTEN, "--json").out)
    assert described["model"]["ops"]["Conv"] == 2
    assert described["inputs"] == {"images": "float32[batch,1,8,8]"}
    assert described["cost"]["parameters"] > 0


def test_two_models(tmp_path: Path) -> None:
    optimized = tmp_path / "fast.onnx"
    assert run("optimize", REWRITTEN, optimized, "--no-bench").code == 0
    outcome = run("inspect", REWRITTEN, optimized)
    assert (outcome.code, outcome.err) == (0, "")
    assert "2 nodes only in the first:" in outcome.out
    assert "BatchNormalization → Conv" in outcome.out
    nodes = json.loads(run("inspect", REWRITTEN, optimized, "--json").out)["nodes"]
    assert not nodes["new"]
    assert set(nodes["gone"].values()) == {"Conv"}
    same = json.loads(run("inspect", REWRITTEN, REWRITTEN, "--json").out)["nodes"]
    assert same == {"gone": {}, "new": {}, "changed": {}}


def test_many_nodes_are_shown_on_request(tmp_path: Path) -> None:
    lines = " ".join(f"a{number + 1} = Relu(a{number})" for number in range(30))
    onnx.save(build(f"(float[2] a0) => (float[2] a30) {{ {lines} }}"), tmp_path / "long.onnx")
    onnx.save(build("(float[2] a0) => (float[2] a30) { a30 = Relu(a0) }"), tmp_path / "short.onnx")
    arguments = ("inspect", tmp_path / "long.onnx", tmp_path / "short.onnx")
    assert "and 19 more (--verbose)" in run(*arguments).out
    assert "Relu a29" in run(*arguments, "--verbose").out


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    run("inspect", tmp_path / "no.onnx").failed(3, "no.onnx")
    run("inspect", tmp_path / "missing.onnx").failed(3, "missing.onnx")


# --- doctor ---------------------------------------------------------------------------------------


def test_a_healthy_machine() -> None:
    outcome = run("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    found = {each["name"]: each for each in json.loads(run("doctor", "--json").out)}
    assert found["provider cpu"]["works"]
    assert found["bnfold"]["detail"] in run("--version").out
    assert found["this folder"]["works"]


def test_a_machine_without_a_provider() -> None:
    def refuse(provider: str) -> None:
        raise ProviderError(f"no {provider} here")

    with mock.patch("bnfold.running.diagnosis.require_provider", refuse):
        outcome = run("doctor")
    assert outcome.code == 4
    assert "no cpu here" in outcome.out


def test_a_package_that_is_missing() -> None:
    def find(package: str) -> str:
        if package == "threadpoolctl":
            raise PackageNotFoundError(package)
        return "1.0"

    with mock.patch("bnfold.running.diagnosis.version", find):
        found = {each["name"]: each for each in json.loads(run("doctor", "--json").out)}
    assert not found["threadpoolctl"]["works"]
    assert "pip install threadpoolctl" in found["threadpoolctl"]["detail"]
    assert found["typer"]["works"]


def test_a_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc")
    found = {each["name"]: each for each in json.loads(run("doctor", "--json").out)}
    assert not found["this folder"]["works"]


def test_the_version_names_what_results_depend_on() -> None:
    line = run("--version").out
    assert line.startswith("bnfold ")
    assert "onnx " in line
    assert "onnxruntime" in line


# --- explain as a gate ----------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "code"), [(REWRITTEN, 1), (UNCHANGED, 0)])
def test_explain_is_a_gate_on_request(tmp_path: Path, model: Path, code: int) -> None:
    assert run("explain", model).code == 0
    report = tmp_path / "why.md"
    assert run("explain", model, "--exit-code", "--report", report).code == code
    assert "explained" in report.read_text()


@pytest.mark.parametrize("command", ["optimize", "explain"])
def test_less_and_more_than_usual_contradict_each_other(command: str) -> None:
    run(command, REWRITTEN, "-q", "-v").failed(2, "--quiet", "--verbose")


# --- What an option does not do is said -----------------------------------------------------------


def test_a_pattern_that_matches_no_node_is_said() -> None:
    outcome = run("explain", REWRITTEN, "--keep-node", "layer9")
    assert (outcome.code, outcome.err) == (0, "bnfold: --keep-node layer9 matches no node\n")
    assert run("explain", REWRITTEN, "--keep-node", "Conv").err == ""


def test_options_without_effect_are_said(tmp_path: Path) -> None:
    place = tmp_path / "out.onnx"
    arguments = ("optimize", REWRITTEN, place, "--no-check", "--no-bench", "--rtol", "1e-3")
    outcome = run(*arguments, "--certify", "off", "--drop-culprit")
    said = "bnfold: --no-check leaves --rtol, --certify, --drop-culprit without effect\n"
    assert (outcome.code, outcome.err) == (0, said)
    assert run("optimize", REWRITTEN, place, "--no-check", "--no-bench").err == ""


@pytest.mark.parametrize("provider", ["CPU", "CPUExecutionProvider", "cpuexecutionprovider"])
def test_a_provider_is_known_by_several_names(provider: str) -> None:
    record = run("check", REWRITTEN, REWRITTEN, "--provider", provider, "--json").record
    (found,) = record["equivalence"]["providers"]
    assert found["provider"] == "cpu"


@pytest.mark.parametrize(
    ("shape", "words"), [("1,8,8", ("1×8×8", "×1×8×8")), ("1,1,8,9", ("1×1×8×9",))]
)
def test_a_shape_that_does_not_fit_is_a_usage_error(shape: str, words: tuple[str, ...]) -> None:
    outcome = run("check", REWRITTEN, REWRITTEN, "--input", f"images:{shape}")
    outcome.failed(2, "'images'", *words)


# --- Sizes that are set ---------------------------------------------------------------------------


def test_sizes_of_an_input_are_set_in_the_model_itself(tmp_path: Path) -> None:
    model = build(
        """(float[N,3,H,W] x, float[N,4] z, float[M] u)
            => (float[N,4,H,W] y, float[N,4] p, float[M] w) {
            c = Conv(x, k) y = BatchNormalization(c, s, b, m, v) p = Neg(z) w = Relu(u)
        }""",
        k=normal(4, 3, 1, 1),
        **batch_norm(4),
    )
    onnx.save(model, tmp_path / "m.onnx")
    arguments = ("--set-shape", "x:2,3,5,7", "--no-bench", "--json")
    record = run("optimize", tmp_path / "m.onnx", tmp_path / "out.onnx", *arguments).record
    assert record["equivalence"]["verdict"] == "pass"
    assert record["rewrites"][0]["pass"] == "set-shape"
    assert record["rewrites"][0]["exactness"] == "semantic"
    found = bnfold.inspect(tmp_path / "out.onnx")
    assert found.inputs == {"x": "float32[2,3,5,7]", "z": "float32[2,4]", "u": "float32[M]"}
    assert found.outputs == {"y": "float32[2,4,5,7]", "p": "float32[2,4]", "w": "float32[M]"}


def test_the_shape_of_a_scalar_is_known_and_that_of_an_unknown_rank_is_any(tmp_path: Path) -> None:
    onnx.save(build("(float s, float[N] x) => (float[N] y) { y = Add(s, x) }"), tmp_path / "m.onnx")
    run("explain", tmp_path / "m.onnx", "--set-shape", "s:3").failed(2, "'s', which is a scalar")
    model = build("(float[N] x) => (float[N] y) { y = Neg(x) }")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "any.onnx")
    assert run("explain", tmp_path / "any.onnx", "--set-shape", "x:3").code == 0


def test_a_name_that_stands_for_several_sizes_is_left_elsewhere(tmp_path: Path) -> None:
    model = build("(float[A,A] x, float[A] z) => (float[A,A] y) { r = Neg(x) y = Add(r, z) }")
    onnx.save(model, tmp_path / "m.onnx")
    run(
        "optimize", tmp_path / "m.onnx", tmp_path / "out.onnx", "--set-shape", "x:2,3", "--no-check"
    )
    inputs = bnfold.inspect(tmp_path / "out.onnx").inputs
    assert inputs == {"x": "float32[2,3]", "z": "float32[A]"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images:1,8,8", ("1×8×8", "batch×1×8×8")),
        ("images:1,1,8,9", ("does not fit",)),
        ("image:1,1,8,8", ("no input 'image'", "images")),
        ("images", ("NAME:1,3,224,224",)),
        ("images:0,1,8,8", ("NAME:1,3,224,224",)),
    ],
)
def test_sizes_that_do_not_fit_are_a_usage_error(text: str, words: tuple[str, ...]) -> None:
    run("explain", REWRITTEN, "--set-shape", text).failed(2, *words)
