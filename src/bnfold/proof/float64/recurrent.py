"""Recurrent operators for the float64 evaluation: onnx's own, where these ignore nothing.

Onnx's reference evaluator ignores the lengths of sequences, the clipping of gates, and all other
activations than the default ones. Then there is no float64 evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_gru, op_lstm, op_rnn

from bnfold.arrays import Array

_SEQUENCE_LENS = 4
"""Its place among the inputs."""

_NEVER = ("clip", "input_forget", "activation_alpha", "activation_beta")


def _require_plain(
    kind: str, inputs: Sequence[Array | None], attributes: dict[str, Any], *defaults: str
) -> None:
    """Require that onnx's operator ignores nothing that is given."""
    given = [name for name in _NEVER if attributes.get(name)]
    if len(inputs) > _SEQUENCE_LENS and inputs[_SEQUENCE_LENS] is not None:
        given.append("sequence_lens")
    activations = attributes.get("activations") or []
    cycle = list(defaults) * (len(activations) // len(defaults) + 1)
    if [str(each).lower() for each in activations] != cycle[: len(activations)]:
        given.append("activations")
    if given:
        raise NotImplementedError(f"onnx ignores {given[0]} in {kind}")


class GRU(op_gru.GRU):
    """Without anything that onnx ignores."""

    def _run(self, *inputs: Array | None, **attributes: Any) -> tuple[Array, ...]:
        _require_plain("GRU", inputs, attributes, "sigmoid", "tanh")
        run: Callable[..., tuple[Array, ...]] = super()._run
        return run(*inputs, **attributes)


class LSTM(op_lstm.LSTM):
    """Without anything that onnx ignores."""

    def _run(self, *inputs: Array | None, **attributes: Any) -> tuple[Array, ...]:
        _require_plain("LSTM", inputs, attributes, "sigmoid", "tanh", "tanh")
        run: Callable[..., tuple[Array, ...]] = super()._run
        return run(*inputs, **attributes)


class RNN(op_rnn.RNN_14):
    """Without anything that onnx ignores."""

    def _run(self, *inputs: Array | None, **attributes: Any) -> tuple[Array, ...]:
        _require_plain("RNN", inputs, attributes, "tanh")
        run: Callable[..., tuple[Array, ...]] = super()._run
        return run(*inputs, **attributes)


RECURRENT: list[type[OpRun]] = [GRU, LSTM, RNN]
