"""The models of the suite, and their paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support import zoo

FOLDER = Path(__file__).parent / ".models"


@dataclass(frozen=True)
class Model:
    """A model of the suite.

    `library` is its source: light, rapidocr, torchvision or timm. `architecture` is its name
    there. `shape` is that of its only input. `dynamo` selects one of torch's two exporters. `twin`
    means that its authors' own code can re-parameterise it, which gives a second file: the limit
    of what merging branches can gain. `variant` names what is made of the export, as another
    exporter would have written it. `options` are what bnfold needs to do there what other tools do
    unasked.
    """

    name: str
    library: str
    architecture: str
    shape: tuple[int, ...]
    dynamo: bool = False
    twin: bool = False
    variant: str = ""
    options: tuple[str, ...] = ()

    def path(self, folder: Path) -> Path:
        return folder / f"{self.name}.onnx"

    def twin_path(self, folder: Path) -> Path:
        """Return the path of the re-parameterised export, if there is one."""
        return folder / f"{self.name}.reparameterised.onnx"


def _light(name: str) -> Model:
    return Model(f"light_{name}", "light", name, (1, 3, 224, 224))


def _ocr(name: str, architecture: str, height: int, width: int) -> Model:
    return Model(name, "rapidocr", architecture, (1, 3, height, width))


def _torchvision(architecture: str, size: int = 224, *, dynamo: bool = False) -> Model:
    name = f"{architecture}_dynamo" if dynamo else architecture
    return Model(name, "torchvision", architecture, (1, 3, size, size), dynamo)


def _timm(architecture: str, size: int = 224, *, dynamo: bool = False, twin: bool = False) -> Model:
    name = f"{architecture}_dynamo" if dynamo else architecture
    return Model(name, "timm", architecture, (1, 3, size, size), dynamo, twin)


def _variant(model: Model, variant: str, options: tuple[str, ...] = ()) -> Model:
    return replace(model, name=f"{model.name}_{variant}", variant=variant, options=options)


FRESH: Sequence[Model] = (
    _timm("res2net50_14w_8s"),
    _timm("ese_vovnet19b_dw"),
    _timm("mixnet_s"),
    _timm("gernet_s"),
    _timm("dpn48b"),
    _timm("skresnet18"),
    _timm("pit_ti_224"),
    _timm("efficientformer_l1"),
    _timm("lcnet_050"),
    _timm("mobilenetv4_conv_small"),
    _timm("ghostnetv2_100"),
    _timm("cs3darknet_s", 256),
    _timm("regnetz_b16"),
)
"""Of families on which no pass was tried before they came into the suite."""

SUITE: Sequence[Model] = (
    *map(_light, zoo.LIGHT_MODELS),
    _ocr("ppocr_detector", "ch_PP-OCRv4_det_infer", 320, 320),
    _ocr("ppocr_recogniser", "ch_PP-OCRv4_rec_infer", 48, 320),
    _ocr("ppocr_classifier", "ch_ppocr_mobile_v2.0_cls_infer", 48, 192),
    _torchvision("resnet18"),
    _torchvision("resnet18", dynamo=True),
    _torchvision("resnet50"),
    _torchvision("vgg11_bn"),
    _torchvision("densenet121"),
    _torchvision("mobilenet_v2"),
    _torchvision("mobilenet_v2", dynamo=True),
    _torchvision("mobilenet_v3_small"),
    _torchvision("efficientnet_b0"),
    _torchvision("shufflenet_v2_x1_0"),
    _torchvision("googlenet"),
    _torchvision("inception_v3", 299),
    _torchvision("squeezenet1_1"),
    _torchvision("mnasnet1_0"),
    _torchvision("regnet_y_400mf"),
    _torchvision("deeplabv3_mobilenet_v3_large", 128),
    _torchvision("lraspp_mobilenet_v3_large"),
    _timm("repvgg_a2", twin=True),
    _timm("mobileone_s1", twin=True),
    _timm("fastvit_t8", 256, twin=True),
    _timm("repvit_m0_9", twin=True),
    _timm("resnetv2_50"),
    _timm("convmixer_768_32", 112),
    _timm("levit_256"),
    _timm("levit_256", dynamo=True),
    _timm("convnext_atto"),
    _timm("ghostnet_100"),
    _timm("hardcorenas_a"),
    _timm("dla34"),
    _timm("cspresnet50", 128),
    _timm("vit_tiny_patch16_224"),
    _timm("mixer_s32_224"),
    _timm("resmlp_12_224"),
    _timm("edgenext_xx_small", 256),
    _timm("mobilevit_xxs", 256),
    _timm("tf_efficientnet_b0"),
    _timm("tf_mobilenetv3_small_100"),
    *FRESH,
    _variant(_timm("mobilenetv3_small_100"), "written_out"),
    _variant(_torchvision("resnet18"), "overridable", ("--freeze-initializers",)),
    _variant(_torchvision("mobilenet_v2"), "functions"),
    _variant(_torchvision("resnet50"), "casts"),
    _variant(_torchvision("regnet_y_400mf"), "preprocessing"),
    _variant(_timm("resnet10t"), "preprocessing"),
)


def batched(model: Model, size: int) -> Model:
    """Return the model for so many images at once."""
    return replace(model, name=f"{model.name}_batch{size}", shape=(size, *model.shape[1:]))


def chosen(names: Sequence[str] | None) -> list[Model]:
    """Return the models with these names, in the suite's order; without names, all models.

    Raises:
        SystemExit: if a name is unknown; the message lists the known ones.
    """
    known = [model.name for model in SUITE]
    if unknown := sorted({*(names or ())} - {*known}):
        raise SystemExit(f"unknown: {', '.join(unknown)}; the suite has {', '.join(known)}")
    return [model for model in SUITE if not names or model.name in names]
