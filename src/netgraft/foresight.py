"""How much quality each replacement will cost, foreseen from the teacher alone.

A surrogate's error at its site does not say whether anything downstream cares. With d the difference that it makes
there and J the Jacobian of the network's output in the features of that site, replacing this one block changes the
output by J d, to first order. For a vector v of independent random signs E (v^T J d)^2 = |J d|^2 (Hutchinson, 1990),
and one backward pass of v gives v^T J at all sites at once. So one forward pass, each surrogate once and a few backward
passes foresee all single replacements, where trying them would take a pass through the network for each.

The part that is correlated with the teacher's own error e, 2 e^T J d, is left out: its sign is an accident of the few
images at hand. If the changes of several sites are independent, their squares, and so the increases of the error, add.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.distill import SurrogateKey

PROBES = 8
"""Random vectors an image."""
WORST_DB = 100.0
"""What a surrogate that is not finite counts as."""


def foreseen_losses_db(
    module: nn.Module,
    surrogates: Mapping[SurrogateKey, nn.Module],
    degraded: Tensor,
    clean: Tensor,
    *,
    probes: int = PROBES,
    seed: int = 0,
) -> dict[SurrogateKey, float]:
    """PSNR, in dB, that each surrogate alone in the teacher's place is expected to cost.

    module: the teacher, in eval mode; untouched. degraded, clean: (n, 3, h, w) images in [0, 1]. One image is worked
    on at a time, which bounds the memory: its features at all sites, and the surrogates' differences there.
    """
    if not surrogates:
        # Where nothing is worth a replacement, nothing is at stake.
        return {}
    generator = torch.Generator().manual_seed(seed)
    images = zip(torch.split(degraded, 1), torch.split(clean, 1), strict=True)
    losses = [_image_losses_db(module, surrogates, x, y, probes, generator) for x, y in images]
    return {key: float(np.mean([loss[key] for loss in losses])) for key in surrogates}


def _image_losses_db(
    module: nn.Module,
    surrogates: Mapping[SurrogateKey, nn.Module],
    degraded: Tensor,
    clean: Tensor,
    probes: int,
    generator: torch.Generator,
) -> dict[SurrogateKey, float]:
    paths = list(dict.fromkeys(path for path, _ in surrogates))
    seen: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}

    def see(path: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[path] = (tuple(x.detach() for x in inputs), output)

    with ExitStack() as stack:
        for path in paths:
            handle = module.get_submodule(path).register_forward_hook(partial(see, path))
            stack.callback(handle.remove)
        # A graph is needed even where no parameter of the teacher asks for a gradient.
        x = degraded.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        output = module(x)
    with torch.no_grad():
        differences = {key: surrogate(*seen[key[0]][0]) - seen[key[0]][1] for key, surrogate in surrogates.items()}
    error = float((output.detach() - clean).square().sum())
    features = [seen[path][1] for path in paths]
    changes = dict.fromkeys(surrogates, 0.0)
    for _ in range(probes):
        signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1.0
        pulled = dict(zip(paths, torch.autograd.grad(output, features, signs, retain_graph=True), strict=True))
        for key, difference in differences.items():
            changes[key] += float((pulled[key[0]] * difference).sum()) ** 2 / probes
    return {key: _decibels(change, error) for key, change in changes.items()}


def _decibels(change: float, error: float) -> float:
    """The loss when ``change`` is added to the squared ``error``."""
    if not np.isfinite(change):
        return WORST_DB
    return float(min(10 * np.log10(1 + change / max(error, 1e-12)), WORST_DB))
