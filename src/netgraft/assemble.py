"""Putting a student together: the teacher with surrogates at some of its sites."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from netgraft.distill import SurrogateKey
from netgraft.nets.blocks import calibrating
from netgraft.nets.quantized import FOLLOWING
from netgraft.sites import KEEP, Site

Assignment = Mapping[str, str]
"""Operator name by site path; sites that are not named keep the teacher's block."""


def assemble(
    module: nn.Module,
    assignment: Assignment,
    surrogates: Mapping[SurrogateKey, nn.Module],
    *,
    calibration: Tensor | None = None,
) -> nn.Module:
    """A new network, in eval mode: ``module`` with copies of the chosen surrogates at their sites.

    calibration: (b, 3, h, w) images; with them, the frozen norms of the student and the ranges of its blocks in 8 bits
    are calibrated once more, site by site, on the inputs that the student really produces: without, many together
    diverge.
    """
    # As if copied already: the copy of the network takes these, and the blocks that they replace are not copied.
    chosen = {
        id(module.get_submodule(path)): copy.deepcopy(surrogates[path, name])
        for path, name in assignment.items()
        if name != KEEP
    }
    student = copy.deepcopy(module, chosen).eval()
    if calibration is not None:
        # Not the scales of a frozen attention: they are learned, and going back to its mean would undo that.
        with torch.no_grad(), calibrating(student, FOLLOWING):
            student(calibration)
    return student


def named_assignment(row: Sequence[int], sites: Sequence[Site], options: Sequence[Sequence[str]]) -> dict[str, str]:
    """Operator name by site path from a row of option indices, one a site."""
    return {site.path: names[index] for site, names, index in zip(sites, options, row, strict=True)}
