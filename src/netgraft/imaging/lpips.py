"""LPIPS, the distance of two images in a trained network's features (Zhang et al., CVPR 2018): version 0.1, AlexNet.

Neither set of weights comes with netgraft: those of AlexNet are torchvision's, trained on ImageNet, and how its
features are weighed is what the authors' package ``lpips`` holds. Both are read as data, where they are found.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from netgraft.errors import CheckpointError, ImageError, first_line

ALEXNET = "alexnet-owt-7be5be79.pth"
"""torchvision's file, as ``torch.hub`` keeps it."""
LINEAR = Path("weights") / "v0.1" / "alex.pth"
"""Where the package ``lpips`` keeps its own."""
MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of the three channels of images in [-1, 1] (the authors' scaling layer)."""
LEAST_PX = 31
"""Side of an image that is left with a pixel behind AlexNet's last pooling here."""
TAPS = ((0, 64), (3, 192), (6, 384), (8, 256), (10, 256))
"""Position of each convolution among AlexNet's ``features``, and its channels."""


class Lpips(nn.Module):
    """(b, 3, h, w) and (b, 3, h, w), RGB in [-1, 1] -> (b,) distances; 31 pixels a side at least."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            [
                nn.Conv2d(3, 64, 11, stride=4, padding=2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
            ]
        )
        self.weights = nn.ParameterList([torch.zeros(channels) for _, channels in TAPS])

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        total = torch.zeros(len(first), dtype=first.dtype)
        for a, b, weights in zip(self._taps(first), self._taps(second), self.weights, strict=True):
            gap = (_unit(a) - _unit(b)).square()
            total = total + (gap * weights.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        return total

    def _taps(self, x: Tensor) -> list[Tensor]:
        mean, deviation = (x.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
        x = (x - mean) / deviation
        found = []
        for number, convolution in enumerate(self.features):
            # AlexNet halves the size before its second and third convolution.
            if number in (1, 2):
                x = functional.max_pool2d(x, 3, stride=2)
            x = functional.relu(convolution(x))
            found.append(x)
        return found


def _unit(x: Tensor) -> Tensor:
    """Every pixel's features, scaled to length 1."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


class LpipsDistance:
    """The distance of two (h, w, 3) uint8 images; an ImageError where they are too small."""

    def __init__(self, network: Lpips) -> None:
        self._network = network.eval()

    @torch.inference_mode()
    def __call__(self, restored: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
        if min(clean.shape[:2]) < LEAST_PX:
            raise ImageError(f"LPIPS needs {LEAST_PX} pixels a side, the image has {clean.shape[1]}x{clean.shape[0]}")
        first, second = (
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()[None] / 127.5 - 1
            for image in (restored, clean)
        )
        return float(self._network(first, second))


def open_lpips() -> LpipsDistance:
    """The distance, with the weights on this machine.

    Raises:
        CheckpointError: one of the two files is not here, or is not what it should be; the message says where it
            was looked for.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    spec = importlib.util.find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError("LPIPS needs its authors' weights: pip install --no-deps lpips")
    linear = Path(spec.submodule_search_locations[0]) / LINEAR
    if not hub.is_file():
        raise CheckpointError(f"LPIPS needs torchvision's AlexNet: put {ALEXNET} into {hub.parent}")
    network = Lpips()
    network.load_state_dict(_named(_read(hub), _read(linear)), strict=False)
    return LpipsDistance(network)


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        entries = torch.load(path, map_location="cpu", weights_only=True)
    # The unpickler raises whatever a damaged file leads it to.
    except Exception as error:
        raise CheckpointError(f"cannot read {path}: {first_line(error)}; fetch it again") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: holds no weights by name; fetch it again")
    return entries


def _named(alexnet: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both files' weights under this module's names."""
    try:
        named = {f"weights.{n}": linear[f"lin{n}.model.1.weight"].flatten() for n in range(len(TAPS))}
        for number, (position, _) in enumerate(TAPS):
            for part in ("weight", "bias"):
                named[f"features.{number}.{part}"] = alexnet[f"features.{position}.{part}"]
    except KeyError as error:
        raise CheckpointError(f"the weights for LPIPS lack {error}: they are of another network") from error
    expected = {name: tensor.shape for name, tensor in Lpips().named_parameters()}
    wrong = [name for name, tensor in named.items() if tensor.shape != expected[name]]
    if wrong:
        raise CheckpointError(f"the weights for LPIPS have other shapes at {wrong[0]}: they are of another network")
    return named
