"""Networks of others as PyTorch modules, with random weights, where MONAI and torchvision are."""

# pyright: reportMissingImports=false

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


class SFCN(nn.Sequential):
    """The brain-age network of Peng et al.: six blocks without a dense layer, then 40 bins of age.

    References:
      Peng, Gong, Beckmann, Vedaldi, Smith (2021). Accurate brain age prediction with lightweight
      deep neural networks. Medical Image Analysis 68, 101871.
    """

    def __init__(self) -> None:
        """Build it for volumes of 64 x 64 x 64 voxels, of which 2 x 2 x 2 are left at the end."""
        parts: list[nn.Module] = []
        inputs = 1
        for outputs in (32, 64, 128, 256, 256):
            parts += [
                nn.Conv3d(inputs, outputs, 3, padding=1),
                nn.BatchNorm3d(outputs),
                nn.MaxPool3d(2),
                nn.ReLU(),
            ]
            inputs = outputs
        parts += [nn.Conv3d(inputs, 64, 1), nn.BatchNorm3d(64), nn.ReLU(), nn.AvgPool3d(2)]
        super().__init__(*parts, nn.Dropout(), nn.Conv3d(64, 40, 1), nn.LogSoftmax(dim=1))


def _monai(constructor: str, **options: Any) -> nn.Module:
    """A volumetric network of MONAI with one channel in and two out."""
    networks = importlib.import_module("monai.networks.nets")
    return getattr(networks, constructor)(spatial_dims=3, **options)


def _unet(**options: Any) -> nn.Module:
    channels, strides = (8, 16, 32, 64), (2, 2, 2)
    return _monai(
        "UNet",
        in_channels=1,
        out_channels=2,
        channels=channels,
        strides=strides,
        num_res_units=2,
        **options,
    )


def _resnet50() -> nn.Module:
    return _torchvision().resnet50()


def _torchvision() -> Any:
    """`torchvision.models`, also of a torchvision whose compiled operators do not load.

    That of a registry is built for one torch, with CUDA. Beside another its operators on boxes are
    missing, which classifiers do not call; but as it is imported it must find their names.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError:
        boxes = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            boxes.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision.models")


_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "monai_unet_batch": lambda: _unet(norm="BATCH"),
    "monai_unet_instance": lambda: _unet(norm="INSTANCE"),
    "monai_resnet18": lambda: _monai(
        "resnet18", n_input_channels=1, num_classes=2, shortcut_type="A", bias_downsample=True
    ),
    "monai_segresnet": lambda: _monai("SegResNet", in_channels=1, out_channels=2, init_filters=8),
    "monai_vnet": lambda: _monai("VNet", in_channels=1, out_channels=2),
    "monai_densenet121": lambda: _monai("DenseNet121", in_channels=1, out_channels=2),
    "monai_highresnet": lambda: _monai("HighResNet", in_channels=1, out_channels=2),
    "torchvision_resnet50": _resnet50,
    "sfcn": SFCN,
    "monai_basicunet": lambda: _monai(
        "BasicUNet", in_channels=1, out_channels=2, features=(8, 8, 16, 32, 64, 8)
    ),
}


def network(name: str) -> nn.Module:
    """A network in evaluation, frozen; the same name gives the same weights.

    Normalizations get statistics, scales and offsets as a training leaves them: with those of a
    fresh network they would do next to nothing.

    Args:
      name: One of `experiments.benchmarks.foreign.NETWORKS`.
    """
    torch.manual_seed(0)
    module = _BUILDERS[name]().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if not isinstance(part, (_BatchNorm, _InstanceNorm, nn.GroupNorm)):
            continue
        if isinstance(part, _BatchNorm):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
        if part.weight is not None:
            part.weight.uniform_(0.7, 1.3, generator=generator)
            part.bias.normal_(0, 0.1, generator=generator)
    return module
