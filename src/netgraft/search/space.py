"""The space of assignments: one option index a site, option 0 keeping the teacher's block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from netgraft.errors import SearchError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Table = tuple[FloatArray, ...]
"""S arrays (K_s,): one cost for each option of each site; they add up."""


@dataclass(frozen=True, slots=True)
class Space:
    """All assignments of S sites; an assignment is a row of S option indices."""

    cardinalities: tuple[int, ...]
    """Options at each site, at least 1; a site with one option always keeps the teacher's block."""

    @classmethod
    def of(cls, options: Sequence[int]) -> Space:
        """The space with these cardinalities.

        Raises:
            SearchError: no site, or a cardinality that is not an integer of at least 1.
        """
        sizes = np.asarray(options)
        if sizes.ndim != 1 or sizes.size == 0:
            raise SearchError("options is empty: give one cardinality for each site")
        if not np.issubdtype(sizes.dtype, np.integer):
            raise SearchError(f"options must be integers (one cardinality for each site), got {sizes.dtype}")
        if sizes.min() < 1:
            site = int(np.argmin(sizes))
            raise SearchError(f"site {site} has {sizes[site]} options: a cardinality must be at least 1")
        return cls(tuple(int(k) for k in sizes))

    @property
    def sites(self) -> int:
        """S."""
        return len(self.cardinalities)

    @property
    def size(self) -> int:
        """Number of assignments."""
        return math.prod(self.cardinalities)

    @property
    def swaps(self) -> int:
        """Number of assignments that differ from the teacher at exactly one site."""
        return sum(self.cardinalities) - self.sites

    def teacher(self) -> IntArray:
        """(1, S): option 0 everywhere."""
        return np.zeros((1, self.sites), dtype=np.int64)

    def everything(self) -> IntArray:
        """(size, S): every assignment, the teacher first, in lexicographic order."""
        grids = np.unravel_index(np.arange(self.size), self.cardinalities)
        return np.stack(grids, axis=1).astype(np.int64)

    def random(self, rng: np.random.Generator, n: int) -> IntArray:
        """(n, S): uniform assignments, repeats possible."""
        return rng.integers(0, self.cardinalities, size=(n, self.sites), dtype=np.int64)

    def latin(self, rng: np.random.Generator, n: int) -> IntArray:
        """(n, S): at every site each option occurs floor(n / K) or ceil(n / K) times, in random order."""
        columns = [rng.permutation(np.arange(n) + rng.integers(k)) % k for k in self.cardinalities]
        return np.stack(columns, axis=1).astype(np.int64)

    def single_swaps(self) -> IntArray:
        """(swaps, S): the teacher with one site changed, in the order of sites."""
        return self.neighbors(self.teacher())

    def swap_each(self, rng: np.random.Generator) -> IntArray:
        """(S, S): the teacher with one site changed, to a random option, for each site that has a choice."""
        rows = np.diag([int(rng.integers(1, k)) if k > 1 else 0 for k in self.cardinalities])
        return rows[rows.any(axis=1)]

    def neighbors(self, assignments: IntArray) -> IntArray:
        """(n * swaps, S): every assignment that differs from one of ``assignments`` (n, S) at one site."""
        parts = []
        for site, k in enumerate(self.cardinalities):
            for shift in range(1, k):
                moved = assignments.copy()
                moved[:, site] = (moved[:, site] + shift) % k
                parts.append(moved)
        return np.concatenate(parts) if parts else assignments[:0]


def row_keys(assignments: IntArray) -> list[bytes]:
    """One hashable key a row of ``assignments`` (n, S)."""
    rows = np.ascontiguousarray(assignments, dtype=np.int64)
    keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel().tolist()
    return cast(list[bytes], keys)


def distinct(assignments: IntArray) -> IntArray:
    """``assignments`` (n, S) without its repeated rows; the first of each stays, in order."""
    first = dict.fromkeys(row_keys(assignments))
    if len(first) == len(assignments):
        return assignments
    rows = np.frombuffer(b"".join(first), dtype=np.int64)
    return rows.reshape(len(first), assignments.shape[1]).copy()
