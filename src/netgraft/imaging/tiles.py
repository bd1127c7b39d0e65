"""Running a network on an image of any size: padding, overlapping tiles and a blend without seams."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from netgraft.errors import ConfigError, ImageError


@torch.no_grad()
def run_tiled(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    tile: int,
    overlap: int,
    multiple: int = 1,
    fixed: tuple[int, int] | None = None,
) -> Tensor:
    """Apply ``fn`` to an image tile by tile; (1, c, h, w) -> (1, 3, h, w), without gradients.

    An image that fits into one tile is passed whole. Tiles stand at multiples of ``multiple``, where a
    network with downsampling sees them as it sees the whole image. Nearer to an inner edge than a quarter of
    the overlap, where a network misses what lies beyond, a tile does not count; from there a cosine ramp
    leads over to its neighbor. Besides the result, memory holds one tile.

    fn: maps (1, c, a, b), with a and b multiples of ``multiple``, to (1, 3, a, b).
    x: (1, c, h, w) of any size; it is continued by reflection where it has to be padded.
    tile: largest side of a tile, in pixels.
    overlap: pixels that neighboring tiles share at least.
    multiple: what the sides of fn's input must be divisible by.
    fixed: (a, b) of every input, for a network with a fixed input size; ``tile`` is then not used.

    Raises:
        ConfigError: the tile is no multiple of ``multiple`` or not larger than the overlap.
        ImageError: x is no image batch of one, or fn changed its shape.
    """
    if x.ndim != 4 or x.shape[0] != 1 or 0 in x.shape:
        raise ImageError(f"one image of shape (1, 3, h, w) is needed, not {tuple(x.shape)}; run images one by one")
    sides = fixed or tuple(min(tile, _round_up(n, multiple)) for n in x.shape[2:])
    _check_grid(fixed or (tile, tile), overlap, multiple)
    rows, columns = (_axis(n, side, overlap, multiple, x) for n, side in zip(x.shape[2:], sides, strict=True))
    out = torch.zeros_like(x[:, :3])
    for (row_indices, row_weights), (column_indices, column_weights) in itertools.product(rows, columns):
        piece = x.index_select(2, row_indices).index_select(3, column_indices)
        restored = fn(piece)
        if restored.shape != piece[:, :3].shape:
            raise ImageError(
                f"the network turned {tuple(piece.shape)} into {tuple(restored.shape)}; use one that keeps the size"
            )
        # Tiles reach over the image's end by what was padded; that part is dropped here.
        top, left = int(row_indices[0]), int(column_indices[0])
        height, width = min(len(row_weights), x.shape[2] - top), min(len(column_weights), x.shape[3] - left)
        weights = row_weights[:height, None] * column_weights[:width]
        out[:, :, top : top + height, left : left + width] += restored[:, :, :height, :width].to(out) * weights
    return out


def _check_grid(sides: tuple[int, int], overlap: int, multiple: int) -> None:
    if multiple < 1 or overlap < 0:
        raise ConfigError(f"tiles with overlap {overlap} and multiple {multiple}: use 0 or more, and 1 or more")
    shared = _round_up(overlap, multiple)
    for side in sides:
        if side < 1 or side % multiple:
            raise ConfigError(f"a tile of {side} pixels is no multiple of {multiple}, which the network needs")
        if side <= shared:
            raise ConfigError(
                f"tiles of {side} pixels cannot overlap by {overlap} at steps of {multiple}; "
                "use larger tiles or less overlap"
            )


def _axis(length: int, side: int, overlap: int, multiple: int, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The tiles along one axis: the pixels that each reads, (side,) indices, and its (side,) weights."""
    starts = _starts(max(side, _round_up(length, multiple)), side, overlap, multiple)
    weights = torch.zeros(len(starts), starts[-1] + side, dtype=torch.float64)
    for number, start in enumerate(starts):
        window = torch.ones(side, dtype=torch.float64)
        if number > 0:
            window *= _ramp(side, starts[number - 1] + side - start)
        if number < len(starts) - 1:
            window *= _ramp(side, start + side - starts[number + 1]).flip(0)
        weights[number, start : start + side] = window
    weights /= weights.sum(0)
    return [
        (
            _reflected(torch.arange(start, start + side, device=like.device), length),
            weights[number, start : start + side].to(device=like.device, dtype=like.dtype),
        )
        for number, start in enumerate(starts)
    ]


def _starts(length: int, side: int, overlap: int, multiple: int) -> list[int]:
    """First pixels of tiles that cover ``length`` evenly; it and ``side`` are multiples of ``multiple``."""
    room = (length - side) // multiple
    if room == 0:
        return [0]
    step = (side - _round_up(overlap, multiple)) // multiple
    tiles = -(-room // step) + 1
    return [room * number // (tiles - 1) * multiple for number in range(tiles)]


def _ramp(side: int, shared: int) -> Tensor:
    """(side,) weights: 0 for a quarter of the shared pixels, then half a cosine up to 1."""
    margin = shared // 4
    span = shared - 2 * margin
    position = (torch.arange(side, dtype=torch.float64) - margin + 0.5) / max(span, 1)
    return torch.sin(position.clamp(0, 1) * torch.pi / 2) ** 2


def _reflected(index: Tensor, length: int) -> Tensor:
    """Positions beyond the last pixel, folded back: 0 1 2 3 2 1 0 1 .. for a length of 4."""
    if length == 1:
        return torch.zeros_like(index)
    folded = index % (2 * length - 2)
    return torch.minimum(folded, 2 * length - 2 - folded)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
