"""What is known of every assignment without an evaluation, as latency, size and multiply-accumulates are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from netgraft.errors import SearchError
from netgraft.search.result import EvaluationError
from netgraft.search.space import FloatArray, IntArray, Space, Table

Known = Sequence[ArrayLike] | Callable[[IntArray], ArrayLike]
"""A quantity that costs nothing: S lists of one value an option, which add up, or (n, S) -> (n,). A function may tell
its least value, in a method ``least()``: a limit below it is then refused before anything is evaluated."""


@runtime_checkable
class Bounded(Protocol):
    """A function of assignments that knows its least value over all of them."""

    def least(self) -> float: ...


class KnownQuantity:
    """A quantity whose value at any assignment is known exactly and for nothing; ``name`` is for messages."""

    def __init__(self, space: Space, name: str, source: Known) -> None:
        self._name = name
        self._call = source if callable(source) else None
        self.additive = self._call is None
        """Whether ``table`` is the quantity itself, and not only its single swaps."""
        self.table = self._checked(space, source) if not callable(source) else self._swapped(space)
        """S arrays (K_s,), one cost an option; exact for the teacher and its single swaps."""
        self.least = float(source.least()) if isinstance(source, Bounded) else -np.inf
        """No assignment of a function that tells as much is below it; sums over sites are bounded by their table."""

    def __call__(self, assignments: IntArray) -> FloatArray:
        """Costs of ``assignments`` (n, S): (n,)."""
        if self._call is None:
            columns = [row[assignments[:, site]] for site, row in enumerate(self.table)]
            return np.asarray(np.sum(columns, axis=0), dtype=np.float64)
        try:
            values = np.asarray(self._call(assignments), dtype=np.float64)
        except Exception as error:
            # The caller's code, as the objective is: the evaluations so far must survive it.
            raise EvaluationError(f"{self._name} failed: {type(error).__name__}: {error}") from error
        if values.shape != (len(assignments),) or not np.isfinite(values).all():
            raise EvaluationError(f"{self._name} must return {len(assignments)} finite costs, one a row")
        return values

    def _checked(self, space: Space, source: Sequence[ArrayLike]) -> Table:
        """The caller's table."""
        table = tuple(np.asarray(row, dtype=np.float64) for row in source)
        if tuple(row.shape for row in table) != tuple((k,) for k in space.cardinalities):
            raise SearchError(f"{self._name} needs one cost for each option of each of {space.sites} sites")
        if not all(np.isfinite(row).all() for row in table):
            raise SearchError(f"{self._name} holds a value that is not finite")
        return table

    def _swapped(self, space: Space) -> Table:
        """The table of the single swaps of a quantity that is known as a function."""
        values = self(np.concatenate([space.teacher(), space.single_swaps()]))
        # Single swaps come site by site, options 1 to K - 1: see Space.neighbors.
        changes = np.split(values[1:] - values[0], np.cumsum(np.asarray(space.cardinalities) - 1)[:-1])
        share = values[0] / space.sites
        return tuple(share + np.concatenate([[0.0], change]) for change in changes)
