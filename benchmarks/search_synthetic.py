"""Searches on synthetic spaces of 7^8 assignments whose fronts are known.

    python benchmarks/search_synthetic.py [--seeds 3] [--methods auto,random] [--budget 100]

Two costs are sums of random effects over 8 sites with 7 options, as a network's are: option 0 (the teacher's
block) is best in the first cost and worst in the second. On top come random interactions between the options
of consecutive sites, and in the strong case also of four far pairs of sites. The true front comes from
evaluating all 5,764,801 assignments; the reference point is the worst of each cost among them. Printed is
each method's hypervolume over the true one after 50 evaluations and after the whole budget, the mean over the
seeds and the worst, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass

import numpy as np
import torch

from netgraft.search import METHODS, hypervolume, minimize, non_dominated

SITES, OPTIONS = 8, 7
FAR_PAIRS = ((0, 4), (1, 6), (2, 7), (3, 5))
STRENGTHS = {"none": 0.0, "mild": 0.25, "strong": 0.6}
"""Standard deviation of all interactions together over that of the additive part."""


@dataclass(frozen=True)
class Problem:
    """Two costs over 7^8 assignments."""

    effects: np.ndarray
    """(S, K, 2)."""
    pairs: tuple[tuple[int, int], ...]
    """Sites that interact."""
    interactions: np.ndarray
    """(pairs, K, K, 2)."""

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """(n, S) -> (n, 2)."""
        total = self.effects[np.arange(SITES), rows].sum(axis=1)
        for (first, second), table in zip(self.pairs, self.interactions, strict=True):
            total = total + table[rows[:, first], rows[:, second]]
        return total


def make_problem(strength: str, seed: int) -> Problem:
    """A random instance."""
    rng = np.random.default_rng([seed, 2026])
    effects = rng.gamma(1.5, 1.0, (SITES, OPTIONS, 2)) * rng.uniform(0.3, 1.5, (SITES, 1, 2))
    effects[:, :, 1] = effects[:, :, 1].max(axis=1, keepdims=True) - effects[:, :, 1]
    effects[:, 0, 0] = 0.0
    effects[:, 0, 1] = effects[:, :, 1].max(axis=1) * 1.1
    near = tuple((site, site + 1) for site in range(SITES - 1))
    pairs = near + FAR_PAIRS if strength == "strong" else near
    tables = rng.standard_normal((len(pairs), OPTIONS, OPTIONS, 2))
    tables -= tables.mean(axis=1, keepdims=True)
    tables -= tables.mean(axis=2, keepdims=True)
    additive_sd = np.sqrt(effects.var(axis=1).sum(axis=0))
    pair_sd = np.sqrt(tables.var(axis=(1, 2)).sum(axis=0))
    return Problem(effects, pairs, tables * STRENGTHS[strength] * additive_sd / pair_sd)


def true_front(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """(k, 2) the front of all assignments and (2,) their worst costs, in slices by the first two sites."""
    rest = np.stack(np.unravel_index(np.arange(OPTIONS ** (SITES - 2)), (OPTIONS,) * (SITES - 2)), axis=1)
    front, worst = np.zeros((0, 2)), np.full(2, -np.inf)
    for head in np.ndindex(OPTIONS, OPTIONS):
        costs = problem.evaluate(np.column_stack([np.broadcast_to(head, (len(rest), 2)), rest]))
        worst = np.maximum(worst, costs.max(axis=0))
        front = np.concatenate([front, costs[non_dominated(costs)]])
        front = front[non_dominated(front)]
    return front, worst


def run(strength: str, seed: int, methods: list[str], budget: int) -> list[dict[str, object]]:
    """One record a method."""
    problem = make_problem(strength, seed)
    front, reference = true_front(problem)
    best = hypervolume(front, reference)
    records: list[dict[str, object]] = []
    for method in methods:
        began = time.perf_counter()
        result = minimize(
            problem.evaluate,
            [OPTIONS] * SITES,
            budget=budget,
            method=method,
            reference_point=reference,
            seed=seed,
            tolerance=0.0,
        )
        shares = result.hypervolume / best
        record = {"strength": strength, "seed": seed, "method": method, "front": len(front)}
        record |= {"at_50": float(shares[min(50, budget) - 1]), "at_end": float(shares[-1])}
        records.append(record | {"regime": result.regime, "seconds": time.perf_counter() - began})
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--strengths", default=",".join(STRENGTHS))
    parser.add_argument("--budget", type=int, default=100)
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    records = []
    end = f"at {arguments.budget}"
    print(f"{'interactions':<13}{'method':<10}{'at 50':>7}{'worst':>7}{end:>8}{'worst':>7}{'s':>7}")
    for strength in arguments.strengths.split(","):
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        new = [record for seed in seeds for record in run(strength, seed, methods, arguments.budget)]
        records += new
        for method in methods:
            mine = [record for record in new if record["method"] == method]
            early, late, seconds = (
                np.array([record[key] for record in mine], dtype=float) for key in ("at_50", "at_end", "seconds")
            )
            print(
                f"{strength:<13}{method:<10}{early.mean():>7.3f}{early.min():>7.3f}{late.mean():>8.3f}"
                f"{late.min():>7.3f}{seconds.mean():>7.1f}",
                flush=True,
            )
    machine = {"python": platform.python_version(), "torch": torch.__version__, "cpus": os.cpu_count()}
    print(json.dumps({"budget": arguments.budget, "machine": machine, "runs": records}))


if __name__ == "__main__":
    main()
