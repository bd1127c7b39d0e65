"""Smaller NAFNets by hand: the teacher with fewer blocks, or a network of less width."""

from __future__ import annotations

import re

import torch

from netgraft.nets.nafnet import NafNet, NafNetShape
from netgraft.train import TrainConfig, new_network

STAGE = re.compile(r"(encoders\.\d+|decoders\.\d+|middle_blks)\.(\d+)\.(.+)")


def with_fewer_blocks(teacher: NafNet, shape: NafNetShape) -> NafNet:
    """A network of ``shape``, which differs from the teacher's in block counts alone, with the teacher's weights.

    Of a stage that is cut to k blocks the first and the last half stay (k = 4 of 28: 0, 1, 26, 27): the ends of a
    stage carry most, see docs/model_card.md.
    """
    student = NafNet(shape)
    kept = {}
    for name, tensor in teacher.state_dict().items():
        found = STAGE.match(name)
        if found is None:
            kept[name] = tensor
            continue
        stage, position, rest = found[1], int(found[2]), found[3]
        before, after = len(teacher.get_submodule(stage)), len(student.get_submodule(stage))  # type: ignore[arg-type]
        head = after - after // 2
        if position < head:
            kept[name] = tensor
        elif position >= before - after // 2:
            kept[f"{stage}.{position - before + after}.{rest}"] = tensor
    student.load_state_dict(kept)
    return student.eval()


def fresh(shape: NafNetShape, *, seed: int) -> NafNet:
    """An untrained network that starts as the training recipe wants it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return new_network(NafNet(shape), TrainConfig()).eval()
