"""Searches on synthetic spaces of 7^8 assignments whose fronts are known.

    python benchmarks/search_synthetic.py [--methods auto,random] [--first-seed 60] [--records FILE]

Two costs are sums of random effects over 8 sites with 7 options, as a network's are: option 0 (the teacher's
block) is best in the first cost and worst in the second. On top come random interactions between the options
of consecutive sites, and in the strong case also of four far pairs of sites. The true front comes from
evaluating all 5,764,801 assignments; the reference point is the worst of each cost among them. Printed is
each method's hypervolume over the true one after 50 evaluations and after the whole budget, the mean over the
seeds and the worst, then one line of JSON. ``auto`` was developed on the problems of seeds 0 to 9 alone, and
seeds 50 to 54 judged an earlier version; the default seeds, 60 to 69, judge this one. With ``--records`` a
stopped run continues.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from netgraft.search import METHODS, hypervolume, minimize, non_dominated

SITES, OPTIONS = 8, 7
FAR_PAIRS = ((0, 4), (1, 6), (2, 7), (3, 5))
STRENGTHS = {"none": 0.0, "mild": 0.25, "strong": 0.6}
"""Standard deviation of all interactions together over that of the additive part."""
CHECKPOINTS = (25, 50, 75, 100)
"""Evaluations after which the hypervolume is recorded."""
KEY = ("strength", "seed", "method", "budget")
Record = dict[str, Any]
Records = dict[tuple[Any, ...], Record]


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


def run(problem: Problem, truth: tuple[np.ndarray, np.ndarray], method: str, budget: int, seed: int) -> Record:
    """One search: its shares of the true hypervolume, and its CPU time."""
    front, reference = truth
    began = time.process_time()
    result = minimize(
        problem.evaluate,
        [OPTIONS] * SITES,
        budget=budget,
        method=method,
        reference_point=reference,
        seed=seed,
        tolerance=0.0,
    )
    shares = result.hypervolume / hypervolume(front, reference)
    return {
        "at": {str(n): round(float(shares[n - 1]), 5) for n in sorted({*CHECKPOINTS, budget}) if n <= budget},
        "front": len(front),
        "regime": result.regime,
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def run_all(strength: str, seed: int, methods: list[str], budget: int, done: Records) -> Iterator[Record]:
    """One record a method, those in ``done`` included."""
    wanted = {(strength, seed, method, budget): method for method in methods}
    if set(wanted) - set(done):
        problem = make_problem(strength, seed)
        truth = true_front(problem)
    for key, method in wanted.items():
        name = dict(zip(KEY, key, strict=True))
        yield done[key] if key in done else name | run(problem, truth, method, budget, seed)


def earlier(path: Path | None) -> Records:
    """The records in a file of one JSON record a line."""
    if path is None or not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {tuple(record[name] for name in KEY): record for record in records}


def show(records: list[Record], budget: int) -> None:
    """The table: mean and worst of each method at each strength."""
    end = f"at {budget}"
    print(f"{'interactions':<13}{'method':<10}{'seeds':>6}{'at 50':>7}{'worst':>7}{end:>8}{'worst':>7}{'CPU s':>7}")
    for strength, method in dict.fromkeys((record["strength"], record["method"]) for record in records):
        mine = [r for r in records if (r["strength"], r["method"]) == (strength, method)]
        early, late = (np.array([r["at"][str(n)] for r in mine]) for n in (min(50, budget), budget))
        seconds = np.mean([r["cpu_seconds"] for r in mine])
        print(
            f"{strength:<13}{method:<10}{len(mine):>6}{early.mean():>7.3f}{early.min():>7.3f}{late.mean():>8.3f}"
            f"{late.min():>7.3f}{seconds:>7.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=60)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--strengths", default=",".join(STRENGTHS))
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--records", type=Path, help="file that keeps every finished search; it is not repeated")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    done = earlier(arguments.records)
    records: list[Record] = []
    for strength in arguments.strengths.split(","):
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for record in run_all(strength, seed, arguments.methods.split(","), arguments.budget, done):
                records.append(record)
                print(json.dumps(record), file=sys.stderr, flush=True)
                if arguments.records and record not in done.values():
                    with arguments.records.open("a") as file:
                        file.write(json.dumps(record) + "\n")
    show(records, arguments.budget)
    print(json.dumps({"budget": arguments.budget, "machine": machine("botorch", "pymoo"), "runs": records}))


if __name__ == "__main__":
    main()
