"""The joint phase of distillation: assignments run end to end, and surrogates learn from what they will really see.

Apart from each other, surrogates only ever see the teacher's features. In a student, what reaches them carries the
errors of all the surrogates before. Here each is given just that, and still learns to give the teacher's features.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.features import SiteFeatures
from netgraft.nets.blocks import StaticNorm, calibrating
from netgraft.nets.losses import normalized_l2

DENSITIES = (0.05, 0.5)
"""Least and largest expected share of replaced sites. Where nearly all are replaced at random, features are noise."""
DIVERGED = 1.0
"""A normalized L2 that zeros would reach: there is nothing to learn from this or what follows it."""


def draw_path(keys: Sequence[tuple[str, str]], rng: np.random.Generator) -> dict[str, str]:
    """A random assignment, operator by site path, from the (site path, operator) on offer; most sites are kept."""
    options: dict[str, list[str]] = {}
    for path, name in keys:
        options.setdefault(path, []).append(name)
    density = rng.uniform(*DENSITIES)
    drawn = [(path, names[rng.integers(len(names))], rng.random()) for path, names in options.items()]
    return {path: name for path, name, lot in drawn if lot < density}


@contextmanager
def calibrated_on_the_way(module: nn.Module) -> Iterator[None]:
    """While open, frozen norms fit themselves to what passes, as they do in a student; then they are as before."""
    before = {norm: norm.scale.clone() for norm in module.modules() if isinstance(norm, StaticNorm)}
    try:
        with calibrating(module, StaticNorm):
            yield
    finally:
        for norm, scale in before.items():
            norm.scale.copy_(scale)


class _OnPath(nn.Module):
    """A surrogate at its place in the network; it learns as it is passed, if it may, and gives on no gradients."""

    def __init__(self, surrogate: nn.Module, target: Tensor, losses: dict[str, float], path: str, learns: bool) -> None:
        super().__init__()
        self.surrogate = surrogate
        self.target = target
        self.losses = losses
        self.path = path
        self.learns = learns

    def forward(self, x: Tensor) -> Tensor:
        with calibrated_on_the_way(self.surrogate), torch.set_grad_enabled(self.learns):
            y: Tensor = self.surrogate(x)
            loss = normalized_l2(y, self.target)
            self.losses[self.path] = float(loss.detach())
            # False for NaN too.
            if self.learns and self.losses[self.path] < DIVERGED:
                # Here and now: the graph of a single surrogate is all that is ever held.
                loss.backward()  # type: ignore[no-untyped-call]
        return y.detach()


def learn_along(
    module: nn.Module,
    chosen: Mapping[str, nn.Module],
    images: Tensor,
    features: Mapping[str, SiteFeatures],
    learning: Collection[str],
) -> dict[str, float]:
    """Run ``images`` (b, 3, h, w) through ``module`` with surrogates at their sites; gradients of their losses add up.

    chosen: surrogate by site path; learning: the paths of those that learn; features: the teacher's, of these images.
    Returns the normalized L2 at every replaced site, in the order in which data flows; a diverged one teaches nothing.
    """
    losses: dict[str, float] = {}
    # As if copied already: the network shares all its weights, and only its frame is new.
    shared: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    for path, surrogate in chosen.items():
        block = module.get_submodule(path)
        shared[id(block)] = _OnPath(surrogate, features[path].y, losses, path, path in learning)
    network = copy.deepcopy(module, shared)
    with torch.no_grad():
        network(images)
    return losses
