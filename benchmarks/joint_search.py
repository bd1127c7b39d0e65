"""One search for several devices: the slowest's latency as the objective, or each one's.

    python benchmarks/joint_search.py [--seeds 5]

Losses are those of ``search_table.py``: every assignment of five operators to four blocks of the embedded teacher.
Latencies are what the blocks took on real devices (``latency_transfer.json``, at 256x256), an NPU's its compiler's
estimate; where that refuses a dropped block, it takes nothing. Printed is, after 25, 50 and 100 evaluations, the
hypervolume of the front over that of the table's true one: on each device, and jointly (loss against the largest of the
latencies, each as a share of the teacher's on the same device); means over the seeds, then one line of JSON.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = []
    for devices in GROUPS:
        print(", ".join(devices))
        for joint in ("slowest", "each"):
            mine = [run(devices, joint, seed) for seed in range(arguments.seeds)]
            records += mine
            for n in CHECKPOINTS:
                mean = np.mean([record["at"][str(n)] for record in mine], axis=0)
                own = ", ".join(f"{share:.4f}" for share in mean[:-1])
                seconds = np.mean([record["cpu_s"] for record in mine])
                print(
                    f"  {joint:<8} at {n:>3}: each device {own}; jointly {mean[-1]:.4f}  ({seconds:.0f} s)", flush=True
                )
    print(json.dumps({"machine": machine("botorch"), "runs": records}))


if __name__ == "__main__":
    main()
