"""The latency of whole networks: the sum of their blocks, corrected by what a few measured networks teach.

A block that is timed alone pays for its borders (a runtime reorders the memory of its input and output) and finds its
weights in the cache; inside a network it does neither, and what it pays depends on its neighbors. So a prediction is

    sum of the blocks + offset + scale * (what the sum saves against the teacher)
        + for each changed site: operator's share of its own latency + operator's ms per million values of its map
        + for each two neighbors in 8 bits: ms per million values between them, which need not be converted there
        + for each changed pair of neighbors: the pair's ms per million values between them.

All of these corrections start at zero and are held there by a ridge penalty, in units in which each is a share of the
teacher's latency, so that a few networks teach little rather than nonsense. Leave-one-out errors choose the strength
of the penalty, and whether pairs are worth having: without them a prediction stays a sum over sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from netgraft.errors import DeviceError, StoreError
from netgraft.latency import LatencyTable
from netgraft.operators import in_int8
from netgraft.sites import KEEP, Site

FloatArray = NDArray[np.float64]
Assignment = Mapping[str, str]
Term = tuple[str, ...]
"""What a correction belongs to: ``("offset",)``, ``("scale",)``, ``("share", operator)``, ``("map", operator)``,
``("joined",)`` or ``("pair", operator, next operator)``."""

PENALTIES = (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Strengths of the ridge that are tried, in units of (relative noise / expected size of a correction) squared."""
WORTH = 0.9
"""A richer model must bring the leave-one-out error below this share of the simpler one's."""
RICHER = (
    ("offset", "scale"),
    ("offset", "scale", "joined"),
    ("offset", "scale", "joined", "share", "map"),
    ("offset", "scale", "joined", "share", "map", "pair"),
)
"""The kinds of terms of the models that are tried, as far as the networks have any."""
CHAINED = ("joined", "pair")
"""Kinds of terms with which a prediction is no sum over sites any more."""
EXACT = 1e-4
"""Sums whose relative error is below this are left as they are."""
FEWEST = 3
"""Networks without which nothing is learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Predicts the latency of any assignment; without corrections it is the table's plain sum."""

    table: LatencyTable
    """What the blocks cost alone."""
    sites: tuple[Site, ...]
    """Every site of the network, in data-flow order."""
    corrections: Mapping[Term, float] = field(default_factory=dict)
    """Their sizes: ms for the offset, shares for scale and share, ms per million values for map, joined and pair."""
    networks: int = 0
    """How many measured networks they were learned from."""

    @property
    def additive(self) -> bool:
        """Whether a prediction is a sum over sites."""
        return not any(term[0] in CHAINED for term in self.corrections)

    def predict_ms(self, assignments: Sequence[Assignment]) -> FloatArray:
        """Latencies, (n,), of networks with these operators by site path; other sites keep their block."""
        return np.array([self._predict_one(assignment) for assignment in assignments], dtype=np.float64)

    def _predict_one(self, assignment: Assignment) -> float:
        plain_ms = self.table.additive_ms(assignment)
        if not self.corrections or not np.isfinite(plain_ms):
            return plain_ms
        found = features(self.table, self.sites, assignment)
        return plain_ms + sum(self.corrections.get(term, 0.0) * value for term, value in found.items())

    def option_ms(self, options: Mapping[str, Sequence[str]]) -> list[list[float]]:
        """For each of these sites the cost of each of its options: they add up to the prediction.

        options: operators by site path; the sites that are not named keep their block. What does not change is
        spread over the sites.

        Raises:
            DeviceError: the prediction is no sum over sites.
        """
        if not self.additive:
            raise DeviceError("this latency model knows neighbors: its predictions are no sums over sites; call it")
        teacher_ms = self._predict_one({})
        return [
            [self._predict_one({path: name}) - teacher_ms + teacher_ms / len(options) for name in names]
            for path, names in options.items()
        ]

    def known(self, options: Mapping[str, Sequence[str]]) -> list[list[float]] | ChainLatency:
        """The latency as an objective that a search need not evaluate: a sum over sites where it is one.

        options: operators by path of the sites that are searched.
        """
        if self.additive:
            return self.option_ms(options)
        teacher_ms = self._predict_one({})
        singles = (
            np.array([self._predict_one({path: name}) for name in names]) - teacher_ms
            for path, names in options.items()
        )
        return ChainLatency(teacher_ms, tuple(singles), self._pair_changes(options))

    def _pair_changes(self, options: Mapping[str, Sequence[str]]) -> dict[int, FloatArray]:
        """What two neighbors that are both searched cost beyond the sum of their single changes, (K, K), by the
        column of the first."""
        order = {site.path: place for place, site in enumerate(self.sites)}
        paths, teacher_ms, found = list(options), self._predict_one({}), {}
        for column, (first, second) in enumerate(pairwise(paths)):
            if order[second] != order[first] + 1:
                continue
            both = [[self._predict_one({first: a, second: b}) for b in options[second]] for a in options[first]]
            one = np.array([self._predict_one({first: a}) for a in options[first]])
            other = np.array([self._predict_one({second: b}) for b in options[second]])
            found[column] = np.array(both) - one[:, None] - other[None, :] + teacher_ms
        return found

    def as_dict(self) -> dict[str, Any]:
        """What was learned, as plain data: the table is a document of its own."""
        rows = [{"term": list(term), "size": size} for term, size in self.corrections.items()]
        return {"networks": self.networks, "corrections": rows}

    @classmethod
    def from_dict(cls, learned: Mapping[str, Any], table: LatencyTable, sites: Sequence[Site]) -> LatencyModel:
        """A model from what :meth:`as_dict` gave.

        Raises:
            StoreError: these are no corrections.
        """
        try:
            corrections = {tuple(map(str, row["term"])): float(row["size"]) for row in learned["corrections"]}
            return cls(table=table, sites=tuple(sites), corrections=corrections, networks=int(learned["networks"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"these are no latency corrections ({type(error).__name__}: {error})") from error


@dataclass(frozen=True, slots=True)
class ChainLatency:
    """A latency that is a sum over sites and over pairs of consecutive ones."""

    teacher_ms: float
    singles: tuple[FloatArray, ...]
    """S arrays (K_s,): what each option of a site adds to the teacher's."""
    pairs: Mapping[int, FloatArray]
    """(K_s, K_s+1) by site: what it and the next one add together beyond that."""

    def __call__(self, rows: NDArray[np.integer[Any]]) -> FloatArray:
        """Latencies in ms, (n,), of option indices (n, S)."""
        total = np.full(len(rows), self.teacher_ms)
        for site, costs in enumerate(self.singles):
            total += costs[rows[:, site]]
        for site, costs in self.pairs.items():
            total += costs[rows[:, site], rows[:, site + 1]]
        return total

    def least(self) -> float:
        """The least latency in ms of all assignments, by dynamic programming along the sites."""
        best = self.singles[0]
        for site, costs in enumerate(self.singles[1:]):
            best = (best[:, None] + self.pairs.get(site, 0.0)).min(axis=0) + costs
        return float(self.teacher_ms + best.min())


def features(table: LatencyTable, sites: Sequence[Site], assignment: Assignment) -> dict[Term, float]:
    """What each correction is multiplied with; the teacher has nothing but the offset."""
    found: dict[Term, float] = {("offset",): 1.0}

    def add(term: Term, value: float) -> None:
        found[term] = found.get(term, 0.0) + value

    names = [assignment.get(site.path, KEEP) for site in sites]
    for site, name in zip(sites, names, strict=True):
        if name != KEEP:
            ms = table.operator_ms(site.path, name)
            add(("scale",), ms - table.operator_ms(site.path, KEEP))
            add(("share", name), ms)
            add(("map", name), _values(site, table.size))
    for (here, first), (there, second) in pairwise(zip(sites, names, strict=True)):
        if (first, second) != (KEEP, KEEP):
            add(("pair", _kind(here, first), _kind(there, second)), _values(there, table.size))
        if in_int8(first) and in_int8(second):
            add(("joined",), _values(there, table.size))
    return found


def fit(
    table: LatencyTable,
    sites: Sequence[Site],
    assignments: Sequence[Assignment],
    measured_ms: Sequence[float],
    *,
    pairs: Literal["auto", "never"] = "auto",
) -> LatencyModel:
    """Learn corrections from whole networks that were measured; from fewer than three nothing is learned.

    ``pairs``: whether terms for pairs of neighbors may be learned; ``auto`` where they pay.

    Raises:
        DeviceError: there are not as many measurements as assignments, or one of them is not positive.
    """
    measured = np.asarray(measured_ms, dtype=np.float64)
    if measured.shape != (len(assignments),) or not (measured > 0).all():
        raise DeviceError(f"{len(assignments)} networks need as many latencies above zero, not {measured.shape}")
    model = LatencyModel(table=table, sites=tuple(sites))
    if len(measured) < FEWEST:
        return model
    rows = [features(table, sites, assignment) for assignment in assignments]
    # Relative errors count, so that a fast network is worth as much as a slow one.
    target = 1 - model.predict_ms(assignments) / measured
    best, corrections = float(np.sqrt(np.mean(target**2))), {}
    # From the simplest to the richest: each must clearly beat the ones before it.
    for kinds in RICHER[: None if pairs == "auto" else -1]:
        terms = list(dict.fromkeys(term for row in rows for term in row if term[0] in kinds))
        units = np.array([_unit(term, table, sites) for term in terms])
        design = np.array([[row.get(term, 0.0) for term in terms] for row in rows]) * units / measured[:, None]
        errors = [_left_out_error(design, target, penalty) for penalty in PENALTIES]
        if best > EXACT and min(errors) < WORTH * best:
            best, penalty = min(errors), PENALTIES[int(np.argmin(errors))]
            sizes = units * _ridge(design, target, penalty)
            corrections = dict(zip(terms, sizes.tolist(), strict=True))
    return LatencyModel(table=table, sites=tuple(sites), corrections=corrections, networks=len(measured))


def left_out_ms(
    table: LatencyTable,
    sites: Sequence[Site],
    assignments: Sequence[Assignment],
    measured_ms: Sequence[float],
    *,
    folds: int | None = None,
    seed: int = 0,
) -> FloatArray:
    """Predictions of each network, (n,), by a model that was fitted without it.

    folds: networks are left out in so many groups, drawn at random; without, one by one.
    """
    count = len(assignments)
    group = np.random.default_rng(seed).permutation(count) % (folds or count)
    predicted = np.empty(count)
    for number in range(group.max(initial=-1) + 1):
        inside, outside = np.flatnonzero(group != number).tolist(), np.flatnonzero(group == number).tolist()
        model = fit(table, sites, [assignments[i] for i in inside], [measured_ms[i] for i in inside])
        predicted[outside] = model.predict_ms([assignments[i] for i in outside])
    return predicted


def _ridge(design: FloatArray, target: FloatArray, penalty: float) -> FloatArray:
    gram = design.T @ design + penalty * np.eye(design.shape[1])
    return np.asarray(np.linalg.solve(gram, design.T @ target))


def _left_out_error(design: FloatArray, target: FloatArray, penalty: float) -> float:
    """Root mean square error of each network's prediction by a fit to the others, in closed form."""
    gram = design.T @ design + penalty * np.eye(design.shape[1])
    hat = design @ np.linalg.solve(gram, design.T)
    return float(np.sqrt(np.mean(((target - hat @ target) / (1 - np.diag(hat))) ** 2)))


def _unit(term: Term, table: LatencyTable, sites: Sequence[Site]) -> float:
    """How large a correction of one is: shares as they are, the others as shares of what the teacher costs."""
    if term[0] in ("scale", "share"):
        return 1.0
    if term[0] == "offset":
        return table.teacher.median_ms
    return table.teacher.median_ms / sum(_values(site, table.size) for site in sites)


def _values(site: Site, size: tuple[int, int]) -> float:
    """Million values in a site's input."""
    return site.in_channels * (size[0] // site.stride) * (size[1] // site.stride) / 1e6


def _kind(site: Site, operator: str) -> str:
    """What a neighbor is: the teacher's blocks, downs and ups are three things."""
    return operator if site.kind == "block" else f"{site.kind} {operator}"
