"""Real models that packages ship: onnx's light model zoo and rapidocr's trained OCR models.

The light graphs are those of the model zoo, but ConstantOfShape nodes make every weight. Seeded
weights of a trained network's magnitudes make their outputs meaningful again.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime

LIGHT_MODELS = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)

OCR_MODELS = (
    "ch_PP-OCRv4_det_infer",
    "ch_PP-OCRv4_rec_infer",
    "ch_ppocr_mobile_v2.0_cls_infer",
)


def ocr_model(name: str) -> Path:
    """Return the path of one of `OCR_MODELS`, in the package rapidocr-onnxruntime."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None, "run `make test`, which installs rapidocr-onnxruntime"
    assert spec.origin is not None
    return Path(spec.origin).parent / "models" / f"{name}.onnx"


def light_model(name: str, seed: int = 0) -> onnx.ModelProto:
    """Return one of `LIGHT_MODELS` with its weights filled in.

    Weights are normal with He's standard deviation, so that activations keep their size; scales
    and variances are positive and far from 1, biases and means far from 0.
    """
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(folder / f"light_{name}.onnx")
    graph = model.graph
    generator = np.random.default_rng(seed)
    contents = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    roles = {
        name: (node.op_type, position)
        for node in graph.node
        for position, name in enumerate(node.input)
    }
    kept = []
    shapes = set()
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shapes.add(node.input[0])
        shape = tuple(int(size) for size in contents[node.input[0]])
        weight = _weight(generator, shape, *roles[node.output[0]])
        graph.initializer.append(onnx.numpy_helper.from_array(weight, node.output[0]))
        graph.input.append(
            onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, shape)
        )
    del graph.node[:]
    graph.node.extend(kept)
    for values in (graph.initializer, graph.input):
        for value in [value for value in values if value.name in shapes]:
            values.remove(value)
    _calibrate_logits(model)
    return model


def _calibrate_logits(model: onnx.ModelProto) -> None:
    """Scale the last Gemm so that the Softmax after it gets logits of standard deviation 2.

    Otherwise its outputs are zeros and a one, and comparing those would test next to nothing.
    """
    *_, last, softmax = model.graph.node
    if (last.op_type, softmax.op_type) != ("Gemm", "Softmax"):
        return
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.output[0]))
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (data,) = session.get_inputs()
    image = np.random.default_rng(0).standard_normal(data.shape).astype(np.float32)
    (logits,) = session.run([last.output[0]], {data.name: image})
    for tensor in model.graph.initializer:
        if tensor.name in last.input[1:]:
            scaled = onnx.numpy_helper.to_array(tensor) * np.float32(2 / logits.std())
            tensor.CopyFrom(onnx.numpy_helper.from_array(scaled, tensor.name))


def _weight(
    generator: np.random.Generator, shape: tuple[int, ...], op_type: str, position: int
) -> np.ndarray:
    if op_type == "BatchNormalization" and position in (1, 4):
        content = generator.uniform(0.5, 1.5, shape)
    elif len(shape) > 1 and op_type in ("Conv", "Gemm"):
        fan_in = np.prod(shape[1:])
        content = generator.standard_normal(shape) * np.sqrt(2 / fan_in)
    else:
        content = generator.standard_normal(shape) * 0.1
    if op_type in ("Mul", "Unsqueeze") and len(shape) == 1:
        content = generator.uniform(0.5, 1.5, shape)
    return content.astype(np.float32)
