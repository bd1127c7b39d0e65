"""MAXIM: its parts against plain loops and other people's code, the whole against its published outputs."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from netgraft.devices import OnnxRuntimeDevice, to_onnx
from netgraft.export import export
from netgraft.nets.macs import count_macs
from netgraft.nets.maxim import Gather, Maxim, MaximShape, shrink
from netgraft.nets.maxim_axes import CrossGating, MultiAxisBlock, TokenMixing, along
from netgraft.nets.maxim_checkpoint import load_maxim

SMALL = MaximShape(width=4, stages=2, groups=1, bottlenecks=1, high_side=4, low_side=2)
CHECKPOINTS = "NETGRAFT_MAXIM"
"""Names a folder with deblurring.safetensors and denoising.safetensors, as ``netgraft import maxim`` writes them, and
with maxim_reference.npz: per task ``_x`` (h, w, 3) uint8 and ``_y`` (h, w, 3), what the published graph gives."""


def random_net(shape: MaximShape = SMALL) -> Maxim:
    """One in which every parameter has an effect."""
    torch.manual_seed(0)
    net = Maxim(shape)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def test_the_published_size_has_the_published_number_of_parameters() -> None:
    # 22.2 M in the paper's Table 1; less the two output convolutions of the last stage that no image comes from.
    with torch.device("meta"):
        net = Maxim(MaximShape())
    assert sum(p.numel() for p in net.parameters()) == 22_207_605
    assert net.size_multiple == 64


def test_every_multiply_accumulate_is_counted() -> None:
    # One mixing of 4 tokens, on 2 blocks and 3 channels: 4 * 4 products for each of the 6 columns.
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = TokenMixing(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x.view(1, 4, 2, 3))

    assert count_macs(Net(), (2, 4)) == 4 * 4 * 6


@pytest.mark.parametrize("axis", ["grid", "block"])
@pytest.mark.parametrize("gradients", [False, True])
def test_tokens_are_those_that_the_paper_mixes(axis: str, gradients: bool) -> None:
    """With side 2, an image of 4x6: the grid's cells are of 2x3 pixels, its blocks of 2x2."""
    x = torch.arange(4 * 6, dtype=torch.float32).view(1, 4, 6, 1)
    seen: list[frozenset[int]] = []

    def mixing(tokens: Tensor) -> Tensor:
        assert tokens.shape[1] == 4
        seen.extend(frozenset(column.int().tolist()) for column in tokens[0, :, :, 0].T)
        return tokens + 100

    with torch.set_grad_enabled(gradients):
        y = along(x, 2, axis, mixing)  # type: ignore[arg-type]
    if axis == "grid":
        together = [
            [(i + a * 2) * 6 + j + b * 3 for a in range(2) for b in range(2)] for i in range(2) for j in range(3)
        ]
    else:
        together = [
            [(a * 2 + i) * 6 + b * 2 + j for i in range(2) for j in range(2)] for a in range(2) for b in range(3)
        ]
    assert sorted(map(sorted, seen)) == sorted(map(sorted, together))
    assert torch.equal(y, x + 100)


def test_a_mixing_is_a_linear_layer_over_tokens() -> None:
    torch.manual_seed(0)
    mix = TokenMixing(9)
    x = torch.randn(2, 9, 5, 3)
    expected = np.einsum("on,bnrc->borc", mix.weight.detach(), x) + mix.bias.detach().numpy()[:, None, None] + 1
    np.testing.assert_allclose(mix(x, shift=1.0).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_shrinking_is_pillows_bilinear(factor: int) -> None:
    x = torch.rand(1, 1, 12, 20)
    image = Image.fromarray(x[0, 0].numpy()).resize((20 // factor, 12 // factor), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(shrink(x, factor)[0, 0].numpy(), np.asarray(image), atol=1e-6)


def test_levels_are_gathered_as_resized_first_and_projected_then() -> None:
    """The order that the paper has; ours projects the smaller map."""
    torch.manual_seed(0)
    gather = Gather((2, 4, 8), 1).eval()
    features = [torch.randn(1, 2 << level, 16 >> level, 24 >> level) for level in range(3)]
    with torch.no_grad():
        larger = torch.nn.functional.interpolate(features[2], scale_factor=2, mode="bilinear")
        parts = [shrink(features[0], 2), features[1], larger]
        expected = [conv(x) for conv, x in zip(gather.convs, parts, strict=True)]
        gather.lowest_first = False
        assert torch.allclose(gather(features), torch.cat(expected, dim=1), atol=1e-5)
        gather.lowest_first = True
        assert torch.allclose(gather(features), torch.cat(expected[::-1], dim=1), atol=1e-5)


def test_the_fast_form_gives_what_training_gives() -> None:
    net = random_net()
    x = torch.rand(2, 3, 32, 48)
    trained = net(x)
    with torch.no_grad():
        assert torch.allclose(net(x), trained, atol=1e-5)
    trained.sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("size", [(1, 1), (15, 17), (16, 33)])
def test_any_size_is_padded_by_its_last_pixels(size: tuple[int, int]) -> None:
    net = random_net()
    x = torch.rand(1, 3, *size)
    h, w = (-(-side // net.size_multiple) * net.size_multiple for side in size)
    rows, columns = (torch.arange(n).clamp(max=side - 1) for n, side in zip((h, w), size, strict=True))
    with torch.no_grad():
        y = net(x)
        whole = net(x[:, :, rows][..., columns])
    assert y.shape == x.shape
    assert torch.allclose(y, whole[..., : size[0], : size[1]], atol=1e-6)


class _Parts(nn.Module):
    """The parts that are special to MAXIM, in a row: their export takes seconds, the whole network's minutes."""

    size_multiple = 8

    def __init__(self) -> None:
        super().__init__()
        self.intro = nn.Conv2d(3, 8, 1)
        self.block = MultiAxisBlock(8, 4)
        self.gather = Gather((8, 8), 0)
        self.cross = CrossGating(16, 8, 4)
        self.ending = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(self.intro(x))
        gated, _ = self.cross(self.gather([y, shrink(y, 2)]), y)
        return self.ending(gated)


def test_parts_export_with_parity_at_one_size_and_at_any(tmp_path: Path) -> None:
    torch.manual_seed(0)
    done = export(_Parts().eval(), tmp_path, "parts", [torch.rand(1, 3, 32, 24)])
    assert done.parity_max_abs < 1e-5


@pytest.mark.slow
def test_the_whole_network_exports_with_parity(tmp_path: Path) -> None:
    net = random_net(MaximShape(width=4, stages=1, groups=1, bottlenecks=1, high_side=4, low_side=2))
    x = torch.rand(1, 3, 32, 48)
    to_onnx(net, x, tmp_path / "net.onnx")
    runnable = OnnxRuntimeDevice(threads=1).load(tmp_path / "net.onnx")
    with torch.no_grad():
        assert np.abs(runnable.run(x.numpy()) - net(x).numpy()).max() < 1e-4


@pytest.mark.skipif(CHECKPOINTS not in os.environ, reason=f"{CHECKPOINTS} names no folder: see docs/maxim.md")
@pytest.mark.parametrize("task", ["deblurring", "denoising"])
def test_published_weights_give_what_the_published_graph_gives(task: str) -> None:
    folder = Path(os.environ[CHECKPOINTS])
    reference = np.load(folder / "maxim_reference.npz")
    net = load_maxim(folder / f"{task}.safetensors").module
    x = torch.from_numpy(reference[f"{task}_x"]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        y = net(x)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(y, reference[f"{task}_y"], atol=1e-3)
