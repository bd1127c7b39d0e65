"""Method "auto": an additive Gaussian process, its exact front, and expected hypervolume improvement.

A Latin design shows every option of every site about equally often; where the caller has a guess of all costs, its
exact front is the design, and the GPs start from which sites it says to matter. From then on each proposal is the
assignment with the largest expected hypervolume improvement (EHVI) in a pool that is grown toward it: the
exact front of the learned additive model, crossovers and mutations of the best, and finally a local search
over single swaps. With no interactions the pool's exact front decides, with strong ones the pair kernel does.
When promised improvements fail to come one after the other, the GPs are believed less and less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netgraft.search.additive import exact_front, guessed, spread_order, with_known
from netgraft.search.gp import Gps
from netgraft.search.improvement import Boxes, boxes_below, expected_improvement
from netgraft.search.objective import Ledger
from netgraft.search.space import FloatArray, IntArray, distinct

FIT_STEPS = 40
"""L-BFGS steps of a fit, at most."""
FRONT_LIMIT = 200
"""Points of a partial additive front that are kept in each proposal."""
PARENTS = 60
"""Pool members that have offspring in a generation."""
OFFSPRING = 300
"""New pool members a generation."""
GENERATIONS = 6
"""Generations a proposal."""
CLIMBS = 3
"""Best pool members from which a local search starts."""
NEIGHBORS = 1500
"""Single swaps that a step of the local search looks at, at most: bounds the time for many sites."""
CLIMB_STEPS = 4
"""Steps of a local search at most."""
REDRAWS = 20
"""Latin designs that are drawn where known limits forbid some rows of the first."""
SMALL = 3000
"""Spaces of at most this size are judged whole in each proposal."""
NOISE_SHARE = 0.01
"""Noise above this share of an objective's range is smoothed away before improvements are computed."""
PATIENCE = 5
"""Proposals in a row without a notable expected gain after which the search stops."""
TRUST = 5
"""Proposals in a row that may bring nothing before the GPs are doubted."""
ROUNDING = 1e-9
"""A gain of at most this share of the hypervolume is none: equal costs may differ by rounding."""
DOUBT = 0.2
"""What each further one adds to the factor by which the GPs' standard deviations are widened."""
MOST_DOUBT = 3.0
"""The largest factor."""


@dataclass(slots=True)
class _Pool:
    """Distinct unseen assignments and what they promise."""

    rows: IntArray
    """(p, S)."""
    gain: FloatArray
    """(p,) EHVI; negative where nothing is to be gained because limits are exceeded: by how much."""

    def best(self, n: int) -> IntArray:
        """(at most n, S): the members with the largest gain, in order."""
        return self.rows[np.argsort(-self.gain, kind="stable")[:n]]


@dataclass(frozen=True, slots=True)
class _Judge:
    """What an assignment promises: its EHVI under the GPs."""

    gps: Gps
    ledger: Ledger
    boxes: Boxes
    widening: float
    """Factor on the GPs' standard deviations."""

    def predict(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation (p, M) of rows (p, S), known objectives exact."""
        mean, sd = self.gps.predict(rows)
        for index, objective in self.ledger.known.items():
            mean[:, index] = objective(rows)
        return mean, self.widening * sd

    def extend(self, pool: _Pool | None, rows: IntArray) -> _Pool:
        """The pool with those of ``rows`` that are new."""
        if pool is not None:
            rows = distinct(np.concatenate([pool.rows, rows]))[len(pool.rows) :]
        rows = self.ledger.unseen(rows)
        gain = self._gain(rows) if len(rows) else np.zeros(0)
        if pool is None:
            return _Pool(rows, gain)
        return _Pool(np.concatenate([pool.rows, rows]), np.concatenate([pool.gain, gain]))

    def _gain(self, rows: IntArray) -> FloatArray:
        """EHVI of rows (p, S); where a limit leaves none, minus the predicted excess."""
        mean, sd = self.predict(rows)
        gain = expected_improvement(mean, sd, self.boxes)
        excess = np.maximum(self.ledger.violations(rows, mean), 0.0).sum(axis=1)
        return np.where((gain > 0) & self.ledger.constraints.allowed(rows), gain, -excess)


def search_auto(ledger: Ledger, rng: np.random.Generator, tolerance: float) -> bool:
    """Run on ``ledger``; returns whether it stopped because no gain was expected any more.

    It stops when the EHVI of ``PATIENCE`` proposals in a row is below ``tolerance`` times the hypervolume.
    """
    space = ledger.space
    ledger.ask(space.teacher())
    objectives = ledger.costs.shape[1]
    ledger.ask(_design(ledger, rng))
    gps = Gps(space, [m for m in range(objectives) if m not in ledger.known], objectives, ledger.guess)
    idle = vain = 0
    while ledger.remaining:
        gps.fit(ledger.assignments, ledger.costs, FIT_STEPS)
        widening = min(1.0 + DOUBT * max(0, vain - TRUST), MOST_DOUBT)
        proposal, gain = propose(ledger, gps, rng, widening)
        before = ledger.volume()
        idle = idle + 1 if gain < tolerance * before else 0
        if idle >= PATIENCE:
            return True
        ledger.ask(proposal)
        vain = 0 if ledger.volume() > before * (1 + ROUNDING) else vain + 1
    return False


def _design(ledger: Ledger, rng: np.random.Generator) -> IntArray:
    """The design behind the teacher: what is expected to be the front, spread over it, then Latin rows.

    Where no front is expected and a site has more options than the design has rows, Latin rows would not show any of
    them twice, and what they cost could be the work of any site: one swap at each site comes first.
    """
    wanted = ledger.design_size - 1
    model = guessed(ledger)
    rows = ledger.space.teacher()
    if model is not None:
        rows = exact_front(model, FRONT_LIMIT, ledger.constraints.sums_aside)
        costs = model.predict(rows)
        rows = rows[spread_order(costs, ledger.costs, ledger.reference(costs), wanted)]
    elif max(ledger.space.cardinalities) > wanted:
        rows = ledger.space.swap_each(rng)[:wanted]
    return np.concatenate([rows, _latin(ledger, rng, wanted - len(ledger.unseen(rows)))])


def _latin(ledger: Ledger, rng: np.random.Generator, n: int) -> IntArray:
    """(n, S): Latin rows; for those that known limits forbid others stand in, as far as some are found."""
    rows = ledger.space.latin(rng, n)
    allowed = ledger.constraints.allowed(rows)
    if allowed.all():
        return rows
    others = np.concatenate([ledger.space.latin(rng, n) for _ in range(REDRAWS)])
    others = others[ledger.constraints.allowed(others)]
    return np.concatenate([rows[allowed], others, rows[~allowed]])[:n]


def propose(ledger: Ledger, gps: Gps, rng: np.random.Generator, widening: float) -> tuple[IntArray, float]:
    """The next assignment (1, S) and its EHVI, with the GPs' standard deviations times ``widening``."""
    space = ledger.space
    # What a known limit forbids must not take room from what it allows.
    allowed = ledger.constraints.allowed(ledger.assignments)
    judge = _Judge(gps, ledger, boxes_below(_believed(ledger, gps)[allowed], ledger.reference()), widening)
    pool = judge.extend(None, space.everything()) if space.size <= SMALL else _grow(judge, rng)
    top = float(pool.gain.max())
    best = np.flatnonzero(pool.gain == top)
    if top <= 0 and len(best) > 1:
        # Nothing within the limits promises a gain: learn where the GPs know least.
        best = best[[np.argmax(judge.predict(pool.rows[best])[1].sum(axis=1))]]
    return pool.rows[best[:1]], max(top, 0.0)


def _believed(ledger: Ledger, gps: Gps) -> FloatArray:
    """(n, M) costs of the evaluations without their noise, as far as the GPs can tell."""
    mean, _ = gps.predict(ledger.assignments)
    costs = ledger.costs.copy()
    for m, noise_sd in gps.noise_sd().items():
        if noise_sd > NOISE_SHARE * np.ptp(costs[:, m]):
            costs[:, m] = mean[:, m]
    return costs


def _grow(judge: _Judge, rng: np.random.Generator) -> _Pool:
    """A pool grown toward high EHVI: generations of offspring, then a local search from the best."""
    ledger = judge.ledger
    front = ledger.assignments[ledger.front()]
    additive = exact_front(with_known(judge.gps.additive(), ledger), FRONT_LIMIT, ledger.constraints.sums_aside)
    pool = judge.extend(None, np.concatenate([additive, ledger.space.random(rng, OFFSPRING)]))
    while not len(pool.rows):
        pool = judge.extend(None, ledger.space.random(rng, OFFSPRING))
    for _ in range(GENERATIONS):
        some = additive[rng.permutation(len(additive))[:PARENTS]]
        parents = np.concatenate([front, pool.best(PARENTS), some])
        pool = judge.extend(pool, _offspring(ledger, rng, parents))
    for _ in range(CLIMB_STEPS):
        before = float(pool.gain.max())
        near = ledger.space.neighbors(pool.best(CLIMBS))
        pool = judge.extend(pool, near[rng.permutation(len(near))[:NEIGHBORS]])
        if pool.gain.max() <= before:
            break
    return pool


def _offspring(ledger: Ledger, rng: np.random.Generator, parents: IntArray) -> IntArray:
    """(OFFSPRING, S): uniform crossovers of random pairs of ``parents``, about one site then changed."""
    space = ledger.space
    mothers, fathers = parents[rng.integers(len(parents), size=(2, OFFSPRING))]
    children = np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)
    mutate = rng.random(children.shape) < 1.0 / space.sites
    return np.where(mutate, space.random(rng, OFFSPRING), children)
