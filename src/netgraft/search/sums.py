"""Limits on sums over sites: whether they can be met together, by integer programming, before anything is evaluated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from netgraft.search.space import FloatArray, IntArray

NODES = 20_000
"""Branches that the solver looks at, at most; a few hundred are usual. What it cannot settle counts as possible."""
INFEASIBLE = 2
"""The solver's status where there is proof."""


@dataclass(frozen=True, slots=True)
class Sums:
    """C quantities that add up over S sites, and the most that each may be."""

    tables: tuple[FloatArray, ...]
    """S arrays (K_s, C): what each option of a site adds."""
    bounds: FloatArray
    """(C,)."""

    def __call__(self, assignments: IntArray) -> FloatArray:
        """The sums of ``assignments`` (n, S): (n, C)."""
        columns = [table[assignments[:, site]] for site, table in enumerate(self.tables)]
        return np.asarray(np.sum(columns, axis=0), dtype=np.float64)

    def left(self) -> FloatArray:
        """(S + 1, C): the least that the sites from each on still add; 0 behind the last."""
        least = np.array([table.min(axis=0) for table in self.tables])
        return np.concatenate([np.cumsum(least[::-1], axis=0)[::-1], np.zeros((1, len(self.bounds)))])

    def conflict(self) -> list[int]:
        """The first few bounds that cannot be met together although any fewer of them can; empty if all can."""
        kept = list(range(len(self.bounds)))
        if self._possible(kept):
            return []
        # Whatever may be left out without the rest becoming possible has no part in it (a deletion filter).
        for column in range(len(self.bounds)):
            rest = [c for c in kept if c != column]
            if not self._possible(rest):
                kept = rest
        return kept

    def least(self, column: int, others: Collection[int]) -> float:
        """The least sum in ``column`` with the bounds of ``others`` met; infinite where none is known."""
        costs, site_of = self._above_least()
        found = self._solve(others, costs[:, column])
        if found.x is None:
            return np.inf
        row = [int(part.argmax()) for part in np.split(found.x, np.flatnonzero(np.diff(site_of)) + 1)]
        return float(self(np.array([row]))[0, column])

    def _possible(self, within: Collection[int]) -> bool:
        """Whether the bounds ``within`` can be met together, as far as can be told."""
        return bool(self._solve(within).status != INFEASIBLE)

    def _above_least(self) -> tuple[FloatArray, IntArray]:
        """(sum of K, C) what each option adds beyond the least of its site, and the site that it belongs to."""
        above = np.concatenate([table - table.min(axis=0) for table in self.tables])
        return above, np.repeat(np.arange(len(self.tables)), [len(table) for table in self.tables])

    def _solve(self, within: Collection[int], aim: FloatArray | None = None) -> Any:
        """The assignment, one-hot (sum of K,), that meets the bounds ``within`` and has the least of ``aim``."""
        costs, site_of = self._above_least()
        slack = self.bounds - self.left()[0]
        # An option that exceeds a bound on its own is out; what is left is scaled to the bound, for the solver's
        # tolerance.
        allowed = np.ones(len(costs))
        for c in within:
            allowed *= costs[:, c] <= slack[c]
        one_each = site_of == np.arange(len(self.tables))[:, None]
        shares = [allowed * costs[:, c] / (slack[c] or 1.0) for c in within]
        rules = [optimize.LinearConstraint(one_each, 1, 1)]  # type: ignore[attr-defined, no-untyped-call]
        rules += [optimize.LinearConstraint(share, ub=1.0) for share in shares]  # type: ignore[attr-defined, no-untyped-call]
        return optimize.milp(  # type: ignore[attr-defined, no-untyped-call]
            np.zeros(len(costs)) if aim is None else aim / (np.ptp(aim) or 1.0),
            integrality=np.ones(len(costs)),
            bounds=(0, allowed),
            constraints=rules,
            options={"node_limit": NODES, "mip_rel_gap": 0.0},
        )
