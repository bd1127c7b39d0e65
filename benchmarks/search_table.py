"""Searches of a real table: every assignment of five operators to four blocks of the embedded teacher.

    python benchmarks/search_table.py --build runs/demo     # evaluate all 625 once, from a finished demo run
    python benchmarks/search_table.py [--seeds 5] [--methods auto,random]

The first cost is the validation PSNR that the assembled, calibrated network loses against the teacher (dB, two
crops of 128x128, no training after the swap), at most as much as the search of a run counts; the second is
the sum of the blocks' latencies on the run's device (CPU time, ms). Neither is declared as known, so that all
methods play the same game; "auto, known" is "auto" with the latency declared, as a run has it. The reference
point is the worst of each cost in the table. Printed is the hypervolume over that of the table's true front
after 25, 50 and 100 evaluations, mean and worst over the seeds, then one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from netgraft.search import METHODS, hypervolume, minimize, non_dominated

TABLE = Path(__file__).parent / "results" / "search_table_data.json"
SITES = ("encoders.0.0", "encoders.1.0", "decoders.2.0", "decoders.3.0")
OPERATORS = ("keep", "naf_static", "conv3_res", "inverted_residual", "drop")
SIZE, CROPS = (128, 128), 2
CHECKPOINTS = (25, 50, 100)
KNOWN = "auto, known"


def build(folder: Path) -> dict[str, Any]:
    """The table, from the surrogates and latencies of the run in ``folder``."""
    from netgraft.assemble import assemble
    from netgraft.config import RunConfig
    from netgraft.data.images import crops_of
    from netgraft.devices import Latency
    from netgraft.evaluate import batch_psnr_db
    from netgraft.nets.blocks import deploy
    from netgraft.stages import Run
    from netgraft.stages.judge import CAPPED_LOSSES, REFERENCE_LOSSES
    from netgraft.store import RunStore

    run = Run(RunConfig.model_validate_json((folder / "config.json").read_text()), RunStore(folder))
    teacher, surrogates, latencies = run.teacher.module, run.surrogates.modules, run.bench.latency_table
    images = crops_of(run.config.data, "validation", count=CROPS, size=SIZE)
    calibration, _ = crops_of(run.config.data, "train", count=CROPS, size=SIZE, seed=1)
    most = CAPPED_LOSSES * REFERENCE_LOSSES * run.config.search.max_loss_db
    blocks_ms = [[latencies.entry(path, name) for name in OPERATORS] for path in SITES]
    if not all(isinstance(entry, Latency) for row in blocks_ms for entry in row):
        raise SystemExit(f"{folder}: its device does not run every operator of the table")
    began, teacher_db, losses = time.process_time(), batch_psnr_db(deploy(teacher), *images), []
    for number, names in enumerate(itertools.product(OPERATORS, repeat=len(SITES))):
        student = assemble(teacher, dict(zip(SITES, names, strict=True)), surrogates, calibration=calibration)
        losses.append(round(min(teacher_db - batch_psnr_db(deploy(student), *images), most), 4))
        if number % 25 == 0:
            print(f"{number} of {len(OPERATORS) ** len(SITES)}, {time.process_time() - began:.0f} CPU s", flush=True)
    return {
        "sites": SITES,
        "operators": OPERATORS,
        "crops": CROPS,
        "size": SIZE,
        "teacher_psnr_db": round(teacher_db, 4),
        "most_loss_db": most,
        "distillation": run.config.distill.model_dump(),
        "device": dict(latencies.device),
        "machine": machine("onnxruntime"),
        "cpu_seconds": round(time.process_time() - began, 1),
        "block_cpu_ms": [[round(entry.cpu_median_ms, 4) for entry in row] for row in blocks_ms],
        "loss_db": losses,
    }


def load() -> tuple[list[int], np.ndarray, list[np.ndarray]]:
    """(S,) cardinalities, (625, 2) costs in lexicographic order, and the blocks' latencies."""
    table = json.loads(TABLE.read_text())
    sizes = [len(table["operators"])] * len(table["sites"])
    blocks = [np.array(row) for row in table["block_cpu_ms"]]
    rows = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    latency = sum(block[rows[:, site]] for site, block in enumerate(blocks))
    return sizes, np.column_stack([table["loss_db"], latency]), blocks


def run(method: str, seed: int, budget: int) -> dict[str, Any]:
    """One search of the table."""
    sizes, costs, blocks = load()
    reference = costs.max(axis=0)
    began = time.process_time()
    result = minimize(
        lambda rows: costs[np.ravel_multi_index(tuple(rows.T), sizes)],
        sizes,
        budget=budget,
        method="auto" if method == KNOWN else method,
        known={1: blocks} if method == KNOWN else None,
        reference_point=reference,
        seed=seed,
        tolerance=0.0,
    )
    shares = result.hypervolume / hypervolume(costs, reference)
    at = {str(n): round(float(shares[n - 1]), 5) for n in CHECKPOINTS if n <= budget}
    spent = round(time.process_time() - began, 2)
    return {"method": method, "seed": seed, "at": at, "regime": result.regime, "cpu_seconds": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--build", type=Path, metavar="RUN", help="make the table from this run folder, and stop")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default=",".join([*METHODS, KNOWN.replace(", ", "+")]))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.build:
        TABLE.write_text(json.dumps(build(arguments.build)) + "\n")
        return
    budget, records = CHECKPOINTS[-1], []
    _, costs, _ = load()
    members = int(non_dominated(costs).sum())
    print(f"{len(costs)} assignments, {members} on the true front")
    print(f"{'method':<13}" + "".join(f"{f'at {n}':>8}{'worst':>8}" for n in CHECKPOINTS) + f"{'CPU s':>8}")
    for method in (name.replace("+", ", ") for name in arguments.methods.split(",")):
        mine = [run(method, seed, budget) for seed in range(arguments.seeds)]
        records += mine
        columns = [np.array([record["at"][str(n)] for record in mine]) for n in CHECKPOINTS]
        cells = "".join(f"{shares.mean():>8.3f}{shares.min():>8.3f}" for shares in columns)
        seconds = np.mean([record["cpu_seconds"] for record in mine])
        print(f"{method:<13}{cells}{seconds:>8.1f}", flush=True)
    front = {"assignments": len(costs), "front": members}
    print(json.dumps(front | {"machine": machine("botorch", "pymoo"), "runs": records}))


if __name__ == "__main__":
    main()
