"""One search for several devices: the slowest's latency as the objective, or each one's.

    python benchmarks/joint_search.py [--seeds 5]
    python benchmarks/joint_search.py --large [--seeds 3]

Losses are those of ``search_table.py``: every assignment of five operators to four blocks of the embedded teacher.
Latencies are what the blocks took on real devices (``latency_transfer.json``, at 256x256), an NPU's its compiler's
estimate; where that refuses a dropped block, it takes nothing. Printed is, after 25, 50 and 100 evaluations, the
hypervolume of the front over that of the table's true one: on each device, and jointly (loss against the largest of the
latencies, each as a share of the teacher's on the same device); means over the seeds, then one line of JSON.

``--large``: all 36 blocks of the embedded teacher with six operators and the same latencies, which add up; losses are
made up (sums over sites, with interactions of neighbors), and foreseen with an error, as in a run. Of such a space no
true front is known: printed are the hypervolumes themselves, after 50, 100 and 150 evaluations, latencies as shares of
the teacher's, below the teacher and a loss of 1.8 dB.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from netgraft.search import hypervolume, minimize

RESULTS = Path(__file__).parent / "results"
SHAPES = {
    "encoders.0.0": "block:16@1",
    "encoders.1.0": "block:32@2",
    "decoders.2.0": "block:32@2",
    "decoders.3.0": "block:16@1",
}
GROUPS = (
    ("onnxruntime", "openvino"),
    ("onnxruntime", "ethos-u:u85-2048"),
    ("onnxruntime", "openvino:int8", "ethos-u:u85-2048"),
)
CHECKPOINTS = (25, 50, 100)
LARGE = ("block:16@1", "block:32@2", "block:64@4", *28 * ("block:128@8",))
LARGE += ("block:256@16", "block:128@8", "block:64@4", "block:32@2", "block:16@1")
LARGE_OPERATORS = ("keep", "naf_static", "conv3_res", "inverted_residual", "half_res", "drop")
LARGE_CHECKPOINTS = (50, 100, 150)
WORST = (1.8, 1.0)
"""The reference point of the large space: loss in dB, share of the teacher's latency."""


def load(devices: tuple[str, ...]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """(S,) cardinalities; (625,) losses in dB and (625, D) latencies in ms, both in lexicographic order."""
    table = json.loads((RESULTS / "search_table_data.json").read_text())
    measured = json.loads((RESULTS / "latency_transfer.json").read_text())["tables"]
    sizes = [len(table["operators"])] * len(table["sites"])
    rows = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    latency = []
    for device in devices:
        entries = measured[device]["entries"]
        # An NPU's compiler refuses a network of nothing, which the table says as null.
        blocks = np.array(
            [[entries[SHAPES[site]].get(name) or 0.0 for name in table["operators"]] for site in table["sites"]]
        )
        rest = measured[device]["teacher_ms"] - blocks[:, 0].sum()
        latency.append(rest + blocks[np.arange(len(sizes)), rows].sum(axis=1))
    return sizes, np.array(table["loss_db"]), np.stack(latency, axis=1)


def shares(loss: np.ndarray, latency: np.ndarray, picked: np.ndarray) -> list[float]:
    """The hypervolume of picked rows over that of all: on each device, and jointly."""
    found = []
    for column in (*latency.T, (latency / latency[0]).max(axis=1)):
        costs = np.column_stack([loss, column])
        reference = costs.max(axis=0)
        found.append(round(hypervolume(costs[picked], reference) / hypervolume(costs, reference), 5))
    return found


def run(devices: tuple[str, ...], joint: str, seed: int) -> dict[str, Any]:
    """One search."""
    sizes, loss, latency = load(devices)
    slowest = (latency / latency[0]).max(axis=1)
    objectives = slowest[:, None] if joint == "slowest" else latency
    costs = np.column_stack([loss, objectives])

    def known(column: int) -> Any:
        return lambda rows: objectives[np.ravel_multi_index(tuple(rows.T), sizes), column]

    began = time.process_time()
    result = minimize(
        lambda rows: costs[np.ravel_multi_index(tuple(rows.T), sizes)],
        sizes,
        budget=CHECKPOINTS[-1],
        known={1 + column: known(column) for column in range(objectives.shape[1])},
        reference_point=costs.max(axis=0),
        seed=seed,
        tolerance=0.0,
    )
    picked = np.ravel_multi_index(tuple(result.assignments.T), sizes)
    at = {str(n): shares(loss, latency, picked[:n]) for n in CHECKPOINTS}
    return {"devices": devices, "joint": joint, "seed": seed, "at": at, "cpu_s": round(time.process_time() - began, 1)}


def made_up_losses(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(S, K) what each operator of the large space costs alone, in dB, and (S - 1, K, K) what neighbors add to that."""
    shape = (len(LARGE), len(LARGE_OPERATORS))
    weight = rng.gamma(1.0, 1.0, shape[0]) * np.array([0.15 if site == "block:128@8" else 0.5 for site in LARGE])
    loss = weight[:, None] * np.array([0, 0.05, 0.5, 0.6, 0.5, 1.0]) * rng.lognormal(0, 0.4, shape)
    pairs = rng.standard_normal((shape[0] - 1, shape[1], shape[1]))
    return loss, 0.25 * pairs * np.sqrt(loss[:-1, :, None] * loss[1:, None, :])


def run_large(devices: tuple[str, ...], joint: str, seed: int) -> dict[str, Any]:
    """One search of the large space."""
    rng = np.random.default_rng(seed)
    loss, pairs = made_up_losses(rng)
    sites = np.arange(len(LARGE))
    measured = json.loads((RESULTS / "latency_transfer.json").read_text())["tables"]
    tables = []
    for device in devices:
        entries = measured[device]["entries"]
        blocks = np.array([[entries[site].get(name) or 0.0 for name in LARGE_OPERATORS] for site in LARGE])
        tables.append(blocks + (measured[device]["teacher_ms"] - blocks[:, 0].sum()) / len(LARGE))
    teacher = np.array([table[:, 0].sum() for table in tables])

    def losses(rows: np.ndarray) -> np.ndarray:
        near = sum(pair[rows[:, site], rows[:, site + 1]] for site, pair in enumerate(pairs))
        return np.minimum(loss[sites, rows].sum(axis=1) + near, 2 * WORST[0])

    def shares_of(rows: np.ndarray) -> np.ndarray:
        return np.stack([table[sites, rows].sum(axis=1) for table in tables], axis=1) / teacher

    slowest = {1: lambda rows: shares_of(rows).max(axis=1)}
    known: dict[int, Any] = slowest if joint == "slowest" else dict(enumerate(tables, start=1))
    began = time.process_time()
    result = minimize(
        lambda rows: np.column_stack([losses(rows), *(np.full(len(rows), np.nan) for _ in known)]),
        [len(LARGE_OPERATORS)] * len(LARGE),
        budget=LARGE_CHECKPOINTS[-1],
        known=known,
        guess={0: [row * rng.lognormal(0, 0.3, len(row)) for row in loss]},
        reference_point=(WORST[0], *((1.0,) if joint == "slowest" else teacher)),
        seed=seed,
    )
    lost, latency = losses(result.assignments), shares_of(result.assignments)
    columns = (*latency.T, latency.max(axis=1))
    at = {
        str(n): [round(hypervolume(np.column_stack([lost[:n], column[:n]]), np.array(WORST)), 5) for column in columns]
        for n in LARGE_CHECKPOINTS
    }
    return {"devices": devices, "joint": joint, "seed": seed, "at": at, "cpu_s": round(time.process_time() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", action="store_true", help="a space of a run's size, with losses that are made up")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    search, checkpoints = (run_large, LARGE_CHECKPOINTS) if arguments.large else (run, CHECKPOINTS)
    records = []
    for devices in GROUPS[:2] if arguments.large else GROUPS:
        print(", ".join(devices))
        for joint in ("slowest", "each"):
            mine = [search(devices, joint, seed) for seed in range(arguments.seeds)]
            records += mine
            for n in checkpoints:
                mean = np.mean([record["at"][str(n)] for record in mine], axis=0)
                own = ", ".join(f"{share:.4f}" for share in mean[:-1])
                seconds = np.mean([record["cpu_s"] for record in mine])
                print(
                    f"  {joint:<8} at {n:>3}: each device {own}; jointly {mean[-1]:.4f}  ({seconds:.0f} s)", flush=True
                )
    print(json.dumps({"machine": machine("botorch"), "runs": records}))


if __name__ == "__main__":
    main()
