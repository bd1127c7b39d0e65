"""Networks under attack: projected gradient descent on the input, within a stated L-infinity bound.

Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, equation 1 and section 2.1,
with the mean squared error against the clean image as the loss: the worst that changing each value of the input by
at most the bound can do to what a network restores, as far as this attack finds it.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from netgraft.compute import CPU
from netgraft.data.conditions import center_window
from netgraft.data.crops import cut, image_tensor
from netgraft.data.images import ImagePair
from netgraft.errors import DatasetError
from netgraft.evaluate import eight_bits
from netgraft.intervals import Estimate

BOUNDS = (1 / 255, 2 / 255, 4 / 255)
"""Largest change of any value of the input, which is in [0, 1]."""
STEPS = 10
STEP_SHARE = 2.5
"""All steps together are this many times the bound: enough to reach its far edge from any start."""


def attack(
    module: nn.Module, x: Tensor, clean: Tensor, *, bound: float, steps: int, step_size: float, seed: int
) -> Tensor:
    """The input near ``x`` from which the network restores worst: (b, 3, h, w) in [0, 1], within ``bound`` of ``x``.

    x, clean: (b, 3, h, w), RGB in [0, 1]. From a random start, each step moves every value by ``step_size`` along
    the sign of the gradient of the mean squared error between ``module``'s output and ``clean``. Returned is the
    strongest input on the way for each image, ``x`` itself included, by the error of the output clipped to [0, 1].
    The module is used as it stands: put it in evaluation mode first.
    """
    x = x.detach().clone()
    low, high = (x - bound).clamp(0, 1), (x + bound).clamp(0, 1)
    generator = torch.Generator().manual_seed(seed)
    start = x + bound * (2 * torch.rand(x.shape, generator=generator).to(x.device) - 1)
    now = torch.minimum(torch.maximum(start, low), high)
    best, worst_error = x.clone(), _clipped_errors(module, x, clean)
    with torch.enable_grad():
        for _ in range(steps):
            now.requires_grad_(True)
            output = module(now)
            # A sum over images, so that none weighs in another's gradient.
            loss = (output - clean).square().mean((1, 2, 3)).sum()
            (gradient,) = torch.autograd.grad(loss, now)
            now = now.detach()
            _keep_worst(best, worst_error, now, _errors(output.detach().clamp(0, 1), clean))
            now = torch.minimum(torch.maximum(now + step_size * gradient.sign(), low), high)
    _keep_worst(best, worst_error, now, _clipped_errors(module, now, clean))
    return best


def _keep_worst(best: Tensor, worst: Tensor, now: Tensor, errors: Tensor) -> None:
    """In place: take over the images whose error is larger now."""
    larger = errors > worst
    best[larger] = now[larger]
    worst[larger] = errors[larger]


@torch.no_grad()
def _clipped_errors(module: nn.Module, x: Tensor, clean: Tensor) -> Tensor:
    return _errors(module(x).clamp(0, 1), clean)


def _errors(output: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error of every image, (b,); infinite where the output is not finite, which no error exceeds."""
    return (output - clean).square().mean((1, 2, 3)).nan_to_num(nan=math.inf, posinf=math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """What attacks within several bounds leave of each network's quality."""

    images: tuple[str, ...]
    """Names of the images that the crops are from."""
    bounds: tuple[float, ...]
    """L-infinity bounds of the attacks, on inputs in [0, 1]."""
    unattacked_db: Mapping[str, tuple[float, ...]]
    """By network: PSNR of every image as it is."""
    attacked_db: Mapping[str, tuple[tuple[float, ...], ...]]
    """By network: PSNR of every image, for each bound."""
    protocol: Mapping[str, Any]
    """How it was attacked."""

    def drops_db(self, name: str, bound: int) -> list[float]:
        """What an attack takes from each image; bound: index in ``bounds``."""
        return [
            before - after
            for before, after in zip(self.unattacked_db[name], self.attacked_db[name][bound], strict=True)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One row a network and bound, for JSON and tables; every mean with its interval.

        ``drop_db`` is what the attack takes. ``first_drop_less_this_db`` is the first network's drop less this one's
        on the same images, negative where this one loses more; None for the first itself.
        """
        first = next(iter(self.unattacked_db))
        return [
            {
                "network": name,
                "bound": bound,
                "bound_of_255": 255 * bound,
                "unattacked_db": Estimate.of(self.unattacked_db[name]).as_dict(),
                "attacked_db": Estimate.of(self.attacked_db[name][i]).as_dict(),
                "drop_db": Estimate.of(self.drops_db(name, i)).as_dict(),
                "first_drop_less_this_db": None
                if name == first
                else Estimate.of(self.drops_db(first, i), self.drops_db(name, i)).as_dict(),
            }
            for i, bound in enumerate(self.bounds)
            for name in self.unattacked_db
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: the rows, and the images behind them."""
        return {
            "protocol": dict(self.protocol),
            "images": list(self.images),
            "rows": self.rows(),
            "unattacked_db": {name: list(values) for name, values in self.unattacked_db.items()},
            "attacked_db": {name: [list(row) for row in rows] for name, rows in self.attacked_db.items()},
        }


def robustness(
    networks: Mapping[str, nn.Module],
    images: Sequence[ImagePair],
    *,
    bounds: Sequence[float] = BOUNDS,
    size: tuple[int, int] = (128, 128),
    steps: int = STEPS,
    seed: int = 0,
    compute: str = CPU,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Robustness:
    """Attack each network on the center crops of images; the first is what the others are compared with.

    size: (h, w) of the crops, less where an image is smaller, and a multiple of what the networks need.

    Raises:
        DatasetError: there are no images, or one is smaller than the networks need.
    """
    if not images:
        raise DatasetError("there are no images to attack: name a folder with at least one pair")
    frozen = {name: copy.deepcopy(module).eval().requires_grad_(False).to(compute) for name, module in networks.items()}
    multiple = max(int(getattr(module, "size_multiple", 1)) for module in networks.values())
    names: list[str] = []
    unattacked: dict[str, list[float]] = {name: [] for name in frozen}
    attacked: dict[str, list[list[float]]] = {name: [[] for _ in bounds] for name in frozen}
    # Image by image: each is read once, and forgotten.
    for done, image in enumerate(images):
        progress(done, len(images))
        names.append(image.name)
        x, clean = (part.to(compute) for part in _crop(image, size, multiple))
        # By name, so that an image is attacked alike whatever else is attacked.
        start = seed + zlib.crc32(image.name.encode())
        for name, module in frozen.items():
            unattacked[name].append(_psnr_db(module, x, clean))
            for bound, found in zip(bounds, attacked[name], strict=True):
                step_size = STEP_SHARE * bound / max(steps, 1)
                worst = attack(module, x, clean, bound=bound, steps=steps, step_size=step_size, seed=start)
                found.append(_psnr_db(module, worst, clean))
    return Robustness(
        images=tuple(names),
        bounds=tuple(bounds),
        unattacked_db={name: tuple(values) for name, values in unattacked.items()},
        attacked_db={name: tuple(map(tuple, found)) for name, found in attacked.items()},
        protocol={
            "attack": "PGD (Madry et al. 2018) on the input, L-infinity, untargeted",
            "loss": "mean squared error between the output and the clean image; the strongest step counts",
            "steps": steps,
            "step_size": f"{STEP_SHARE:g} x bound / steps",
            "start": f"uniform within the bound, seed {seed} and the image's name",
            "input": f"center crops of at most {size[0]}x{size[1]}, in [0, 1], not rounded to 8 bits once attacked",
            "network": "PyTorch, fp32; each is attacked by its own gradients",
            "psnr": "output clipped to [0, 1], not rounded",
        },
    )


def _crop(image: ImagePair, size: tuple[int, int], multiple: int) -> tuple[Tensor, Tensor]:
    """The degraded and the clean center crop, (1, 3, h, w) in [0, 1]."""
    height, width = (
        min(side, whole) // multiple * multiple for side, whole in zip(size, image.clean.shape, strict=False)
    )
    if not height or not width:
        raise DatasetError(f"{image.name} is smaller than the {multiple} pixels that the networks need on a side")
    window = center_window(image.clean.shape[:2], (height, width))
    degraded, clean = (image_tensor(cut(eight_bits(part), window))[None] for part in (image.degraded, image.clean))
    return degraded, clean


@torch.no_grad()
def _psnr_db(module: nn.Module, x: Tensor, clean: Tensor) -> float:
    """PSNR in dB; 0 where the output is not finite."""
    output = module(x)
    if not bool(torch.isfinite(output).all()):
        return 0.0
    return float(-10 * torch.log10(_errors(output.clamp(0, 1), clean).clamp_min(1e-10)))
