"""Blocks that their authors re-parameterise by hand, from the formulas of their papers.

Each function in `BLOCKS` returns the linear part of a block in inference as a training framework
exports it, BatchNormalizations and all, and the kernel that its authors' own code makes of it.
Run ``python -m benchmarks.blocks`` for a table: operators, and times with ``--time``. A test
compares the values of all three forms.

The authors' form is found without any algebra, by the block's answer to an impulse in each channel,
because that is what a kernel is. So it is independent of what is to be measured.

DBB and ECBSR pad between two Convs with what the first one makes of zeros. Here they pad before
both, which is the same.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import bnfold
from bnfold.speed.measure import compare_speed

CHANNELS = 64
SIZE = 56

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Merged:
    """The kernel that the authors' code leaves: its size, stride and groups."""

    size: int
    stride: int = 1
    groups: int = 1


class Graph:
    """Nodes and weights of a block, with fresh names. Weights keep the scale of the data."""

    def __init__(self, channels: int, size: int) -> None:
        self.channels = channels
        self.x = "x"
        self._shape = [1, channels, size, size]
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._generator = np.random.default_rng(0)

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, inputs, [name], name, **attributes))
        return name

    def weight(self, content: npt.NDArray[Any]) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(content.astype(np.float32), name))
        return name

    def normal(self, *shape: int, spread: float = 1.0) -> str:
        return self.weight(self._generator.standard_normal(shape) * spread)

    def conv(
        self,
        x: str,
        size: int | tuple[int, int],
        *,
        outputs: int | None = None,
        inputs: int | None = None,
        depthwise: bool = False,
        bias: bool = False,
        pads: Sequence[int] | None = None,
        **attributes: Any,
    ) -> str:
        """Return a Conv that keeps the size of the map, unless `pads` or strides say otherwise."""
        height, width = (size, size) if isinstance(size, int) else size
        inputs, outputs = inputs or self.channels, outputs or self.channels
        per_group = 1 if depthwise else inputs
        taps = per_group * height * width
        operands = [x, self.normal(outputs, per_group, height, width, spread=taps**-0.5)]
        if bias:
            operands.append(self.normal(outputs))
        dilation = attributes.get("dilations", [1])[0]
        around = [(height - 1) * dilation // 2, (width - 1) * dilation // 2] * 2
        attributes["group"] = inputs if depthwise else 1
        return self.node("Conv", *operands, pads=around if pads is None else pads, **attributes)

    def bn(self, x: str, channels: int | None = None) -> str:
        count = channels or self.channels
        uniform = self._generator.uniform
        parameters = [
            self.weight(uniform(0.5, 1.5, count)),
            self.normal(count),
            self.normal(count),
            self.weight(uniform(0.5, 1.5, count)),
        ]
        return self.node("BatchNormalization", x, *parameters)

    def sum(self, *values: str) -> str:
        total, *others = values
        for other in others:
            total = self.node("Add", total, other)
        return total

    def mapped(self, x: str) -> str:
        """Multiply by a learned scale, and add a learned bias, for each channel."""
        scaled = self.node("Mul", x, self.normal(1, self.channels, 1, 1))
        return self.node("Add", scaled, self.normal(1, self.channels, 1, 1))

    def model(self, result: str, activation: str = "Relu") -> onnx.ModelProto:
        """Return the block, with an activation after it; none if the name is empty."""
        output = self.node(activation, result) if activation else result
        graph = helper.make_graph(
            self._nodes,
            "block",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self._weights,
        )
        opset = [helper.make_opsetid("", 17)]
        return onnx.shape_inference.infer_shapes(
            helper.make_model(graph, opset_imports=opset, ir_version=8)
        )


# --- The blocks ---------------------------------------------------------------------------------


def repvgg(g: Graph) -> tuple[str, Merged]:
    """3×3, 1×1 and x, each with BatchNormalization (Ding et al., 2021); so do YOLOv6's blocks."""
    branches = [g.bn(g.conv(g.x, 3)), g.bn(g.conv(g.x, 1)), g.bn(g.x)]
    return g.sum(*branches), Merged(3)


def acnet(g: Graph) -> tuple[str, Merged]:
    """3×3, 1×3 and 3×1, each with BatchNormalization (Ding et al., 2019)."""
    return g.sum(*(g.bn(g.conv(g.x, size)) for size in (3, (1, 3), (3, 1)))), Merged(3)


def dbb(g: Graph) -> tuple[str, Merged]:
    """3×3; 1×1; 1×1 then 3×3; 1×1 then an average (Ding et al., 2021, diverse branch block)."""
    pads = [1, 1, 1, 1]
    deep = g.conv(g.bn(g.conv(g.x, 1, pads=pads)), 3, pads=[0, 0, 0, 0])
    reduced = g.bn(g.conv(g.x, 1, pads=pads))
    average = g.node("AveragePool", reduced, kernel_shape=[3, 3])
    branches = [g.conv(g.x, 3), g.conv(g.x, 1), deep, average]
    return g.sum(*map(g.bn, branches)), Merged(3)


def ecbsr(g: Graph) -> tuple[str, Merged]:
    """3×3; 1×1 wide then 3×3; 1×1 then scaled Sobel and Laplace masks; x (Zhang et al., 2021)."""
    wide = g.conv(g.x, 1, outputs=2 * g.channels, bias=True, pads=[1, 1, 1, 1])
    branches = [
        g.conv(g.x, 3, bias=True),
        g.conv(wide, 3, inputs=2 * g.channels, bias=True, pads=[0, 0, 0, 0]),
    ]
    masks = ([1, 0, -1], [2, 0, -2], [1, 0, -1]), ([1, 2, 1], [0, 0, 0], [-1, -2, -1])
    for mask in (*masks, ([0, 1, 0], [1, -4, 1], [0, 1, 0])):
        scale = np.random.default_rng(1).standard_normal((g.channels, 1, 1, 1)) * 0.1
        first = g.conv(g.x, 1, bias=True, pads=[1, 1, 1, 1])
        kernel, bias = g.weight(scale * np.array(mask)), g.normal(g.channels)
        branches.append(g.node("Conv", first, kernel, bias, group=g.channels))
    return g.sum(*branches, g.x), Merged(3)


def replknet(g: Graph) -> tuple[str, Merged]:
    """A 31×31 depthwise Conv and a 5×5 one (Ding et al., 2022)."""
    branches = [g.bn(g.conv(g.x, size, depthwise=True)) for size in (31, 5)]
    return g.sum(*branches), Merged(31, groups=g.channels)


def unireplknet(g: Graph) -> tuple[str, Merged]:
    """A 13×13 depthwise Conv and dilated ones within it (Ding et al., 2024)."""
    large = g.bn(g.conv(g.x, 13, depthwise=True))
    dilated = [
        g.bn(g.conv(g.x, size, depthwise=True, dilations=[step, step]))
        for size, step in ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))
    ]
    return g.sum(large, *dilated), Merged(13, groups=g.channels)


def mobileone_depthwise(g: Graph) -> tuple[str, Merged]:
    """Four 3×3 depthwise Convs, a 1×1 one and x (Vasu et al., 2023)."""
    convs = [g.conv(g.x, size, depthwise=True) for size in (3, 3, 3, 3, 1)]
    return g.sum(*map(g.bn, [*convs, g.x])), Merged(3, groups=g.channels)


def mobileone_pointwise(g: Graph) -> tuple[str, Merged]:
    """Four 1×1 Convs and x (Vasu et al., 2023)."""
    return g.sum(*map(g.bn, [*(g.conv(g.x, 1) for _ in range(4)), g.x])), Merged(1)


def fastvit_mixer(g: Graph) -> tuple[str, Merged]:
    """X + γ·(mixer(x) − BN(x)), the mixer as in MobileOne (Vasu et al., 2023, FastViT)."""
    mixer = g.sum(*(g.bn(g.conv(g.x, size, depthwise=True)) for size in (3, 1)), g.bn(g.x))
    mixed = g.node("Sub", mixer, g.bn(g.x))
    scaled = g.node("Mul", g.normal(g.channels, 1, 1), mixed)
    return g.sum(g.x, scaled), Merged(3, groups=g.channels)


def repvit(g: Graph) -> tuple[str, Merged]:
    """BN(BN(3×3 depthwise) + 1×1 depthwise + x) (Wang et al., 2024)."""
    branches = [g.bn(g.conv(g.x, 3, depthwise=True)), g.conv(g.x, 1, depthwise=True, bias=True)]
    return g.bn(g.sum(*branches, g.x)), Merged(3, groups=g.channels)


def yolov7_repconv(g: Graph) -> tuple[str, Merged]:
    """3×3 and 1×1 of stride 2, with BatchNormalization (Wang et al., 2023)."""
    branches = [g.bn(g.conv(g.x, size, strides=[2, 2])) for size in (3, 1)]
    return g.sum(*branches), Merged(3, stride=2)


def yolov9_repconvn(g: Graph) -> tuple[str, Merged]:
    """3×3 and 1×1, with BatchNormalization and without x (Wang et al., 2024)."""
    return g.sum(g.bn(g.conv(g.x, 3)), g.bn(g.conv(g.x, 1))), Merged(3)


def repghost(g: Graph) -> tuple[str, Merged]:
    """A 3×3 depthwise Conv and x, each with BatchNormalization (Chen et al., 2022)."""
    branches = [g.bn(g.conv(g.x, 3, depthwise=True)), g.bn(g.x)]
    return g.sum(*branches), Merged(3, groups=g.channels)


def ghostnetv3(g: Graph) -> tuple[str, Merged]:
    """Three 3×3 depthwise Convs, a 1×1 one and x: the cheap operation (Liu et al., 2024)."""
    convs = [g.conv(g.x, size, depthwise=True) for size in (3, 3, 3, 1)]
    return g.sum(*map(g.bn, [*convs, g.x])), Merged(3, groups=g.channels)


def lcnetv2(g: Graph) -> tuple[str, Merged]:
    """5×5, 3×3 and 1×1 depthwise Convs, each with BatchNormalization (PaddleClas, PP-LCNetV2)."""
    branches = [g.bn(g.conv(g.x, size, depthwise=True)) for size in (5, 3, 1)]
    return g.sum(*branches), Merged(5, groups=g.channels)


def nextvit(g: Graph) -> tuple[str, Merged]:
    """A BatchNormalization before the 1×1 Conv of a residual block's MLP (Li et al., 2022)."""
    return g.conv(g.bn(g.x), 1, bias=True), Merged(1)


def conv_and_average(g: Graph) -> tuple[str, Merged]:
    """A 3×3 Conv and the average of 2×2 positions, as in anti-aliased downsampling."""
    conv = g.bn(g.conv(g.x, 3))
    pool = g.node("AveragePool", conv, kernel_shape=[2, 2], strides=[2, 2])
    return pool, Merged(4, stride=2)


BLOCKS: Mapping[str, Callable[[Graph], tuple[str, Merged]]] = {
    block.__name__: block
    for block in (
        *(repvgg, acnet, dbb, ecbsr, replknet, unireplknet, mobileone_depthwise),
        *(mobileone_pointwise, fastvit_mixer, repvit, yolov7_repconv, yolov9_repconvn, repghost),
        *(ghostnetv3, lcnetv2, nextvit, conv_and_average),
    )
}


def plain(name: str, channels: int = CHANNELS, size: int = SIZE) -> onnx.ModelProto:
    """Return a block as it is exported, with a Relu after it."""
    graph = Graph(channels, size)
    return graph.model(BLOCKS[name](graph)[0])


def reparameterised(name: str, channels: int = CHANNELS, size: int = SIZE) -> onnx.ModelProto:
    """Return the same block as its authors' own code leaves it, with a Relu after it."""
    graph = Graph(channels, 1)
    merged = BLOCKS[name](graph)[1]
    room = 3 * merged.size + merged.size % 2  # so that the kernel lies inside
    probed = Graph(channels, room)
    weight, bias = _answers(probed.model(BLOCKS[name](probed)[0], activation=""), room, merged)
    result = Graph(channels, size)
    start = (merged.size - 1) // 2
    conv = result.node(
        "Conv",
        result.x,
        result.weight(weight),
        result.weight(bias),
        group=merged.groups,
        strides=[merged.stride] * 2,
        pads=[start] * 4,
    )
    return result.model(conv)


def _answers(model: onnx.ModelProto, room: int, merged: Merged) -> tuple[Array, Array]:
    """Return the kernel and bias of a linear model, from what it answers to impulses.

    At another phase of the stride, an impulse is heard by other taps.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    zero = np.zeros((1, channels, room, room), np.float32)
    silence: Array = session.run(None, {"x": zero})[0]
    size, stride, start = merged.size, merged.stride, (merged.size - 1) // 2
    per_group = channels // merged.groups
    weight = np.zeros((channels, per_group, size, size), np.float32)
    middle = silence.shape[2] // 2
    for channel in range(per_group):
        for phase in np.ndindex(stride, stride):
            impulse = zero.copy()  # one in each group: groups do not hear each other
            place = [middle * stride + step for step in phase]
            impulse[(0, slice(channel, None, per_group), *place)] = 1
            answer = session.run(None, {"x": impulse})[0] - silence
            # Position i hears it by the tap place − i·stride + start.
            taps = [np.arange((p + start) % stride, size, stride) for p in place]
            rows, columns = ((p + start - t) // stride for p, t in zip(place, taps, strict=True))
            heard = answer[0][:, rows[:, None], columns]
            weight[:, channel, taps[0][:, None], taps[1]] = heard
    return weight, silence[0, :, middle, middle]


# --- The table ----------------------------------------------------------------------------------


def main() -> None:
    """Print a table of the blocks: operators of each form, and how fast each is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blocks", nargs="*", default=list(BLOCKS), metavar="BLOCK")
    parser.add_argument("--time", type=float, default=0.0, help="seconds per measurement")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print("| block | plain | authors | bnfold | plain : bnfold | authors : bnfold |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.blocks:
            paths = [Path(folder) / f"{name}.{form}.onnx" for form in ("plain", "authors", "ours")]
            onnx.save(plain(name), paths[0])
            onnx.save(reparameterised(name), paths[1])
            bnfold.optimize(paths[0], paths[2], check=False)
            row = [name, *(_operators(path) for path in paths)]
            for path in paths[:2] if given.time else []:
                speed = compare_speed(path, paths[2], seconds=given.time, threads=given.threads)
                milliseconds = f"{speed.original_ms:.2f} : {speed.optimized_ms:.2f} ms"
                row.append(f"{speed.speedup:.2f} ({speed.control:.2f}), {milliseconds}")
            print("| " + " | ".join(row) + " |", flush=True)


def _operators(path: Path) -> str:
    """Return the number of operators, and which, if they are few."""
    found = [node.op_type for node in onnx.load(path).graph.node]
    return f"{len(found)}" + (f" ({', '.join(found)})" if len(found) < 4 else "")


if __name__ == "__main__":
    main()
