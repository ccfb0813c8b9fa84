"""Exports torchvision's and timm's architectures, with seeded weights and measured statistics.

Nothing is trained, but the numbers are those of a working network: every parameter that starts as
a constant (a scale of 1, a bias of 0, a layer scale of 1e-6) is drawn at random, and every
BatchNormalization takes its statistics from a batch of signed images, so that activations keep
their size. The exporters keep BatchNormalization, because folding it is what is compared.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from timm.utils.model import reparameterize_model
from torch import nn

from benchmarks.models import Model

SEED = 0
OPSET = 17
CALIBRATION_BATCH = 4


def export(model: Model, folder: Path) -> None:
    """Write the model to its path, and its re-parameterised twin to the twin's."""
    torch.manual_seed(SEED)
    network = _create(model)
    batch = model.shape[0]
    images = torch.randn(max(CALIBRATION_BATCH, batch), *model.shape[1:])
    _draw_constants(network)
    _calibrate(network, images)
    network.eval()
    _write(network, images[:batch], model.path(folder), dynamo=model.dynamo)
    if model.twin:
        twin = reparameterize_model(copy.deepcopy(network))
        _write(twin, images[:batch], model.twin_path(folder), dynamo=model.dynamo, fold=True)


def _create(model: Model) -> nn.Module:
    if model.library == "timm":
        return timm.create_model(model.architecture)
    settings: dict[str, Any] = {}
    if model.architecture in ("googlenet", "inception_v3"):
        settings = {"aux_logits": False, "init_weights": True}
    segments = model.architecture.startswith(("deeplabv3", "lraspp"))
    if segments:
        settings = {"weights_backbone": None}
    network = torchvision.models.get_model(model.architecture, **settings)
    return _OnlyOutput(network) if segments else network


class _OnlyOutput(nn.Module):
    """A segmentation network that returns its map, not a dictionary."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)["out"]


def _draw_constants(network: nn.Module) -> None:
    for parameter in network.parameters():
        value = parameter.flatten()[0].item()
        if parameter.numel() == 1 or not torch.all(parameter == value):
            continue
        if value == 0:
            nn.init.normal_(parameter, 0, 0.1)
        elif value == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            nn.init.uniform_(parameter, 0.1, 0.5)


def _calibrate(network: nn.Module, images: torch.Tensor) -> None:
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        network(images)


def _write(
    network: nn.Module, images: torch.Tensor, path: Path, *, dynamo: bool, fold: bool = False
) -> None:
    """Export a network; `fold` lets the exporter fold BatchNormalization, as it does by default."""
    partial = path.with_suffix(".partial")
    settings: dict[str, Any] = {"optimize": fold}
    if not dynamo:
        mode = torch.onnx.TrainingMode
        settings = {
            "training": mode.EVAL if fold else mode.PRESERVE,
            "do_constant_folding": fold,
            "opset_version": OPSET,
            "input_names": ["images"],
            "output_names": ["result"],
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (images,), partial, dynamo=dynamo, external_data=False, **settings
        )
    partial.rename(path)
