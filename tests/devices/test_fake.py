"""The device without hardware: what it charges, and that it really computes."""

import numpy as np
import pytest
import torch
from torch import nn

from netgraft.devices.device import Unsupported
from netgraft.devices.fake import FakeDevice
from netgraft.errors import DeviceError


def test_a_run_costs_overhead_and_multiply_accumulates() -> None:
    """3x3, 2 to 5 channels, 10x20 pixels: 2*5*9*200 = 18,000 MACs; at 10^6 ms/GMAC 18 ms, plus 0.5."""
    device = FakeDevice(ms_per_gmac=1e6, overhead_ms=0.5)
    x = torch.randn(1, 2, 10, 20, generator=torch.Generator().manual_seed(0))
    net = nn.Conv2d(2, 5, 3, padding=1)
    runnable = device.compile(net, x)
    assert not isinstance(runnable, Unsupported)
    y = runnable.run(x.numpy())
    assert device.clock.wall() == pytest.approx(0.0185)
    assert device.clock.cpu() == pytest.approx(0.0185)
    np.testing.assert_array_equal(y, net(x).detach().numpy())


def test_the_network_is_the_one_that_was_compiled() -> None:
    """What happens to the module afterwards does not reach the device, and its modes stay as they were."""
    net, x = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout(0.9)), torch.ones(1, 1, 4, 4)
    runnable = FakeDevice().compile(net, x)
    expected = net[0](x).detach().numpy()
    nn.init.zeros_(net[0].weight)
    assert not isinstance(runnable, Unsupported)
    np.testing.assert_array_equal(runnable.run(x.numpy()), expected)
    assert net.training


def test_a_refused_module_gives_a_reason_wherever_it_stands() -> None:
    net = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid()))
    outcome = FakeDevice(refuses=("Sigmoid",)).compile(net, torch.ones(1, 1, 4, 4))
    assert outcome == Unsupported("the fake device refuses Sigmoid")


def test_a_closed_network_does_not_run() -> None:
    runnable = FakeDevice().compile(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 4, 4))
    assert not isinstance(runnable, Unsupported)
    runnable.close()
    with pytest.raises(DeviceError, match=r"closed"):
        runnable.run(np.ones((1, 1, 4, 4), np.float32))
