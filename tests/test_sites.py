"""Sites: their order, shapes and shares, against counts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from custom_network import Restorer
from netgraft.config import load_config
from netgraft.errors import CheckpointError, ConfigError
from netgraft.nets.blocks import ConvBlock, strided_from, transposed_from
from netgraft.nets.maxim import Maxim, MaximShape
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


def test_what_was_replaced_is_no_block_of_the_teacher_any_more() -> None:
    net = nafnet()
    net.encoders[1][0] = ConvBlock(8, residual=True)  # type: ignore[index]
    net.downs[0] = strided_from(net.downs[0])  # type: ignore[arg-type]
    net.ups[1] = transposed_from(net.ups[1])  # type: ignore[arg-type]
    before = {site.path: site.block for site in find_sites(nafnet(), (32, 32))}
    after = {site.path: site.block for site in find_sites(net, (32, 32))}
    changed = {path: block for path, block in after.items() if block != before[path]}
    assert before.keys() - after.keys() == {"encoders.1.0"}
    assert changed == {"downs.0": "Conv2d 3x3/2", "ups.1": "ConvTranspose2d"}, "layers that no operator starts from"


def test_a_network_without_blocks_has_no_sites() -> None:
    with pytest.raises(CheckpointError, match="no sites in a Sequential"):
        find_sites(nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(CheckpointError, match=r"a Conv2d does not take an image of \(1, 3, 64, 64\)"):
        find_sites(nn.Conv2d(5, 5, 3, padding=1))


def test_sites_of_a_users_network() -> None:
    """Blocks, not their layers nor the rows that they stand in; layers where there are no blocks."""
    found = find_sites(Restorer(), (64, 64))
    assert [(site.path, site.kind, site.block, site.more_channels) for site in found] == [
        ("upper.0", "block", "Gated", ()),
        ("upper.1", "block", "Gated", ()),
        ("down", "down", "Conv2d 2x2", ()),
        ("lower.0", "block", "Gated", ()),
        ("lower.1", "block", "Gated", ()),
        ("lower.2", "block", "Gated", ()),
        ("up", "up", "Sequential(Conv2d 1x1 without bias, PixelShuffle)", ()),
        ("merge", "block", "Merge", (8,)),
        ("tail", "block", "Sequential(Conv2d 3x3, ReLU)", ()),
        ("twice", "block", "Twice", ()),
    ]
    keys = {site.path: site.shape_key for site in found}
    assert keys["upper.0"] == keys["upper.1"] == "block:8@1:Gated"
    assert len({keys[path] for path in ("upper.0", "merge", "tail", "twice")}) == 4, "alike in shape, not in time"
    assert keys["lower.0"] == keys["lower.2"] == "block:16@2"
    # The gated block of 8 channels at 64x64, by hand.
    assert found[0].macs == 64 * 64 * (9 * 8 * 16 + 8 * 8)


def test_equal_classes_of_other_settings_are_told_apart() -> None:
    rows = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=d, dilation=d) for d in (1, 2, 1)))
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), rows, nn.Conv2d(4, 3, 3, padding=1))
    keys = [site.shape_key for site in find_sites(net, (64, 64))]
    assert keys == ["block:4@1:Conv2d-1", "block:4@1:Conv2d-2", "block:4@1:Conv2d-1"]


def test_a_network_that_looks_at_its_data_is_traced_with_some() -> None:
    class Looking(Restorer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if float(x.mean()) >= 0 else x

    assert [site.path for site in find_sites(Looking())] == [site.path for site in find_sites(Restorer())]


def test_named_modules_are_sites_in_place_of_what_is_inside_or_around() -> None:
    paths = [site.path for site in find_sites(Restorer(), named=["upper", "lower.*"])]
    assert paths == ["upper", "down", "lower.0", "lower.1", "lower.2", "up", "merge", "tail", "twice"]
    inner = find_sites(Restorer(), named=["lower.1.gather"])
    assert [site.path for site in inner if site.path.startswith("lower")] == ["lower.0", "lower.1.gather", "lower.2"]
    depths = {site.path: site.depth for site in find_sites(Restorer(), named=["upper"])}
    assert (depths["upper"], depths["lower.0"]) == (2, 1)
    stage = {site.path: site for site in find_sites(nafnet(), (32, 48), named=["encoders.*"])}
    assert (stage["encoders.1"].depth, stage["encoders.1"].macs) == (2, 2 * block_macs(8, 16, 24))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("lowr.1", "did you mean 'lower.1'"),
        ("context", r"what it gives changes with the size of the image: \(1, 16, 4, 4\) at 64x64"),
        ("twice.shared", "it is called 2 times in one pass"),
        ("lower.0.spread", "takes 16 channels and gives 32"),
        ("lower", "it is not called"),
        ("tail.1", "no convolution or linear layer"),
        ("intro", "takes 3 channels and gives 8"),
    ],
)
def test_what_cannot_be_a_site_is_refused_with_the_reason(named: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        find_sites(Restorer(), named=[named])
    assert "\n" not in str(caught.value)


def test_a_site_inside_another_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"upper\.0 lies inside of the site upper"):
        find_sites(Restorer(), named=["upper", "upper.0"])


def test_sites_of_a_maxim() -> None:
    """Every block, gate and supervised attention; whole levels where they are named."""
    shape = MaximShape(width=4, stages=2, groups=2, bottlenecks=1, high_side=4, low_side=2)
    with torch.device("meta"):
        net = Maxim(shape)
    blocks = [site.block for site in find_sites(net, (64, 64))]
    counts = {block: blocks.count(block) for block in blocks}
    assert counts == {
        "MultiAxisBlock": 2 * (2 * 3 * 2 + 2),
        "ConvAttentionBlock": 2 * 2 * 3 * 2,
        "MlpAttentionBlock": 2 * 2,
        "Conv2d 4x4/2": 2 * 3,
        "ConvTranspose2d": 2 * 6,
        "SignalGating": 2 * 3,
        "MutualGating": 2 * 3,
        "SupervisedAttention": 3,
    }
    levels = find_sites(net, (64, 64), named=["stages.*.encoders.*.blocks", "stages.*.decoders.*.blocks"])
    assert sum(site.depth == 4 for site in levels) == 12


@pytest.mark.parametrize("task", ["denoising", "deblurring"])
def test_sites_of_the_examples_for_maxim(task: str) -> None:
    """Their patterns lead to every block and every cross gating of a first stage."""
    chosen = load_config(Path(__file__).parent.parent / "examples" / "maxim" / f"{task}.toml").space.sites
    assert isinstance(chosen, tuple)
    with torch.device("meta"):
        net = Maxim(MaximShape(width=4, stages=1, groups=1, bottlenecks=1, high_side=2, low_side=2))
    blocks = [site.block for site in find_sites(net, (64, 64), named=chosen) if site.kind == "block"]
    assert blocks.count("MutualGating") == 3
    assert len(blocks) == 3 + 2 * 3 * 2 + 1


def test_selected_sites_come_in_the_order_of_the_data() -> None:
    sites = find_sites(nafnet(), (32, 32))
    chosen = select_sites(sites, ["ups.0", "encoders.1.1", "encoders.1.1"])
    assert [site.path for site in chosen] == ["encoders.1.1", "ups.0"]
    assert all(isinstance(site, Site) for site in chosen)
    with pytest.raises(ConfigError, match=r"did you mean 'encoders\.1\.1'") as caught:
        select_sites(sites, ["encoders.1.11"])
    assert "\n" not in str(caught.value)
