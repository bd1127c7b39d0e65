"""Limits on what assignments cost: which evaluations meet them, how far others are, and what to say if none can.

A limit is on an objective or on any other quantity that is known of every assignment. Those on known sums over sites
are checked together before anything is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netgraft.errors import SearchError
from netgraft.search.known import Known, KnownQuantity
from netgraft.search.result import EvaluationError, InfeasibleError
from netgraft.search.space import BoolArray, FloatArray, IntArray, Space
from netgraft.search.sums import Sums

ROUNDING = 1e-9
"""Share of itself by which a limit may be exceeded: sums round, and so do values that are typed in as printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """The most that a quantity may be."""

    name: str
    """What messages call the limit."""
    of: int | Known
    """The index of an objective; or a quantity that needs no evaluation: S lists of one value an option, which add
    up, or a function (n, S) -> (n,)."""
    limit: float
    show: Callable[[float], str] = "{:.10g}".format
    """How messages write the quantity, where it is not what the limit was given in."""

    def __str__(self) -> str:
        return f"{self.name} = {self.show(self.limit)}"

    @property
    def bound(self) -> float:
        """The limit with room for rounding."""
        return self.limit + ROUNDING * abs(self.limit)


def check_sums(options: Sequence[int], limits: Sequence[Constraint]) -> None:
    """Raise SearchError where limits on known sums over sites with so many options cannot be met, each or together."""
    Constraints(Space.of(options), limits, {})


class Constraints:
    """All limits of one search; C of them."""

    def __init__(self, space: Space, limits: Sequence[Constraint], known: Mapping[int, KnownQuantity]) -> None:
        for limit in limits:
            if not math.isfinite(limit.limit):
                raise SearchError(f"{limit.name} must be a finite number, got {limit.limit}")
        self.limits = tuple(limits)
        self.bounds = np.array([limit.bound for limit in limits])
        """(C,)."""
        self._options = space.cardinalities
        self._known: dict[int, KnownQuantity] = {}
        for column, limit in enumerate(limits):
            if not isinstance(limit.of, int):
                self._known[column] = KnownQuantity(space, limit.name, limit.of)
            elif limit.of in known:
                self._known[column] = known[limit.of]
        self._check_sums()

    def values(self, assignments: IntArray, costs: FloatArray) -> FloatArray:
        """The limited quantities of assignments (n, S) with these costs (n, M), which may be predicted: (n, C)."""
        columns = [
            costs[:, limit.of] if isinstance(limit.of, int) else self._known[column](assignments)
            for column, limit in enumerate(self.limits)
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((len(assignments), 0))

    def allowed(self, assignments: IntArray) -> BoolArray:
        """Which assignments (n, S) meet the limits on what is known without an evaluation: (n,)."""
        inside = np.ones(len(assignments), dtype=np.bool_)
        for column, quantity in self._known.items():
            inside &= quantity(assignments) <= self.bounds[column]
        return inside

    @cached_property
    def sums_aside(self) -> Sums:
        """The limits on sums over sites that are no objectives."""
        return self._sums([column for column in self._additive if not isinstance(self.limits[column].of, int)])

    def check_objectives(self, objectives: int) -> None:
        """Raise EvaluationError where a limit is on an objective that does not exist."""
        for limit in self.limits:
            if isinstance(limit.of, int) and not 0 <= limit.of < objectives:
                raise EvaluationError(f"{limit.name}: there are only {objectives} objectives")

    def check_met(self, values: FloatArray) -> None:
        """Raise InfeasibleError where none of the evaluations with these limited quantities (n, C) meets all limits."""
        met = values <= self.bounds
        if met.all(axis=1).any():
            return
        unmet = [
            f"{self.limits[column]} (nearest found {self._nearest(values, met, column)})"
            for column in np.flatnonzero(~met.any(axis=0)).tolist()
        ]
        if unmet:
            raise InfeasibleError(f"none of {len(values)} evaluated assignments meets {' and '.join(unmet)}")
        # Each can be met, but not together.
        ranges = np.ptp(values, axis=0)
        nearest = values[np.argmin(self.violations(values, ranges).clip(min=0).sum(axis=1))]
        shown = " and ".join(limit.show(value) for limit, value in zip(self.limits, nearest.tolist(), strict=True))
        raise InfeasibleError(
            f"none of {len(values)} evaluated assignments meets {_listed(self.limits)} together: "
            f"the nearest has {shown}"
        )

    def violations(self, values: FloatArray, ranges: FloatArray) -> FloatArray:
        """How far ``values`` (n, C) are beyond the limits, in units of ``ranges`` (C,); 0 or less where met."""
        return np.asarray((values - self.bounds) / np.where(ranges > 0, ranges, 1.0))

    def _nearest(self, values: FloatArray, met: BoolArray, column: int) -> str:
        """The least of a limited quantity where all other limits are met, or where none are."""
        others = np.delete(met, column, axis=1).all(axis=1)
        found = values[others, column] if others.any() else values[:, column]
        return self.limits[column].show(float(found.min()))

    @property
    def _additive(self) -> list[int]:
        return [column for column, quantity in self._known.items() if quantity.additive]

    def _sums(self, columns: Sequence[int]) -> Sums:
        found = [self._known[column].table for column in columns]
        tables = (np.array([table[site] for table in found]).reshape(-1, k) for site, k in enumerate(self._options))
        return Sums(tuple(table.T for table in tables), self.bounds[list(columns)])

    def _check_sums(self) -> None:
        """What :func:`check_sums` says, and the same of functions that know their least value."""
        for column, quantity in self._known.items():
            if quantity.least > self.bounds[column]:
                limit = self.limits[column]
                raise SearchError(f"{limit} cannot be met: the least possible is {limit.show(quantity.least)}")
        columns = self._additive
        if not columns:
            return
        sums = self._sums(columns)
        conflict = sums.conflict()
        limits = [self.limits[columns[c]] for c in conflict]
        if len(conflict) == 1:
            least = limits[0].show(float(sums.left()[0, conflict[0]]))
            raise SearchError(f"{limits[0]} cannot be met: the least possible is {least}")
        if conflict:
            nearest = [_without(sums, c, conflict) for c in conflict]
            shown = [f"with {limit.name} = {limit.show(least)}" for limit, least in zip(limits, nearest, strict=True)]
            raise SearchError(f"{_listed(limits)} cannot be met together: they can {' or '.join(shown)}")


def _without(sums: Sums, column: int, conflict: Sequence[int]) -> float:
    """The least sum in ``column`` with all other limits met, or those of its conflict where another one remains."""
    least = sums.least(column, [c for c in range(len(sums.bounds)) if c != column])
    return least if math.isfinite(least) else sums.least(column, [c for c in conflict if c != column])


def _listed(limits: Sequence[Constraint]) -> str:
    return " and ".join(map(str, limits))
