"""CPU time of scoring assignments through the prefix cache, against assembling and running each anew.

    python benchmarks/prefix_cache.py --run runs/demo [--count 100] [--plain-every 1] [--cases search,random,sorted]

RUN is a finished run folder. ``search``: the first assignments that its search asked for, in its order; ``random``:
uniform ones of its space; ``sorted``: the same in lexicographic order. Every assignment is scored through the cache,
and then (or every n-th of them) plainly: assemble and calibrate, deploy, run the crops. "calibrated" is the time of
all that, "forward" that of the crops alone. "ideal" is what unlimited memory could reach against the forward alone:
the time of all blocks over that of the blocks behind distinct prefixes, from one timing of each block. Prints a table
and one JSON line.
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
from rich.console import Console
from rich.table import Table

from netgraft.config import parse_config
from netgraft.evaluate import batch_psnr_db
from netgraft.nets.blocks import deploy
from netgraft.prefix import PrefixScores
from netgraft.sites import KEEP
from netgraft.stages import Run
from netgraft.store import RunStore


def open_run(folder: Path) -> Run:
    """The stages of a finished run."""
    config = folder / "config.json"
    return Run(parse_config(json.loads(config.read_text()), str(config)), RunStore(folder))


def cases_of(run: Run, count: int, seed: int) -> dict[str, list[dict[str, str]]]:
    """Assignments by case, in the order in which they are scored."""
    rng = np.random.default_rng(seed)
    cardinalities = [len(names) for names in run.space.options]
    drawn = rng.integers(0, cardinalities, size=(count, len(cardinalities))).tolist()
    rows = {"search": run.search.assignments[:count].tolist(), "random": drawn, "sorted": sorted(drawn)}
    return {case: [run.name_row(row) for row in found] for case, found in rows.items()}


def scores_of(run: Run, max_bytes: int) -> PrefixScores:
    """A new, empty cache."""
    degraded, clean = run.validation
    return PrefixScores(
        run.teacher.module,
        [site.path for site in run.sites],
        run.surrogates.modules,
        degraded=degraded,
        clean=clean,
        calibration=run.calibration,
        max_bytes=max_bytes,
    )


def block_seconds(run: Run) -> dict[tuple[str, str], float]:
    """CPU seconds of every deployed block on one crop, the least of three."""
    found = {}
    for site in run.sites:
        example = site.example(run.config.size).contiguous(memory_format=torch.channels_last)
        blocks = {KEEP: run.teacher.module.get_submodule(site.path)}
        blocks |= {name: module for (path, name), module in run.surrogates.modules.items() if path == site.path}
        for name, block in blocks.items():
            deployed, spent = deploy(block), []
            with torch.inference_mode():
                for _ in range(3):
                    began = time.process_time()
                    deployed(example)
                    spent.append(time.process_time() - began)
            found[site.path, name] = min(spent)
    return found


def ideal_speedup(run: Run, assignments: list[dict[str, str]], seconds: dict[tuple[str, str], float]) -> float:
    """Time of all blocks over that of one block a distinct prefix."""
    seen, everything, needed = set(), 0.0, 0.0
    for assignment in assignments:
        prefix: tuple[str, ...] = ()
        for site in run.sites:
            name = assignment.get(site.path, KEEP)
            prefix += (name,)
            everything += seconds[site.path, name]
            if prefix not in seen:
                seen.add(prefix)
                needed += seconds[site.path, name]
    return everything / needed


def measure_case(run: Run, assignments: list[dict[str, str]], *, max_bytes: int, plain_every: int) -> dict[str, Any]:
    """CPU seconds an assignment, in turns, and how far the scores are apart."""
    scores = scores_of(run, max_bytes)
    cached, calibrated, forward, gaps = [], [], [], []
    for number, assignment in enumerate(assignments):
        began = time.process_time()
        ours = scores.psnr_db(assignment)
        cached.append(time.process_time() - began)
        if number % plain_every == 0:
            began = time.process_time()
            student = deploy(run.student_of(assignment))
            ready = time.process_time()
            plain = batch_psnr_db(student, *run.validation)
            ended = time.process_time()
            calibrated.append(ended - began)
            forward.append(ended - ready)
            gaps.append(abs(ours - plain))
    return {
        "assignments": len(assignments),
        "plain_runs": len(forward),
        "cached_seconds": float(np.mean(cached)),
        "calibrated_seconds": float(np.mean(calibrated)),
        "forward_seconds": float(np.mean(forward)),
        "speedup": float(np.mean(calibrated) / np.mean(cached)),
        "speedup_of_forward": float(np.mean(forward) / np.mean(cached)),
        "peak_mib": scores.cache.peak_bytes / 2**20,
        "max_gap_db": max(gaps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--plain-every", type=int, default=1)
    parser.add_argument("--cases", default="search,random,sorted")
    parser.add_argument("--mib", type=int, help="room for the cache; by default as in the run's config")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = open_run(arguments.run)
    mib = run.config.search.cache_mib if arguments.mib is None else arguments.mib
    cases, seconds = cases_of(run, arguments.count, arguments.seed), block_seconds(run)
    table = Table(title=f"CPU seconds an assignment, cache of {mib} MiB, {run.config.search.crops} crops")
    for column in ("case", "calibrated", "forward", "cached", "speed-up", "of forward", "ideal", "MiB", "max gap dB"):
        table.add_column(column, justify="right")
    records = {}
    for case in arguments.cases.split(","):
        found = measure_case(run, cases[case], max_bytes=mib << 20, plain_every=arguments.plain_every)
        found["ideal_of_forward"] = ideal_speedup(run, cases[case], seconds)
        records[case] = found
        columns = ("calibrated_seconds", "forward_seconds", "cached_seconds", "speedup", "speedup_of_forward")
        row = [f"{found[column]:.2f}" for column in (*columns, "ideal_of_forward")]
        table.add_row(case, *row, f"{found['peak_mib']:.0f}", f"{found['max_gap_db']:.1e}")
    Console(width=120).print(table)
    print(json.dumps({"cache_mib": mib, "size": run.config.size, "cases": records, **machine()}))


if __name__ == "__main__":
    main()
