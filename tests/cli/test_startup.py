from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from bnfold.cli import main as cli

sys.argv = ["bnfold", *{arguments!r}]
try:
    cli.main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(*(name for name in {unwanted!r} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], ["numpy", "onnx", "onnx_ir", "sympy"]),
        (["passes"], ["onnxruntime", "sympy", "matplotlib"]),
        (["explain", "models/conv_bn_conv.onnx"], ["onnxruntime", "sympy", "matplotlib"]),
        (
            [
                "optimize",
                "models/conv_bn_conv.onnx",
                "{folder}/out.onnx",
                "--no-check",
                "--no-bench",
            ],
            ["onnxruntime", "sympy", "matplotlib", "onnx.reference", "bnfold.speed"],
        ),
    ],
    ids=["help", "passes", "explain", "rewrite"],
)
def test_a_command_imports_only_what_it_needs(
    tmp_path: Path, arguments: list[str], unwanted: list[str]
) -> None:
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    command = RUN.format(arguments=arguments, unwanted=unwanted)
    outcome = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert outcome.stderr.split() == []


COMPUTE = """
import sys
from bnfold.cli.startup import defer_sympy

defer_sympy()
import onnx_ir

assert "sympy" not in sys.modules
print(onnx_ir.SymbolicDim("N") * 2 + onnx_ir.SymbolicDim("max(M, 3)"))
import sympy.core

assert isinstance(sympy, type(sys))
assert isinstance(onnx_ir.SymbolicDim(sympy.Symbol("K")), onnx_ir.SymbolicDim)
"""


def test_symbolic_dimensions_can_still_be_computed() -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", COMPUTE], capture_output=True, text=True, check=True
    )
    assert outcome.stdout.split() == ["2*N", "+", "Max(3,", "M)"]
