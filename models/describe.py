"""Prints models/README.md: what bnfold does to each sample, and what that does to its accuracy.

Run ``python models/describe.py > models/README.md`` (or ``make models``) after a pass changes.
A test compares the file with what this prints.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx

import bnfold
from bnfold.record.data import Record
from bnfold.running.runtime import Level, Session

FOLDER = Path(__file__).parent

ORDERS = {
    "conv_bn_relu_pool": "Conv → BN → ReLU → MaxPool, as in tutorials",
    "conv_relu_bn_pool": "Conv → ReLU → BN → MaxPool: BN after the activation",
    "conv_bn_conv": "Conv → BN → Conv → BN → ReLU: BN between convolutions without activation",
    "dense_bn_dense": "Linear → BN → Linear: BN between dense layers, with and without ReLU",
    "conv_bn_flatten_dense": "Conv → ReLU → BN → Flatten → Linear: BN between conv and dense",
    "dropout_after_pool": "Conv → BN → ReLU → MaxPool → Dropout",
    "dropout_before_pool": "Conv → BN → ReLU → Dropout → MaxPool",
    "preactivation_resnet": "BN → ReLU → Conv blocks with shortcuts: a pre-activation ResNet",
    "conv_pool_bn_elu": "Conv → MaxPool → BN → ELU: pooling before normalization and activation",
    "training_mode": "the first order with Dropout, exported without model.eval()",
}

HEADER = """# Samples

Ten small networks, each with another order of BatchNormalization, Dropout, pooling and activation.
They were trained on scikit-learn's handwritten digits (8×8 pixels) and exported by
[build.py](build.py); `digits.npz` holds the 360 images that none of them has seen in training.
This page is printed by [describe.py](describe.py) and checked by the tests.

Try one: `bnfold optimize models/conv_bn_conv.onnx conv_bn_conv.fast.onnx`, or
`bnfold explain models/preactivation_resnet.onnx`.

| sample | order of layers | nodes | top-1 before | top-1 after | verdict |
|---|---|---|---|---|---|"""

TRAINING_NOTE = """
`training_mode` is left as it is, byte for byte: it normalizes by the batch at hand and drops values
at random, so no rewrite would be right. Its accuracy varies from run to run with the random numbers
and is not given. With `--force-inference` both are switched off first, and then bnfold folds and
strips what is left: top-1 is then {accuracy:.1%}."""


def page() -> str:
    """Return the text of models/README.md."""
    summaries, details = [], []
    for name, order in ORDERS.items():
        path = FOLDER / f"{name}.onnx"
        result = bnfold.optimize(path)
        record = result.record
        assert record.output is not None
        assert record.equivalence is not None
        before, after = "–", "–"
        if name != "training_mode":
            models = onnx.load(path), result.to_proto()
            before, after = (f"{accuracy(model):.1%}" for model in models)
        summaries.append(
            f"| [{name}]({name}.onnx) | {order} | {record.model.nodes} → {record.output.nodes} "
            f"| {before} | {after} | {record.equivalence.verdict} |"
        )
        details.append(f"### {name}\n\n{_describe(record)}")
    forced = bnfold.optimize(
        FOLDER / "training_mode.onnx", passes=bnfold.PassOptions(force_inference=True)
    )
    note = TRAINING_NOTE.format(accuracy=accuracy(forced.to_proto()))
    sections = [HEADER + "\n" + "\n".join(summaries), note.strip(), "## What is done to each"]
    return "\n\n".join([*sections, *details]) + "\n"


def accuracy(model: onnx.ModelProto) -> float:
    """Return the share of held-out digits that the model classifies correctly."""
    with np.load(FOLDER / "digits.npz") as digits:
        images, labels = digits["images"], digits["labels"]
    session = Session(model.SerializeToString(), "cpu", Level.DISABLED, threads=1)
    logits = session.run({"images": images})["logits"]
    return float(np.mean(logits.argmax(axis=1) == labels))


def _describe(record: Record) -> str:
    rewrites = Counter(
        f"`{each.pass_name}`: {each.op_type} {each.detail}".strip() + f" ({each.exactness})"
        for each in record.rewrites
    )
    lines = [f"- {count} × {what}" for what, count in rewrites.items()]
    for refusal in record.refusals:
        remedy = f"; {refusal.remedy}" if refusal.remedy else ""
        also = ""
        if refusal.also_reason:
            also = f"; and behind it `{refusal.also_reason}`: {refusal.also_message}"
        lines.append(
            f"- kept: {refusal.op_type} `{refusal.site}`, `{refusal.reason}`: "
            f"{refusal.message}{also}{remedy}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
