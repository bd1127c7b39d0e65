"""What the teacher's blocks see and say: the inputs and outputs at its sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netgraft.sites import Site


@dataclass(frozen=True, slots=True)
class SiteFeatures:
    """One forward pass as seen from one site."""

    inputs: tuple[Tensor, ...]
    """Inputs of the site, (b, in_channels, h, w) the first."""
    y: Tensor
    """Output of the site, (b, out_channels, h', w')."""

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.inputs[0]


class _AllSeen(Exception):
    """Every site has been passed; the rest of the network need not run."""


@contextmanager
def _recording(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, SiteFeatures]]:
    seen: dict[str, SiteFeatures] = {}
    wanted = len(set(paths))

    def hook(path: str):  # type: ignore[no-untyped-def]
        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[path] = SiteFeatures(tuple(x.detach() for x in inputs), output.detach())
            if len(seen) == wanted:
                raise _AllSeen

        return record

    handles = [module.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        yield seen
    except _AllSeen:
        pass
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def site_features(module: nn.Module, images: Tensor, sites: Sequence[Site]) -> Mapping[str, SiteFeatures]:
    """Features at every site from one forward pass over ``images`` (b, 3, h, w), by site path.

    The pass ends at the last of the sites: what comes after it is not computed.
    """
    with _recording(module, [site.path for site in sites]) as seen:
        module(images)
    return seen
