"""Train eleven small networks on scikit-learn's digits and export them to ONNX.

    pip install torch scikit-learn onnx onnxruntime
    python models/build.py [NAME...]

Writes `<name>.onnx` for each network, or each one named, and `digits.npz` (held-out images and
labels) next to this file. Seeds are fixed and training uses one thread, so rebuilding on the same
machine with the same package versions gives the same bytes.
"""

import copy
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.onnx import TrainingMode, symbolic_helper

MODELS_DIR = Path(__file__).parent
MAX_BYTES = 300_000
MIN_ACCURACY = 0.90

SEED = 0
EPOCHS = 60
BATCH_SIZE = 64
MAX_LEARNING_RATE = 0.3  # High for this data, to move scales and shifts well off one and zero.

# Mean and standard deviation of all pixels of the dataset, whose values are 0..16.
PIXEL_MEAN = 4.884
PIXEL_STD = 6.017


def conv_bn_relu_pool() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )


def conv_relu_bn_pool() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(32),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )


def conv_bn_conv() -> nn.Module:
    """No activation between a batch norm and the next conv, once with padding and once without."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )


def dense_bn_dense() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 48),
        nn.BatchNorm1d(48),
        nn.Linear(48, 32),
        nn.ReLU(),
        nn.BatchNorm1d(32),
        nn.Linear(32, 10),
    )


def conv_bn_flatten_dense() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def dropout_after_pool() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )


def dropout_before_pool() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )


class PreactivationBlock(nn.Module):
    """Residual block of He et al., "Identity Mappings in Deep Residual Networks" (2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.projection: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        preactivation = F.relu(self.bn1(x))
        shortcut = x if self.projection is None else self.projection(preactivation)
        residual = self.conv1(preactivation)
        residual = self.conv2(F.relu(self.bn2(residual)))
        return residual + shortcut


def preactivation_resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        PreactivationBlock(16, 16),
        PreactivationBlock(16, 32, stride=2),
        PreactivationBlock(32, 32),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def conv_pool_bn_elu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(16),
        nn.ELU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(32),
        nn.ELU(),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )


class ChannelsLast(nn.Module):
    """Layers over channels that come last, as exports of Keras have them: a Transpose on each side.

    Shapes are (batch, height, width, channels).
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ChannelsLastBlock(nn.Module):
    """A residual block with its sum, and its activations, between the Transposes of its layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ChannelsLast(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.second = ChannelsLast(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class ToChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def channels_last() -> nn.Module:
    return nn.Sequential(
        ToChannelsLast(),
        ChannelsLast(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)),
        nn.ReLU(),
        ChannelsLast(nn.MaxPool2d(2)),
        ChannelsLastBlock(16),
        ChannelsLast(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32)),
        nn.ReLU6(),
        ChannelsLast(nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 10),
    )


def training_mode() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(32 * 2 * 2, 10),
    )


@dataclass(frozen=True)
class Network:
    build: Callable[[], nn.Module]
    opset: int = 17
    training: bool = False


NETWORKS = [
    Network(conv_bn_relu_pool),
    Network(conv_relu_bn_pool),
    Network(conv_bn_conv),
    Network(dense_bn_dense, opset=13),
    Network(conv_bn_flatten_dense),
    Network(dropout_after_pool, opset=11),
    Network(dropout_before_pool),
    Network(preactivation_resnet, opset=18),
    Network(conv_pool_bn_elu),
    Network(channels_last),
    Network(training_mode, training=True),
]


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return train images, held-out images, train labels and held-out labels."""
    digits = load_digits()
    images = ((digits.images - PIXEL_MEAN) / PIXEL_STD).astype(np.float32)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    return train_test_split(images, labels, test_size=0.2, random_state=SEED, stratify=labels)


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    steps_per_epoch = len(images) // BATCH_SIZE
    optimizer = torch.optim.SGD(model.parameters(), lr=MAX_LEARNING_RATE, momentum=0.9)
    # The rate ends near zero, so the running statistics match the final weights.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, MAX_LEARNING_RATE, epochs=EPOCHS, steps_per_epoch=steps_per_epoch
    )
    model.train()
    for _ in range(EPOCHS):
        # Drop the incomplete last batch: few images give poor batch statistics.
        batches = torch.randperm(len(images)).split(BATCH_SIZE)[:steps_per_epoch]
        for batch in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


@symbolic_helper.parse_args("v", "f", "b")
def inference_dropout(g, x, p, train):  # type: ignore[no-untyped-def]  # as torch calls it
    """Write Dropout(x, ratio) without training_mode, as exporters of other frameworks do.

    PyTorch's own symbolic functions for aten::dropout omit the node at inference.
    """
    return g.op("Dropout", x, g.op("Constant", value_t=torch.tensor(p)))


def export(network: Network, model: nn.Module, images: Tensor, path: Path) -> onnx.ModelProto:
    # Export a copy: it runs the model, which updates the running statistics in training mode.
    exported = copy.deepcopy(model).train(network.training)
    if network.opset < 12:
        # PyTorch omits Dropout modules in eval mode. Before opset 12, the operator has no training
        # mode, so a module in training mode is exported as an inference node.
        for module in exported.modules():
            if isinstance(module, nn.Dropout):
                module.train()
    elif not network.training:
        torch.onnx.register_custom_op_symbolic("aten::dropout", inference_dropout, network.opset)
    torch.onnx.export(
        exported,
        (images[:2],),
        path,
        dynamo=False,
        # PRESERVE keeps the modes set above. With EVAL, the exporter's default, constant folding
        # also fuses each Conv with the BatchNormalization that follows it.
        training=TrainingMode.TRAINING if network.training else TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=network.opset,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
    )
    if network.opset >= 12 and not network.training:
        torch.onnx.unregister_custom_op_symbolic("aten::dropout", network.opset)

    onnx_model = onnx.load(path)
    if network.training:
        # The forward pass changed the copy's running statistics: restore the trained ones.
        state = model.state_dict()
        for initializer in onnx_model.graph.initializer:
            trained = numpy_helper.from_array(state[initializer.name].numpy(), initializer.name)
            initializer.CopyFrom(trained)
        onnx.save(onnx_model, path)
    return onnx_model


def check_graph(model: nn.Module, onnx_model: onnx.ModelProto, training: bool) -> None:
    onnx.checker.check_model(onnx_model, full_check=True)
    modules = list(model.modules())
    nodes = onnx_model.graph.node
    batch_norms = [node for node in nodes if node.op_type == "BatchNormalization"]
    dropouts = [node for node in nodes if node.op_type == "Dropout"]
    assert len(batch_norms) == sum(
        isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in modules
    )
    assert len(dropouts) == sum(isinstance(module, nn.Dropout) for module in modules)
    for node in batch_norms:
        modes = [a.i for a in node.attribute if a.name == "training_mode"]
        assert modes == [1] if training else modes in ([], [0])  # Absent before opset 14.
    for node in dropouts:
        assert len(node.input) == 3 if training else len(node.input) < 3

    state = model.state_dict()
    for initializer in onnx_model.graph.initializer:
        trained = state[initializer.name].numpy()
        np.testing.assert_array_equal(numpy_helper.to_array(initializer), trained)


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def main() -> None:
    # The TorchScript exporter warns at each call that it is deprecated, and in training mode that
    # it omits the update of num_batches_tracked, which ONNX cannot represent.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="ONNX Preprocess - Removing mutation")
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)

    train_images, images, train_labels, labels = load_split()
    np.savez_compressed(MODELS_DIR / "digits.npz", images=images, labels=labels)

    print(f"{'name':22} {'bytes':>7} {'accuracy':>8}  operators")
    for network in NETWORKS:
        name = network.build.__name__
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        path = MODELS_DIR / f"{name}.onnx"
        torch.manual_seed(SEED)
        model = network.build()
        train(model, torch.from_numpy(train_images), torch.from_numpy(train_labels))
        with torch.no_grad():
            logits = model(torch.from_numpy(images)).numpy()
        accuracy = np.mean(logits.argmax(axis=1) == labels)

        onnx_model = export(network, model, torch.from_numpy(images), path)
        check_graph(model, onnx_model, network.training)
        assert path.stat().st_size <= MAX_BYTES
        assert accuracy >= MIN_ACCURACY
        if not network.training:
            onnx_logits = run_onnx(path, images)
            np.testing.assert_allclose(onnx_logits, logits, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(onnx_logits.argmax(axis=1), logits.argmax(axis=1))

        operators = Counter(node.op_type for node in onnx_model.graph.node)
        counts = ", ".join(f"{count} {op_type}" for op_type, count in sorted(operators.items()))
        print(f"{name:22} {path.stat().st_size:7} {accuracy:8.1%}  {counts}")


if __name__ == "__main__":
    main()
