"""Whether the pairs of a data set belong together: found before hours are spent on them, and told all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray

from netgraft.data.layouts import Pair, first_few
from netgraft.data.pairs import load_pair, size_of
from netgraft.errors import DatasetError

SIDE_PX = 256
"""Longer side of the gray images that are compared."""
BLUR_PX = 2.0
"""Standard deviation that both are smoothed by there, so that a blurred image looks like its sharp one."""
LEAST_CORRELATION = 0.3
"""Below this, two images are not of one scene."""
MOST_SHIFT = 0.05
"""Largest shift between the two, as a share of the shorter side: a shake moves an image by less."""
SHIFT_GAIN = 0.1
"""How much better they must correlate once shifted, for the shift to be believed."""

Gray = NDArray[np.float32]


def check_pairs(
    pairs: Sequence[Pair], *, threads: int = 1, progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Refuse pairs of unequal size, of different scenes, or shifted against each other.

    Sizes come from the files' headers and are compared first; then every image is read once.

    Raises:
        DatasetError: some pairs do not match; the first few are named.
        ImageError: a file cannot be read.
    """
    sizes = ((pair, [size_of(file) for file in pair.files]) for pair in pairs)
    unequal = [f"{pair.name} ({_sizes(found)})" for pair, found in sizes if len(set(found)) > 1]
    if unequal:
        raise DatasetError(f"pairs of unequal size: {first_few(unequal)}; crop them alike, or leave them out")
    wrong = []
    with ThreadPoolExecutor(threads) as pool:
        for done, (pair, fault) in enumerate(zip(pairs, pool.map(_fault_of, pairs), strict=True), start=1):
            if fault:
                wrong.append(f"{pair.name} ({fault})")
            progress(done, len(pairs))
    if wrong:
        raise DatasetError(
            f"pairs that do not show the same: {first_few(wrong)}; leave them out, or add --no-check if they are right"
        )


def _sizes(found: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{w}x{h}" for h, w in found)


def _fault_of(pair: Pair) -> str | None:
    degraded, clean = load_pair(pair)
    for first in range(0, degraded.shape[2], 3):
        fault = mismatch(_gray(degraded[:, :, first : first + 3]), _gray(clean))
        if fault:
            return fault
    return None


def mismatch(degraded: Gray, clean: Gray) -> str | None:
    """What tells two (h, w) gray images apart beyond blur, noise and exposure; None if they match."""
    as_is = _correlation(degraded, clean)
    if np.isnan(as_is):
        # One of them is of a single value: a sky, a wall, a test image.
        return None
    window = cv2.createHanningWindow((clean.shape[1], clean.shape[0]), cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(clean - clean.mean(), degraded - degraded.mean(), window)
    x, y = round(dx), round(dy)
    if max(abs(x), abs(y)) > MOST_SHIFT * min(clean.shape):
        moved = _correlation(*_overlapping(degraded, clean, x, y))
        if moved > as_is + SHIFT_GAIN:
            across, down = 100 * abs(x) / clean.shape[1], 100 * abs(y) / clean.shape[0]
            return f"shifted by {across:.0f} % across and {down:.0f} % down"
    return f"correlation {as_is:.2f}" if as_is < LEAST_CORRELATION else None


def _overlapping(degraded: Gray, clean: Gray, x: int, y: int) -> tuple[Gray, Gray]:
    """What both show, if the degraded image stands (x, y) pixels further right and down."""
    h, w = clean.shape
    return (
        degraded[max(y, 0) : h + min(y, 0), max(x, 0) : w + min(x, 0)],
        clean[max(-y, 0) : h + min(-y, 0), max(-x, 0) : w + min(-x, 0)],
    )


def _correlation(a: Gray, b: Gray) -> float:
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _gray(image: NDArray[np.uint8] | NDArray[np.uint16]) -> Gray:
    scale = min(1.0, SIDE_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (0, 0), BLUR_PX)  # type: ignore[return-value]
