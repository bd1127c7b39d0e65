"""What the studies judge networks by: PSNR on crops, crop by crop, and intervals over photographs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from netgraft.data.images import DataConfig, Split, crops_of
from netgraft.data.pairs import SharpFolder
from netgraft.data.photos import photos
from netgraft.nets.blocks import deploy

Floats = NDArray[np.float64]

DRAWS = 1000
"""Bootstrap draws of every interval."""


@dataclass(frozen=True)
class Judges:
    """Crops that networks are judged on."""

    degraded: Tensor
    """(n, 3, side, side)."""
    clean: Tensor
    """(n, 3, side, side)."""
    photograph: NDArray[np.int64]
    """(n,): which photograph each crop is from."""

    @staticmethod
    def of(root: object, split: Split, *, count: int, side: int, seed: int = 0) -> Judges:
        """``count`` crops of ``side`` pixels, spread evenly over the photographs of a split.

        root: a folder of sharp photographs; None takes the embedded ones.
        """
        data = data_of(root)
        degraded, clean = crops_of(data, split, count=count, size=(side, side), seed=seed)
        total = len(photos(split)) if data.root is None else len(SharpFolder(data.root / split).paths)
        owners = [i * total // count if count < total else i % total for i in range(count)]
        return Judges(degraded, clean, np.array(owners))

    @torch.inference_mode()
    def psnr_db(self, module: nn.Module, *, batch: int = 8) -> Floats:
        """(n,) PSNR of each crop, 8-bit rounded, of the network's deployed form; 0 dB where it is not finite."""
        network, scores = deploy(module).eval(), []
        for x, y in zip(torch.split(self.degraded, batch), torch.split(self.clean, batch), strict=True):
            raw = network(x.to(memory_format=torch.channels_last))
            mse = (raw.clamp(0, 1).mul(255).round().div(255) - y).square().mean((1, 2, 3))
            finite = torch.isfinite(raw).flatten(1).all(1)
            scores.append(torch.where(finite, -10 * torch.log10(mse.clamp_min(1e-10)), 0.0))
        return torch.cat(scores).double().numpy()

    @property
    def photographs(self) -> int:
        return len(np.unique(self.photograph))

    def resampled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Crops of photographs that are drawn with replacement: crops of one photograph stay together."""
        names = np.unique(self.photograph)
        drawn = rng.choice(names, len(names))
        return np.concatenate([np.flatnonzero(self.photograph == name) for name in drawn])


def data_of(root: object) -> DataConfig:
    """Sharp photographs of a folder with synthetic shake, or the embedded ones for None."""
    return DataConfig() if root is None else DataConfig(source="sharp", root=root)  # type: ignore[arg-type]


def rank_agreement(x: Floats, y: Floats) -> list[float]:
    """Spearman's rank correlation of pairs, and its interval over them."""

    def draw(rng: np.random.Generator) -> float:
        some = rng.integers(0, len(x), len(x))
        return float(spearmanr(x[some], y[some]).statistic) if len(np.unique(some)) > 2 else np.nan

    return [float(spearmanr(x, y).statistic), *interval(draw).tolist()]


def interval(draw: Callable[[np.random.Generator], float | Floats], *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """95 % percentile interval, (2,), of a bootstrap statistic; (2, k) of one that is (k,). NaN draws are left out."""
    rng = np.random.default_rng(seed)
    found = np.array([draw(rng) for _ in range(draws)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        return np.nanquantile(found, [0.025, 0.975], axis=0)
