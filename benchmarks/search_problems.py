"""Standard problems with a published maximum hypervolume, cut into grids of options.

    python benchmarks/search_problems.py [--problems ZDT1,BraninCurrin] [--methods auto,random] [--first-seed 60]

BraninCurrin, ZDT1 to ZDT3 and VehicleSafety as in BoTorch, with its reference points. Each variable becomes a
site whose options are evenly spaced values. The searches treat the options as categories: none is told that
they are ordered, which these problems are and operators of a network are not. Option 0 is the lower end of a
variable. For ZDT, whose front lies where all variables but the first are 0, every site's options are shuffled,
or "the teacher's option everywhere else" would be the answer. Shares are of the hypervolume of the grid's true
front, by enumeration; what the grid itself reaches of the published maximum stands beside it. Printed is the
mean and worst after 50 evaluations and at the end, then one line of JSON. ``auto`` was developed on seeds 100
to 107, on these problems: the default seeds, 60 to 64, differ in the design that the search starts from.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from botorch.test_functions.multi_objective import ZDT1, ZDT2, ZDT3, BraninCurrin, VehicleSafety
from machine import machine

from netgraft.search import METHODS, hypervolume, minimize, non_dominated

PROBLEMS = {
    "BraninCurrin": (BraninCurrin(), (40, 40)),
    "ZDT1": (ZDT1(dim=5), (21, 6, 6, 6, 6)),
    "ZDT2": (ZDT2(dim=5), (21, 6, 6, 6, 6)),
    "ZDT3": (ZDT3(dim=5), (21, 6, 6, 6, 6)),
    "VehicleSafety": (VehicleSafety(), (8, 8, 8, 8, 8)),
}
"""BoTorch's problem, to be minimized, and the options of each of its variables."""
MIDDLE = 50


class Grid:
    """A problem on its grid."""

    def __init__(self, name: str) -> None:
        self.problem, self.sizes = PROBLEMS[name]
        rng = np.random.default_rng(2026)
        low, high = self.problem.bounds.double().numpy()
        self.values = [np.linspace(a, b, k) for a, b, k in zip(low, high, self.sizes, strict=True)]
        if name.startswith("ZDT"):
            self.values = [rng.permutation(values) for values in self.values]
        self.reference = np.asarray(self.problem.ref_point, dtype=np.float64)

    def evaluate(self, rows: np.ndarray) -> np.ndarray:
        """(n, S) -> (n, M)."""
        x = np.column_stack([values[rows[:, site]] for site, values in enumerate(self.values)])
        costs: np.ndarray = self.problem(torch.from_numpy(x)).double().numpy()
        return costs

    def truth(self) -> tuple[int, float]:
        """Members and hypervolume of the front of the whole grid."""
        rows = np.stack(np.unravel_index(np.arange(np.prod(self.sizes)), self.sizes), axis=1)
        costs = self.evaluate(rows)
        front = costs[non_dominated(costs)]
        return len(front), hypervolume(front, self.reference)


def searches(name: str, methods: list[str], seeds: range, budget: int) -> Iterator[dict[str, Any]]:
    """One record a method and seed."""
    grid = Grid(name)
    members, best = grid.truth()
    published = float(grid.problem.max_hv)
    for method in methods:
        for seed in seeds:
            began = time.process_time()
            result = minimize(
                grid.evaluate,
                grid.sizes,
                budget=budget,
                method=method,
                reference_point=grid.reference,
                seed=seed,
                tolerance=0.0,
            )
            shares = result.hypervolume / best
            yield {
                "problem": name,
                "method": method,
                "seed": seed,
                "at": {str(n): round(float(shares[n - 1]), 5) for n in (min(MIDDLE, budget), budget)},
                "of_published_max": round(float(result.hypervolume[-1]) / published, 5),
                "grid_of_published_max": round(best / published, 5),
                "front": members,
                "regime": result.regime,
                "cpu_seconds": round(time.process_time() - began, 2),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=60)
    parser.add_argument("--budget", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    records: list[dict[str, Any]] = []
    end, middle = str(arguments.budget), str(min(MIDDLE, arguments.budget))
    print(f"{'problem':<15}{'method':<10}{'at ' + middle:>8}{'worst':>8}{'at ' + end:>8}{'worst':>8}{'CPU s':>8}")
    for name in arguments.problems.split(","):
        mine = list(searches(name, arguments.methods.split(","), seeds, arguments.budget))
        records += mine
        for method in arguments.methods.split(","):
            runs = [record for record in mine if record["method"] == method]
            columns = [np.array([record["at"][n] for record in runs]) for n in (middle, end)]
            cells = "".join(f"{shares.mean():>8.3f}{shares.min():>8.3f}" for shares in columns)
            print(f"{name:<15}{method:<10}{cells}{np.mean([r['cpu_seconds'] for r in runs]):>8.1f}", flush=True)
        grid = mine[0]
        print(
            f"{'':<15}the grid's front has {grid['front']} points, {grid['grid_of_published_max']:.3f} of the maximum"
        )
    print(json.dumps({"budget": arguments.budget, "machine": machine("botorch", "pymoo"), "runs": records}))


if __name__ == "__main__":
    main()
