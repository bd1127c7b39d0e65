"""What one teacher pass for all surrogates saves, against training them one at a time with a teacher pass each.

    python benchmarks/distill_throughput.py [--batch 4] [--crop 64] [--repeats 3]

The blocks of the embedded network, 36 sites, and the eight operators that learn: 288 surrogates. Three ways to make the
same training step, timed on the same crops in CPU seconds of one thread:

- together: the package's distillation; the teacher runs once a step, whatever the number of surrogates;
- alone, whole teacher: each surrogate by itself, with a forward pass of the whole teacher each;
- alone, to the site: the same, but the teacher stops where the surrogate's site has given its output.

The last two are timed at the middle block of every stage, with every operator, and weighted by the stage's blocks.
Prints a table and one JSON line; peak memory is that of the whole process after the joint step.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence

import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import nn

from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import DataConfig, train_source
from netgraft.distill import Distillation, DistillConfig, SurrogateKey, fit_surrogates, start_surrogates
from netgraft.features import site_features
from netgraft.nets.load import load_teacher
from netgraft.operators import OPERATORS
from netgraft.sites import Site, find_sites

POOL = {name: op for name, op in OPERATORS.items() if op.kind == "block" and op.learning == "distill"}


def cpu_seconds(step: Callable[[], None], repeats: int) -> float:
    """The least CPU time of a step out of some: whatever else the machine does can only add to it."""
    step()
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        step()
        spent.append(time.process_time() - began)
    return min(spent)


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load_teacher().module
    sites = [site for site in find_sites(teacher) if site.kind == "block"]
    stage = CropStage(steps=1, size=args.crop, batch=args.batch)
    images, _ = next(crop_batches(train_source(DataConfig()), [stage], seed=0))
    surrogates = start_surrogates(teacher, sites, POOL, seed=0)
    fit_surrogates(surrogates, site_features(teacher, images, sites))
    config = DistillConfig(steps=1_000_000, joint_steps=0, batch=args.batch, crop=args.crop)

    def seconds(seen: Sequence[Site], modules: dict[SurrogateKey, nn.Module]) -> float:
        work = Distillation(teacher, seen, modules, POOL, config)
        return cpu_seconds(lambda: work.run([images]), args.repeats)

    before = peak_bytes()
    together = seconds(sites, surrogates)
    memory = {"before_bytes": before, "together_bytes": peak_bytes()}
    whole, partial = 0.0, 0.0
    stages: dict[str, list[Site]] = {}
    for site in sites:
        stages.setdefault(site.path.rpartition(".")[0], []).append(site)
    for blocks in stages.values():
        middle = blocks[len(blocks) // 2]
        for name in POOL:
            one = {(middle.path, name): surrogates[middle.path, name]}
            # Asked for the features of every site, the teacher runs through.
            whole += len(blocks) * seconds(sites, one)
            partial += len(blocks) * seconds([middle], one)

    count = len(surrogates)
    step_seconds = {"together": together, "alone, whole teacher": whole, "alone, to the site": partial}
    table = Table(title=f"{len(sites)} sites x {len(POOL)} operators, {args.batch} crops of {args.crop} pixels")
    for column in ("way", "CPU s a step of all", "CPU ms a surrogate-step", "together is faster by"):
        table.add_column(column)
    for way, spent in step_seconds.items():
        table.add_row(way, f"{spent:.2f}", f"{1e3 * spent / count:.2f}", f"{spent / together:.1f}")
    Console().print(table)
    print(
        json.dumps(
            {
                "sites": len(sites),
                "operators": list(POOL),
                "surrogates": count,
                "batch": args.batch,
                "crop": args.crop,
                "step_cpu_seconds": step_seconds,
                "times_faster": {way: spent / together for way, spent in step_seconds.items()},
                "peak_memory": memory,
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
