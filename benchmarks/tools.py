"""The compared tools: each is a command that reads a model and writes another.

Those without a command of their own run as `python -m benchmarks.tools TOOL INPUT OUTPUT`. All run
with their defaults, but for the options that a model asks of bnfold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

Command = Callable[[Path, Path], list[str]]


@dataclass(frozen=True)
class Tool:
    """A tool: its name, the package that gives its version, and its command for two paths."""

    name: str
    package: str
    command: Command
    same_result_as: str | None = None
    """A tool that writes the same file, which is examined only once."""

    def version(self) -> str:
        return version(self.package)


def _module(*words: str, options: Sequence[str] = ()) -> Command:
    """Return ``python -m WORDS INPUT OUTPUT OPTIONS``."""
    return lambda model, output: [
        *(sys.executable, "-m", *words),
        *(str(model), str(output)),
        *options,
    ]


def _here(name: str) -> Command:
    return _module("benchmarks.tools", name)


TOOLS: Sequence[Tool] = (
    Tool("bnfold", "bnfold", _module("bnfold", "optimize", options=["--no-check", "--no-bench"])),
    Tool(
        "bnfold with its proof",
        "bnfold",
        _module("bnfold", "optimize", options=["--no-bench"]),
        same_result_as="bnfold",
    ),
    Tool("onnxruntime basic", "onnxruntime", _here("onnxruntime-basic")),
    Tool("onnxruntime all", "onnxruntime", _here("onnxruntime-all")),
    Tool("onnxsim", "onnxsim", _module("onnxsim")),
    Tool("OnnxSlim", "onnxslim", _module("onnxslim")),
    Tool("onnxscript", "onnxscript", _here("onnxscript")),
    Tool("onnxoptimizer", "onnxoptimizer", _module("onnxoptimizer", options=["--fixed_point"])),
)


def _onnxruntime(model: str, output: str, level: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = output
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _onnxruntime_basic(model: str, output: str) -> None:
    _onnxruntime(model, output, "ORT_ENABLE_BASIC")


def _onnxruntime_all(model: str, output: str) -> None:
    _onnxruntime(model, output, "ORT_ENABLE_ALL")


def _onnxscript(model: str, output: str) -> None:
    import onnx_ir
    import onnxscript.optimizer

    loaded = onnx_ir.load(model)
    onnx_ir.save(onnxscript.optimizer.optimize(loaded), output)


_FUNCTIONS: Mapping[str, Callable[[str, str], None]] = {
    "onnxruntime-basic": _onnxruntime_basic,
    "onnxruntime-all": _onnxruntime_all,
    "onnxscript": _onnxscript,
}

if __name__ == "__main__":
    name, source, target = sys.argv[1:]
    _FUNCTIONS[name](source, target)
