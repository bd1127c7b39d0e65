"""Putting a student together: the teacher with surrogates at some of its sites."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from netgraft.distill import SurrogateKey
from netgraft.nets.blocks import calibrating
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

    calibration: (b, 3, h, w) images; with them, whatever is frozen in the student is calibrated once more, site by
    site, on the inputs that the student really produces.
    """
    student = copy.deepcopy(module).eval()
    for path, name in assignment.items():
        if name != KEEP:
            _replace(student, path, copy.deepcopy(surrogates[path, name]).eval())
    if calibration is not None:
        with torch.no_grad(), calibrating(student):
            student(calibration)
    return student


def replaced(
    module: nn.Module, assignment: Assignment, surrogates: Mapping[SurrogateKey, nn.Module]
) -> nn.Module:
    """Like :func:`assemble`, but sharing every weight with the teacher and the surrogates: cheap, for looking only."""
    memo = {id(p): p for p in (*module.parameters(), *module.buffers())}
    student = copy.deepcopy(module, memo)
    for path, name in assignment.items():
        if name != KEEP:
            _replace(student, path, surrogates[path, name])
    return student.eval()


def _replace(network: nn.Module, path: str, block: nn.Module) -> None:
    parent_path, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent_path), name, block)


def named_assignment(
    row: Sequence[int], sites: Sequence[Site], options: Sequence[Sequence[str]]
) -> dict[str, str]:
    """Operator name by site path from a row of option indices, one a site."""
    return {
        site.path: names[index] for site, names, index in zip(sites, options, row, strict=True)
    }
