"""Features are what the sites really see, and looking leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from netgraft.features import site_features
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.sites import find_sites


@pytest.fixture
def net() -> NafNet:
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1, 2), middle_blocks=1, decoder_blocks=(1, 1)))
    start_residuals(net, 0.3)
    return net.eval()


def by_hand(net: NafNet, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The U-Net written out, with every site's input and output."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def through(path: str, y: Tensor) -> Tensor:
        seen[path] = (y, net.get_submodule(path)(y))
        return seen[path][1]

    full = through("encoders.0.0", net.intro(x))
    half = through("encoders.1.1", through("encoders.1.0", through("downs.0", full)))
    deep = through("middle_blks.0", through("downs.1", half))
    up = through("decoders.0.0", through("ups.0", deep) + half)
    through("decoders.1.0", through("ups.1", up) + full)
    return seen


def test_features_are_those_of_the_network_written_out(net: NafNet) -> None:
    x = torch.rand(2, 3, 16, 24)
    sites = find_sites(net, (16, 24))
    features = site_features(net, x, sites)
    with torch.no_grad():
        expected = by_hand(net, x)
    assert features.keys() == expected.keys() == {site.path for site in sites}
    for path, (given, made) in expected.items():
        torch.testing.assert_close(features[path].x, given)
        torch.testing.assert_close(features[path].y, made)


def test_only_the_sites_that_are_asked_for_are_kept(net: NafNet) -> None:
    sites = find_sites(net, (16, 16))[2:4]
    assert list(site_features(net, torch.rand(1, 3, 16, 16), sites)) == [site.path for site in sites]


def test_the_pass_ends_at_the_last_site(net: NafNet) -> None:
    """Modules behind it are not called; those before it are."""
    sites = [site for site in find_sites(net, (16, 16)) if site.path in {"encoders.0.0", "downs.1"}]
    called: list[str] = []
    for name in ("encoders.1.0", "downs.1", "middle_blks.0", "ending"):
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    assert len(site_features(net, torch.rand(1, 3, 16, 16), sites)) == 2
    assert called == ["encoders.1.0", "downs.1"]


def test_looking_leaves_no_trace(net: NafNet) -> None:
    """No hooks, no gradients, and features that others may learn from; also after an error."""
    sites = find_sites(net, (16, 16))
    features = site_features(net, torch.rand(1, 3, 16, 16), sites)
    with pytest.raises(RuntimeError):
        site_features(net, torch.rand(1, 4, 16, 16), sites)
    assert not any(part._forward_hooks for part in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    learner = nn.Conv2d(4, 4, 1)
    learner(features["encoders.0.0"].x).square().sum().backward()
    assert learner.weight.grad is not None
