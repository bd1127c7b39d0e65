"""What the search itself costs: CPU seconds a proposal of ``auto``, against the number of sites.

    python benchmarks/search_overhead.py [--sites 8,36,72,144] [--options 10] [--budget 100]

The costs are random sums over the sites plus interactions of consecutive ones, and cost nothing to evaluate.
The second cost is either modelled like the first or declared as known, which is how a run of netgraft has it.
Timed are the last ten proposals of the budget, fit and pool together, as CPU time of one process with one
thread. Printed are their median and worst, and the exponent of the power law between sites and seconds (1 is
linear), then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from machine import machine

from netgraft.search import minimize

TIMED = 10
"""Proposals that are timed, the last of the budget."""


def proposal_seconds(sites: int, options: int, budget: int, known: bool, seed: int = 0) -> list[float]:
    """CPU seconds of each of the last proposals."""
    rng = np.random.default_rng(seed)
    effects = rng.gamma(1.5, 1.0, (sites, options, 2))
    effects[:, 0, 0] = 0.0
    effects[:, :, 1] = effects[:, :, 1].max(axis=1, keepdims=True) - effects[:, :, 1]
    pairs = 0.4 * rng.standard_normal((sites - 1, options, options))
    asked, answered = [], []

    def evaluate(rows: np.ndarray) -> np.ndarray:
        asked.append(time.process_time())
        costs = effects[np.arange(sites), rows].sum(axis=1)
        costs[:, 0] += pairs[np.arange(sites - 1), rows[:, :-1], rows[:, 1:]].sum(axis=1)
        answered.append(time.process_time())
        return costs

    table = {1: list(effects[:, :, 1])} if known else None
    minimize(evaluate, [options] * sites, budget=budget, known=table, tolerance=0.0, seed=seed)
    return (np.array(asked[-TIMED:]) - np.array(answered[-TIMED - 1 : -1])).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sites", default="8,36,72,144")
    parser.add_argument("--options", type=int, default=10)
    parser.add_argument("--budget", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [int(number) for number in arguments.sites.split(",")]
    records, exponents = [], {}
    print(f"{'second cost':<13}{'sites':>6}{'median s':>10}{'worst s':>9}")
    for known in (True, False):
        name, medians = "known" if known else "modelled", []
        for sites in sizes:
            seconds = proposal_seconds(sites, arguments.options, arguments.budget, known)
            medians.append(float(np.median(seconds)))
            record = {"second_cost": name, "sites": sites, "median_cpu_s": medians[-1], "worst_cpu_s": max(seconds)}
            records.append({key: round(x, 4) if isinstance(x, float) else x for key, x in record.items()})
            print(f"{name:<13}{sites:>6}{medians[-1]:>10.3f}{max(seconds):>9.3f}", flush=True)
        if len(sizes) > 1:
            exponents[name] = round(float(np.polyfit(np.log(sizes), np.log(medians), 1)[0]), 3)
            print(f"{name:<13}seconds grow as sites ** {exponents[name]:.2f}", flush=True)
    sizing = {"options": arguments.options, "budget": arguments.budget, "proposals_timed": TIMED}
    print(json.dumps(sizing | {"machine": machine("scipy"), "exponents": exponents, "runs": records}))


if __name__ == "__main__":
    main()
