"""What holds for every test, and what several need."""

import pytest
import torch

from netgraft.nets.nafnet import NafNet, NafNetShape


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums come out alike on every machine, and the suite does not crowd it."""
    torch.set_num_threads(1)


@pytest.fixture
def teacher() -> NafNet:
    """A small network in which every parameter has an effect."""
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()
