"""The joint phase of distillation: assignments run end to end, and surrogates learn from what they will really see.

Apart from each other, surrogates only ever see the teacher's features. In a student, what reaches them carries the
errors of all the surrogates before. Here each is given just that, and still learns to give the teacher's features.
What reaches a site does not depend on what stands there, so that one path teaches every surrogate of every site.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
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


class _Site(nn.Module):
    """A site on a path: what stands there passes the features on, and all its surrogates learn from what comes in."""

    def __init__(
        self, block: nn.Module, learners: Mapping[str, nn.Module], target: Tensor, losses: dict[str, float]
    ) -> None:
        super().__init__()
        self.block = block
        self.learners = learners
        self.target = target
        self.losses = losses

    def forward(self, *inputs: Tensor) -> Tensor:
        for name, learner in self.learners.items():
            with calibrated_on_the_way(learner), torch.enable_grad():
                loss = normalized_l2(learner(*inputs), self.target)
                self.losses[name] = float(loss.detach())
                # False for NaN too.
                if self.losses[name] < DIVERGED:
                    # Here and now: the graph of a single surrogate is all that is ever held.
                    loss.backward()  # type: ignore[no-untyped-call]
        with calibrated_on_the_way(self.block):
            y: Tensor = self.block(*inputs)
        return y


def learn_along(
    module: nn.Module,
    path: Mapping[str, nn.Module],
    learners: Mapping[str, Mapping[str, nn.Module]],
    images: Tensor,
    features: Mapping[str, SiteFeatures],
) -> dict[str, dict[str, float]]:
    """Run ``images`` (b, 3, h, w) through ``module`` along a path, and add up the gradients of every learner's loss.

    path: what stands at the replaced sites, by site path. learners: surrogates by site path and name; all those of a
    site learn from what reaches it, whichever of them stands there. features: the teacher's, of these images.
    Returns the normalized L2 by site path and name; one that diverged teaches nothing.
    """
    losses: dict[str, dict[str, float]] = {}
    # As if copied already: the network shares all its weights, and only its frame is new.
    shared: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    for site in path.keys() | learners.keys():
        block, losses[site] = module.get_submodule(site), {}
        shared[id(block)] = _Site(path.get(site, block), learners.get(site, {}), features[site].y, losses[site])
    network = copy.deepcopy(module, shared)
    with torch.no_grad():
        network(images)
    return losses
