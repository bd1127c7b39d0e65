"""Sites: their order, shapes and shares, against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from netgraft.errors import CheckpointError, ConfigError
from netgraft.nets.blocks import ConvBlock, strided_from, transposed_from
from netgraft.nets.nafnet import NafNet, NafNetShape
from netgraft.sites import Site, find_sites, paper_sites, select_sites


def nafnet(*, width: int = 4, encoders: tuple[int, ...] = (1, 2), middle: int = 1) -> NafNet:
    torch.manual_seed(0)
    return NafNet(
        NafNetShape(width=width, encoder_blocks=encoders, middle_blocks=middle, decoder_blocks=(1,) * len(encoders))
    )


def block_macs(c: int, h: int, w: int) -> int:
    """Two 1x1 to 2c, a depthwise 3x3 on 2c, two 1x1 from c, and the attention's 1x1 on one pixel."""
    return h * w * (c * 2 * c + 9 * 2 * c + c * c + c * 2 * c + c * c) + c * c


def block_params(c: int) -> int:
    """Weights and biases of conv1 to conv5 and of the attention, two norms, beta and gamma."""
    convs = 2 * (c * 2 * c + 2 * c) + (9 * 2 * c + 2 * c) + 3 * (c * c + c)
    return convs + 4 * c + 2 * c


def test_sites_of_a_small_network_by_hand() -> None:
    """Order of the data, strides, channels, multiply-accumulates and parameters, one site a row."""
    expected = [
        ("encoders.0.0", "block", 1, 1, 4, 4, block_macs(4, 32, 48), block_params(4)),
        ("downs.0", "down", 1, 2, 4, 8, 16 * 24 * 4 * 8 * 4, 4 * 8 * 4 + 8),
        ("encoders.1.0", "block", 2, 2, 8, 8, block_macs(8, 16, 24), block_params(8)),
        ("encoders.1.1", "block", 2, 2, 8, 8, block_macs(8, 16, 24), block_params(8)),
        ("downs.1", "down", 2, 4, 8, 16, 8 * 12 * 8 * 16 * 4, 8 * 16 * 4 + 16),
        ("middle_blks.0", "block", 4, 4, 16, 16, block_macs(16, 8, 12), block_params(16)),
        ("ups.0", "up", 4, 2, 16, 8, 8 * 12 * 16 * 32, 16 * 32),
        ("decoders.0.0", "block", 2, 2, 8, 8, block_macs(8, 16, 24), block_params(8)),
        ("ups.1", "up", 2, 1, 8, 4, 16 * 24 * 8 * 16, 8 * 16),
        ("decoders.1.0", "block", 1, 1, 4, 4, block_macs(4, 32, 48), block_params(4)),
    ]
    rest = 2 * 32 * 48 * 3 * 4 * 9  # the first and the last convolution
    total = sum(row[6] for row in expected) + rest
    found = find_sites(nafnet(), (32, 48))
    fields = ("path", "kind", "stride", "out_stride", "in_channels", "out_channels", "macs", "params")
    assert [tuple(getattr(site, field) for field in fields) for site in found] == expected
    assert [site.macs_share for site in found] == pytest.approx([row[6] / total for row in expected])


def test_the_published_network_has_36_blocks_and_the_papers_space_8() -> None:
    with torch.device("meta"):
        net = NafNet(NafNetShape(width=32, encoder_blocks=(1, 1, 1, 28), middle_blocks=1, decoder_blocks=(1, 1, 1, 1)))
    sites = find_sites(net)
    kinds = [site.kind for site in sites]
    assert (kinds.count("block"), kinds.count("down"), kinds.count("up")) == (36, 4, 4)
    assert [site.path for site in paper_sites(sites)] == [
        *("encoders.0.0", "encoders.1.0", "encoders.2.0", "middle_blks.0"),
        *("decoders.0.0", "decoders.1.0", "decoders.2.0", "decoders.3.0"),
    ]
    deep = sum(site.macs_share for site in sites if site.path.startswith("encoders.3"))
    assert deep == pytest.approx(0.715, abs=5e-3), "the 4th encoder holds 71.5 % of the work"


def test_what_a_site_takes_is_what_it_is_given() -> None:
    """The example of every site goes through its block, and comes out with the promised channels and stride."""
    net = nafnet()
    for site in find_sites(net, (32, 48)):
        x = site.example((32, 48))
        y = net.get_submodule(site.path)(x)
        assert x.shape == (1, site.in_channels, 32 // site.stride, 48 // site.stride)
        assert y.shape == (1, site.out_channels, 32 // site.out_stride, 48 // site.out_stride)
        assert torch.equal(x, site.example((32, 48))), "the same each time"


def test_sites_of_one_shape_share_their_key_and_no_others() -> None:
    keys: dict[str, set[tuple[object, ...]]] = {}
    for site in find_sites(nafnet(encoders=(1, 2, 1)), (32, 32)):
        shape = (site.kind, site.stride, site.out_stride, site.in_channels, site.out_channels, site.macs)
        keys.setdefault(site.shape_key, set()).add(shape)
    assert all(len(shapes) == 1 for shapes in keys.values())
    assert len(set().union(*keys.values())) == len(keys)


def test_what_was_replaced_is_no_site_any_more() -> None:
    net = nafnet()
    net.encoders[1][0] = ConvBlock(8, residual=True)  # type: ignore[index]
    net.downs[0] = strided_from(net.downs[0])  # type: ignore[arg-type]
    net.ups[1] = transposed_from(net.ups[1])  # type: ignore[arg-type]
    before = {site.path for site in find_sites(nafnet(), (32, 32))}
    after = {site.path for site in find_sites(net, (32, 32))}
    assert before - after == {"encoders.1.0", "downs.0", "ups.1"}
    assert after < before


def test_other_networks_have_no_sites() -> None:
    with pytest.raises(CheckpointError, match="no sites in a Sequential"):
        find_sites(nn.Sequential(nn.Conv2d(3, 3, 1)))


def test_selected_sites_come_in_the_order_of_the_data() -> None:
    sites = find_sites(nafnet(), (32, 32))
    chosen = select_sites(sites, ["ups.0", "encoders.1.1", "encoders.1.1"])
    assert [site.path for site in chosen] == ["encoders.1.1", "ups.0"]
    assert all(isinstance(site, Site) for site in chosen)
    with pytest.raises(ConfigError, match=r"did you mean 'encoders\.1\.1'") as caught:
        select_sites(sites, ["encoders.1.11"])
    assert "\n" not in str(caught.value)
