"""What the tests of several devices need."""

import pytest
import torch
from torch import nn

from netgraft.nets.nafnet import NafBlock, start_residuals


@pytest.fixture(scope="module")
def block() -> nn.Module:
    """A NAF block whose residual branches have an effect."""
    torch.manual_seed(0)
    block = NafBlock(8)
    start_residuals(block, 0.5)
    return block
