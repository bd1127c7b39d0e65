"""Tiling: identity stays identity, local operators do not notice it, memory is bounded by a tile."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from netgraft.errors import ConfigError, ImageError
from netgraft.imaging import run_tiled


def image(h: int, w: int, seed: int = 0) -> Tensor:
    return torch.rand((1, 3, h, w), generator=torch.Generator().manual_seed(seed))


@st.composite
def grids(draw: st.DrawFn) -> dict[str, int]:
    multiple = draw(st.sampled_from([1, 2, 4, 8]))
    units = draw(st.integers(2, 6))
    return {
        "h": draw(st.integers(1, 70)),
        "w": draw(st.integers(1, 70)),
        "multiple": multiple,
        "tile": units * multiple,
        "overlap": draw(st.integers(0, (units - 1) * multiple)),
    }


@settings(max_examples=200, deadline=None)
@given(grid=grids(), is_fixed=st.booleans())
def test_identity_gives_the_image_back(grid: dict[str, int], is_fixed: bool) -> None:
    """For any size and grid; and the network sees only the sizes that it was promised."""
    x = image(grid.pop("h"), grid.pop("w"))
    seen: list[tuple[int, int]] = []

    def identity(piece: Tensor) -> Tensor:
        seen.append((piece.shape[2], piece.shape[3]))
        return piece

    fixed = (grid["tile"], grid["tile"] + grid["multiple"]) if is_fixed else None
    torch.testing.assert_close(run_tiled(identity, x, fixed=fixed, **grid), x, atol=1e-6, rtol=0)
    for size in seen:
        if fixed:
            assert size == fixed
        assert all(side % grid["multiple"] == 0 for side in size)
        assert fixed or max(size) <= grid["tile"]


@settings(max_examples=50, deadline=None)
@given(h=st.integers(8, 60), w=st.integers(8, 60), overlap=st.integers(4, 12))
def test_a_3x3_convolution_does_not_notice_tiles(h: int, w: int, overlap: int) -> None:
    """Its radius of 1 is within a quarter of the overlap, so zero padding at inner edges stays unseen."""
    x, kernel = image(h, w), torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(1))

    def convolve(piece: Tensor) -> Tensor:
        return functional.conv2d(piece, kernel, padding=1)

    torch.testing.assert_close(run_tiled(convolve, x, tile=16, overlap=overlap), convolve(x), atol=1e-5, rtol=0)


def test_too_little_overlap_would_show() -> None:
    """The check above can fail: without overlap the zero padding at the tiles' edges is seen."""
    x, kernel = image(48, 48), torch.ones(3, 3, 3, 3)

    def convolve(piece: Tensor) -> Tensor:
        return functional.conv2d(piece, kernel, padding=1)

    assert (run_tiled(convolve, x, tile=16, overlap=0) - convolve(x)).abs().max() > 0.1


def test_tiles_keep_the_phase_of_downsampling() -> None:
    """A network that keeps every fourth pixel sees the same ones in tiles as in the whole image."""
    x = image(64, 52)

    def every_fourth(piece: Tensor) -> Tensor:
        return functional.interpolate(piece[:, :, ::4, ::4], scale_factor=4, mode="nearest")

    tiled = run_tiled(every_fourth, x, tile=24, overlap=6, multiple=4)
    torch.testing.assert_close(tiled, every_fourth(x), atol=1e-6, rtol=0)


def test_tiles_that_disagree_are_blended_without_a_step() -> None:
    """Tile number n answers n everywhere: the result climbs from 0 to 3 in small steps."""
    calls = iter(range(4))

    def number(piece: Tensor) -> Tensor:
        return torch.full_like(piece, next(calls))

    out = run_tiled(number, image(32, 104), tile=32, overlap=8)[0, 0, 0]
    assert out[0] == 0
    assert out[-1] == 3
    steps = out.diff()
    assert steps.min() >= 0
    assert steps.max() < 0.5


def test_padding_reflects_the_image() -> None:
    """Three columns 0 1 2 continue as 1 0 1 2 1 up to a width of 8, also beyond one reflection."""
    x = torch.arange(3.0).expand(1, 3, 2, 3)
    seen: list[Tensor] = []

    def spy(piece: Tensor) -> Tensor:
        seen.append(piece)
        return piece

    run_tiled(spy, x, tile=8, overlap=0, multiple=8)
    assert seen[0][0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert seen[0].shape == (1, 3, 8, 8)


def test_a_small_image_is_passed_whole() -> None:
    sizes: list[tuple[int, ...]] = []

    def spy(piece: Tensor) -> Tensor:
        sizes.append(tuple(piece.shape))
        return piece

    run_tiled(spy, image(20, 37), tile=64, overlap=16, multiple=8)
    assert sizes == [(1, 3, 24, 40)]


def test_no_gradients_are_kept() -> None:
    x = image(20, 20).requires_grad_()
    weight = torch.ones((), requires_grad=True)
    assert not run_tiled(lambda piece: piece * weight, x, tile=8, overlap=2).requires_grad


def test_impossible_grids_and_networks_are_refused() -> None:
    x = image(40, 40)
    with pytest.raises(ConfigError, match="no multiple of 8"):
        run_tiled(lambda p: p, x, tile=20, overlap=4, multiple=8)
    with pytest.raises(ConfigError, match="cannot overlap"):
        run_tiled(lambda p: p, x, tile=16, overlap=9, multiple=8)
    with pytest.raises(ConfigError, match="cannot overlap"):
        run_tiled(lambda p: p, x, tile=16, overlap=8, fixed=(16, 8))
    with pytest.raises(ConfigError):
        run_tiled(lambda p: p, x, tile=16, overlap=-1)
    with pytest.raises(ImageError, match="keeps the size"):
        run_tiled(lambda p: p[:, :, ::2], x, tile=16, overlap=4)
    for wrong in (torch.rand(3, 8, 8), torch.rand(2, 3, 8, 8), torch.rand(1, 3, 0, 8)):
        with pytest.raises(ImageError, match="one image"):
            run_tiled(lambda p: p, wrong, tile=16, overlap=4)
