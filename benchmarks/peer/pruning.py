"""Channel pruning of a NAFNet by Torch-Pruning (Fang et al., "DepGraph", CVPR 2023).

Three parts of a NAFNet need help, or it crashes or prunes something else than was asked for (docs/peers.md says what
happens without):

- *PixelShuffle* is taken for an operation that keeps the channels, so that the network that comes out does not run.
  The ups become the transposed convolutions that compute exactly the same.
- *SimpleGate*: a pair of channels of conv4 goes together. Torch-Pruning finds the pairs, but ranks the two halves
  apart and removes the union; declared as two channel groups, they are ranked as pairs. Conv1 is ranked by the
  attention's convolution, which has one channel a pair already.
- *The last convolution* gives the image, whose three channels must stay.

LayerNorm2d, beta and gamma are found as loose parameters, and rightly so.
"""

from __future__ import annotations

import copy
import warnings
from typing import Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from netgraft.nets.blocks import transposed_from
from netgraft.nets.losses import psnr_loss
from netgraft.nets.nafnet import NafBlock, NafNet

Importance = Literal["magnitude", "taylor"]
IMPORTANCES = {
    "magnitude": tp.importance.GroupMagnitudeImportance,
    "taylor": tp.importance.GroupTaylorImportance,
}


def pruned(
    teacher: NafNet,
    ratio: float,
    importance: Importance,
    crops: tuple[Tensor, Tensor],
    *,
    inner_only: bool = False,
    round_to: int = 8,
) -> NafNet:
    """The teacher without a share ``ratio`` of its channels, in every group alike; not fine-tuned.

    crops: (degraded, clean), both (n, 3, h, w), for gradients. inner_only: the channels inside blocks alone; the
    stream between them, which skips and residuals tie together across a whole level, keeps its width. round_to:
    channel counts stay multiples of this.
    """
    network = copy.deepcopy(teacher).requires_grad_(True)
    for number, up in enumerate(network.ups):
        assert isinstance(up, nn.Sequential)
        network.ups[number] = transposed_from(up)
    blocks = [module for module in network.modules() if isinstance(module, NafBlock)]
    stream = [network.intro, *network.downs, *network.ups, *(block.conv5 for block in blocks)]
    with warnings.catch_warnings():
        # It says which parameters are in no layer that it knows, and takes the right axis of each.
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        pruner = tp.pruner.BasePruner(
            network,
            crops[0][:1],
            importance=IMPORTANCES[importance](),
            pruning_ratio=ratio,
            round_to=round_to,
            ignored_layers=[network.ending, *(stream if inner_only else [])],
            out_channel_groups={block.conv4: 2 for block in blocks},
        )
    if importance == "taylor":
        network.zero_grad()
        for degraded, clean in zip(*(torch.split(part, 4) for part in crops), strict=True):
            psnr_loss(network(degraded), clean).backward()  # type: ignore[no-untyped-call]
    pruner.step()
    network.zero_grad()
    return network.eval()
