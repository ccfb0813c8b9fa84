"""Runs the command line in this process and captures its output and exit code."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import onnx_ir as ir
import typer.main

from bnfold.cli.main import main
from bnfold.record.schema import record_schema
from bnfold.rewriting.contract import Exactness, Op, Pass, Replace
from bnfold.rewriting.registry import all_passes

MODELS = Path(__file__).parent.parent.parent / "models"
SAMPLES = [path for path in sorted(MODELS.glob("*.onnx")) if not path.name.endswith(".bnfold.onnx")]
"""Not what a user has made of them, beside them."""
REWRITTEN = MODELS / "conv_bn_relu_pool.onnx"
"""A sample with something to rewrite."""
UNCHANGED = MODELS / "training_mode.onnx"
"""A sample with nothing to rewrite."""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Those that the command handles."""


@dataclass(frozen=True)
class Outcome:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The record printed by `--json`: all of stdout, strict JSON that matches the schema."""
        content = parse_strictly(self.out)
        by_schema().validate(content)
        return content

    def failed(self, code: int, *words: str) -> None:
        """Assert this exit code and one line on stderr with all of these words."""
        assert self.code == code, self
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("bnfold: ")
        assert not [word for word in words if word not in lines[0]], lines[0]


@cache
def by_schema() -> jsonschema.Draft202012Validator:
    """Return what validates records. To check the schema itself, each time, would take longer."""
    return jsonschema.Draft202012Validator(record_schema())


def parse_strictly(text: str) -> dict[str, Any]:
    """Parse a JSON object, rejecting NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not valid JSON")

    content: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return content


def run(
    *arguments: str | Path, encoding: str = "utf-8", out: io.TextIOWrapper | None = None
) -> Outcome:
    """Run ``bnfold`` with these arguments, in this encoding, or with this as its output."""
    usual, err = (
        io.TextIOWrapper(io.BytesIO(), encoding, newline="", write_through=True) for _ in range(2)
    )
    code: object = 0
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with (
        mock.patch.object(sys, "argv", ["bnfold", *map(str, arguments)]),
        mock.patch("typer.main.get_command", built),
        redirect_stdout(out or usual),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert isinstance(code, int)
    return Outcome(code, _content(usual), _content(err))


built = cache(typer.main.get_command)
"""To build all commands anew takes longer than most of them."""


def _content(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def wrong_pass() -> Pass:
    """Return a wrong pass, which replaces Relu with Sigmoid."""

    def function(node: ir.Node) -> Replace:
        return Replace([node], {node.outputs[0]: Op("Sigmoid", node.inputs, like=node)})

    return Pass("relu-to-sigmoid", ("Relu",), Exactness.BITWISE, (), function, "Wrong.")


def plant_wrong_pass() -> Any:
    """Make `optimize` also run `wrong_pass` within this context."""

    def choose(only: Iterable[str] = (), skip: Iterable[str] = ()) -> list[Pass]:
        return [*all_passes(), wrong_pass()]

    return mock.patch("bnfold.workflow.variants.choose_passes", choose)


def untouched(path: Path) -> tuple[bytes, int, int]:
    """Return a state of the file that changes if it is written to or replaced."""
    status = path.stat()
    return path.read_bytes(), status.st_mtime_ns, status.st_ino


def names(folder: Path) -> set[str]:
    """Return the names of all files in a folder, including hidden ones."""
    return {path.name for path in folder.iterdir()}
