"""What Torch-Pruning makes of a NAFNet without help, and with the help that benchmarks/peer/pruning.py gives it.

    python benchmarks/torch_pruning_limits.py

A small NAFNet with random weights, half of the channels asked for, importance by magnitude. "conv1 / conv4 keep" is
how many of the 32 channels before each gate are left in the first block; 16 were asked for. "pairs" says whether they
still are whole pairs of a gate. The last line compares pruning inside blocks with setting the same channels to zero,
which must compute the same. Ends with one line of JSON.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable

import torch
import torch_pruning as tp
from machine import machine
from peer.pruning import pruned
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from netgraft.nets.blocks import transposed_from
from netgraft.nets.nafnet import NafBlock, NafNet, NafNetShape

SHAPE = NafNetShape(width=16, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))
CROPS = (4, 3, 32, 32)


def network() -> NafNet:
    """Random weights, biases that number the channels of the first block's gates, and an image that matters."""
    torch.manual_seed(0)
    net = NafNet(SHAPE)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


def plainly(net: NafNet, *, ignore: Callable[[NafNet], list[nn.Module]], transposed: bool) -> NafNet:
    """Torch-Pruning's default way, with some layers left alone."""
    net = copy.deepcopy(net)
    if transposed:
        for number, up in enumerate(net.ups):
            assert isinstance(up, nn.Sequential)
            net.ups[number] = transposed_from(up)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        importance = tp.importance.GroupMagnitudeImportance()
        pruner = tp.pruner.BasePruner(
            net, torch.rand(CROPS), importance=importance, pruning_ratio=0.5, ignored_layers=ignore(net)
        )
        pruner.step()
    return net


def with_help(net: NafNet, *, inner_only: bool = False) -> NafNet:
    """The way of benchmarks/peer/pruning.py."""
    crops = torch.rand(CROPS), torch.rand(CROPS)
    return pruned(net, 0.5, "magnitude", crops, inner_only=inner_only, round_to=1)


def numbered(net: NafNet) -> NafNet:
    """A copy whose gated biases in the first block are their channels' numbers, to see afterwards which are left."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for conv in (net.encoders[0][0].conv1, net.encoders[0][0].conv4):
            conv.bias.copy_(torch.arange(len(conv.bias)))
    return net


def left(net: NafNet, conv: str) -> list[int]:
    """Numbers of the channels that a numbered network still has."""
    return [round(number) for number in net.encoders[0][0].get_submodule(conv).bias.tolist()]


def in_pairs(kept: list[int], channels: int = 2 * SHAPE.width) -> bool:
    """Whether the second half of what is left are the partners of the first."""
    half = len(kept) // 2
    return [number + channels // 2 for number in kept[:half]] == kept[half:]


def runs(net: NafNet) -> str:
    try:
        return f"yes, {tuple(net(torch.rand(CROPS)).shape)}"
    except RuntimeError as error:
        return str(error).split(" at ")[0]


@torch.no_grad()
def masked(net: NafNet, smaller: NafNet) -> NafNet:
    """``net`` with the inner channels that ``smaller`` lost set to zero where they are read."""
    net = copy.deepcopy(net)
    for block, cut in zip(*(_blocks(n) for n in (net, smaller)), strict=True):
        for conv, reader in (("conv1", "conv3"), ("conv4", "conv5")):
            gone = torch.ones(block.get_submodule(reader).in_channels, dtype=torch.bool)
            kept = _matching(block.get_submodule(conv).weight, cut.get_submodule(conv).weight)
            gone[kept[: len(kept) // 2]] = False
            block.get_submodule(reader).weight[:, gone] = 0
            if conv == "conv1":
                block.sca[1].weight[:, gone] = 0
    return net


def _blocks(net: NafNet) -> list[NafBlock]:
    return [module for module in net.modules() if isinstance(module, NafBlock)]


def _matching(rows: Tensor, some: Tensor) -> Tensor:
    """Positions in ``rows`` of each of ``some`` of them."""
    return (some.flatten(1)[:, None] == rows.flatten(1)[None]).all(-1).float().argmax(1)


def main() -> None:
    net = network()
    ways: dict[str, Callable[[NafNet], NafNet]] = {
        "as it is": lambda n: plainly(n, ignore=lambda m: [m.ending], transposed=False),
        "ups left alone": lambda n: plainly(n, ignore=lambda m: [m.ending, *m.ups], transposed=False),
        "ups transposed": lambda n: plainly(n, ignore=lambda m: [m.ending], transposed=True),
        "with help": with_help,
        "with help, inside blocks": lambda n: with_help(n, inner_only=True),
    }
    table, record = Table(title="half of the channels of a NAFNet, Torch-Pruning"), {}
    for column in ("way", "runs", "stream width", "conv1 keeps", "conv4 keeps", "pairs"):
        table.add_column(column)
    for name, way in ways.items():
        smaller = way(numbered(net))
        kept = {conv: left(smaller, conv) for conv in ("conv1", "conv4")}
        row = {
            "runs": runs(smaller),
            "width": smaller.intro.out_channels,
            **{conv: len(channels) for conv, channels in kept.items()},
            "pairs": all(in_pairs(channels) for channels in kept.values()),
        }
        record[name] = row
        table.add_row(name, *(str(value) for value in row.values()))
    console = Console(width=120)
    console.print(table)
    x, smaller = torch.rand(CROPS), with_help(net, inner_only=True)
    with torch.no_grad():
        gap, scale = (smaller(x) - masked(net, smaller)(x)).abs().max().item(), (net(x) - smaller(x)).abs().max().item()
    console.print(f"inside blocks, against zeroed channels: {gap:.1e} (against the whole network: {scale:.1e})")
    print(json.dumps({"machine": machine("torch-pruning"), "ways": record, "masked_gap": gap, "whole_gap": scale}))


if __name__ == "__main__":
    main()
