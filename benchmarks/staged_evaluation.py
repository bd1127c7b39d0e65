"""Would judging assignments by a few validation crops first, and only the survivors by all, keep the front?

    python benchmarks/staged_evaluation.py --run runs/demo [--first 2] [--count 150]

RUN is a finished run folder; what its search evaluated is scored once more, crop by crop. Then, without any model:

- Kendall's tau between the loss on some of the crops and that on all, over every choice of so many crops;
- the noise of the front: the crops are drawn anew with replacement, all assignments on the same draw, a front is
  chosen by the drawn crops and judged by all of them; "regret" is the share of hypervolume that this loses;
- the scheme, replayed in the order of the search over every choice of first crops: an assignment stops after them if
  one that was evaluated in full is as fast and, on the same crops, better by more than a slack. Its regret, the
  members of the front that it loses, and the share of crop passes that it saves.

Assignments that diverge stop at their first crop in any case, and their passes are not counted. Prints tables and one
JSON line.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray
from prefix_cache import open_run, scores_of
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from netgraft.search import hypervolume, non_dominated
from netgraft.stages import Run
from netgraft.stages.judge import CAPPED_LOSSES, REFERENCE_LOSSES

Array = NDArray[np.float64]
SLACKS_DB = (0.0, 0.05, 0.1, 0.2, 0.4)
DRAWS = 2000


def crop_losses(run: Run, count: int) -> tuple[Array, NDArray[np.bool_]]:
    """(n, crops) dB lost on each crop by what the search evaluated, and (n,) whether it diverged."""
    scores = scores_of(run, run.config.search.cache_mib << 20)
    teacher = scores.crop_psnrs_db({})
    assert teacher is not None
    found = [scores.crop_psnrs_db(run.name_row(row)) for row in run.search.assignments[:count].tolist()]
    diverged = np.array([psnrs is None for psnrs in found])
    losses = [np.array(teacher) - (0.0 if psnrs is None else np.array(psnrs)) for psnrs in found]
    return np.array(losses), diverged


def front_of(losses: Array, latencies: Array) -> NDArray[np.int64]:
    """(k,) rows on the front of loss and latency."""
    return np.flatnonzero(non_dominated(np.column_stack([losses, latencies])))


class Judged:
    """What the search saw, and how much of its hypervolume a choice of rows keeps."""

    def __init__(self, losses: Array, latencies: Array, reference: Array, cap_db: float) -> None:
        self.crops, self.latencies, self.reference, self.cap_db = losses, latencies, reference, cap_db
        self.full = self.mean(range(losses.shape[1]))
        self.front = front_of(self.full, latencies)
        self.volume = self._volume(self.front)

    def mean(self, crops: Any) -> Array:
        """(n,) loss on these crops, capped as in the search."""
        return np.minimum(self.crops[:, list(crops)].mean(axis=1), self.cap_db)

    def regret(self, rows: NDArray[np.int64]) -> float:
        """Share of the hypervolume that is lost when only these rows, with their full losses, are known."""
        return 1 - self._volume(rows) / self.volume

    def _volume(self, rows: NDArray[np.int64]) -> float:
        return hypervolume(np.column_stack([self.full[rows], self.latencies[rows]]), self.reference)


def noise(judged: Judged, seed: int) -> dict[str, float]:
    """Of the front under draws of the crops."""
    rng, crops = np.random.default_rng(seed), judged.crops.shape[1]
    regrets, kept = [], []
    for _ in range(DRAWS):
        front = front_of(judged.mean(rng.integers(crops, size=crops)), judged.latencies)
        regrets.append(judged.regret(front))
        kept.append(np.isin(judged.front, front).mean())
    low, middle, high = np.quantile(regrets, [0.025, 0.5, 0.975])
    return {"regret_median": middle, "regret_low": low, "regret_high": high, "front_kept": float(np.mean(kept))}


def survivors(judged: Judged, first: Array, slack_db: float) -> NDArray[np.int64]:
    """Rows that the scheme evaluates in full; first: (n,) loss on the first crops."""
    full: list[int] = []
    for row in range(len(first)):
        faster = [other for other in full if judged.latencies[other] <= judged.latencies[row]]
        if not faster or first[row] <= first[faster].min() + slack_db:
            full.append(row)
    return np.array(full)


def scheme(judged: Judged, diverged: NDArray[np.bool_], size: int, slack_db: float) -> dict[str, Any]:
    """The scheme over every choice of ``size`` first crops."""
    crops, converged = judged.crops.shape[1], int((~diverged).sum())
    regrets, missed, saved = [], [], []
    for chosen in combinations(range(crops), size):
        kept = survivors(judged, judged.mean(chosen), slack_db)
        stopped = converged - int((~diverged[kept]).sum())
        regrets.append(judged.regret(kept))
        missed.append(int((~np.isin(judged.front, kept)).sum()))
        saved.append(stopped * (crops - size) / (converged * crops))
    return {
        "slack_db": slack_db,
        "regret_mean": float(np.mean(regrets)),
        "regret_worst": max(regrets),
        "front_missed_mean": float(np.mean(missed)),
        "front_missed_worst": max(missed),
        "passes_saved": float(np.mean(saved)),
    }


def taus(judged: Judged, diverged: NDArray[np.bool_], size: int) -> dict[str, float]:
    """Kendall's tau of the loss on ``size`` crops with that on all, over what did not diverge."""
    found = []
    for chosen in combinations(range(judged.crops.shape[1]), size):
        found.append(kendalltau(judged.mean(chosen)[~diverged], judged.full[~diverged]).statistic)
    return {"tau_mean": float(np.mean(found)), "tau_worst": float(min(found))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--first", type=int, default=2, help="crops of the first stage")
    parser.add_argument("--count", type=int, help="only the first so many evaluations")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = open_run(arguments.run)
    count = arguments.count or len(run.search.assignments)
    losses, diverged = crop_losses(run, count)
    cap_db = CAPPED_LOSSES * REFERENCE_LOSSES * run.config.search.max_loss_db
    judged = Judged(losses, run.search.costs[:count, 1], run.search.reference_point, cap_db)
    ranks = {size: taus(judged, diverged, size) for size in range(1, losses.shape[1])}
    console = Console(width=120)
    table = Table(title=f"{count} evaluations, {int(diverged.sum())} diverged, {losses.shape[1]} crops: Kendall's tau")
    for column in ("crops", "mean", "worst"):
        table.add_column(column, justify="right")
    for size, found in ranks.items():
        table.add_row(str(size), f"{found['tau_mean']:.3f}", f"{found['tau_worst']:.3f}")
    console.print(table)
    front_noise = noise(judged, arguments.seed)
    console.print(
        f"noise of the front, {len(judged.front)} members: regret {front_noise['regret_median']:.4f} "
        f"[{front_noise['regret_low']:.4f}, {front_noise['regret_high']:.4f}], "
        f"{front_noise['front_kept']:.0%} of the members kept"
    )
    schemes = [scheme(judged, diverged, arguments.first, slack_db) for slack_db in SLACKS_DB]
    table = Table(title=f"{arguments.first} crops first, all for the survivors")
    for column in ("slack dB", "regret", "worst", "front members lost", "worst", "crop passes saved"):
        table.add_column(column, justify="right")
    for found in schemes:
        row = (f"{found[name]:.4f}" for name in ("regret_mean", "regret_worst"))
        lost = f"{found['front_missed_mean']:.1f}", str(found["front_missed_worst"])
        table.add_row(f"{found['slack_db']:g}", *row, *lost, f"{found['passes_saved']:.0%}")
    console.print(table)
    record = {"evaluations": count, "diverged": int(diverged.sum()), "crops": losses.shape[1]}
    record |= {"front": len(judged.front), "tau": ranks, "noise": front_noise, "first": arguments.first}
    print(json.dumps(record | {"schemes": schemes, **machine()}))


if __name__ == "__main__":
    main()
