"""Multiply-accumulates against counts by hand and the published ones."""

import pytest
import torch
from torch import nn

from netgraft.nets.blocks import MergedConv
from netgraft.nets.macs import count_macs, macs_per_module
from netgraft.nets.nafnet import NafNet, NafNetShape


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        # Output pixels x output channels x inputs of one output, on a 3-channel image of 8 x 6.
        (nn.Conv2d(3, 5, 3, padding=1), 8 * 6 * 5 * 3 * 9),
        (nn.Conv2d(3, 4, 2, stride=2), 4 * 3 * 4 * 3 * 4),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 8 * 6 * 6 * 1 * 9),
        # Every input number is spread over 2 x 2 pixels of 7 channels.
        (nn.ConvTranspose2d(3, 7, 2, stride=2), 8 * 6 * 3 * 7 * 4),
        (nn.Sequential(nn.Flatten(2), nn.Linear(48, 11)), 3 * 48 * 11),
    ],
)
def test_one_layer_counts_as_by_hand(layer: nn.Module, macs: int) -> None:
    assert count_macs(layer, (8, 6)) == macs


@pytest.mark.parametrize(("width", "gmacs"), [(16, 4.085), (32, 15.956), (64, 63.055)])
def test_the_published_counts_of_nafnet(width: int, gmacs: float) -> None:
    shape = NafNetShape(width=width, encoder_blocks=(1, 1, 1, 28), middle_blocks=1, decoder_blocks=(1, 1, 1, 1))
    with torch.device("meta"):
        net = NafNet(shape)
    assert count_macs(net, (256, 256)) / 1e9 == pytest.approx(gmacs, abs=5e-4)


def test_counts_belong_to_the_module_that_runs_the_convolution() -> None:
    """A nested network's counts carry dotted paths, in the order of the calls."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(2, 4, 1)))
    assert macs_per_module(net, (5, 5)) == {"0": 25 * 3 * 2, "1.1": 25 * 2 * 4}


def test_a_module_that_runs_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    assert macs_per_module(Twice(), (4, 4)) == {"conv": 2 * 16 * 9}


def test_merged_branches_count_as_the_convolution_that_runs() -> None:
    """A block with a 3x3 and a 1x1 branch that it merges before running costs one 3x3."""
    assert macs_per_module(MergedConv(3), (4, 4)) == {"": 16 * 3 * 3 * 9}


def test_the_network_is_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1)).train()
    before = net[0].weight.detach().clone()
    count_macs(net, (4, 4))
    assert net.training
    assert net[0].weight.device.type == "cpu"
    assert torch.equal(net[0].weight, before)
    assert not net[0]._forward_hooks
    assert not net[0]._forward_pre_hooks
