"""Whether the joint phase of distillation pays: assembled students with and without it, at the same distillation time.

    python benchmarks/joint_distillation.py --run RUN [--steps 120] [--joint-steps 120] [--random 18] [--crops 8]

Two distillations start alike in the space of a run: one of independent steps alone, the other with fewer and a joint
phase in their stead, so many that both take the same CPU time by the measured cost of a step of each kind. Both are
judged on the same assignments, from the run's front and random ones of several densities, calibrated and scored as the
search does it: PSNR lost to the teacher on validation crops. The interval of the paired differences is a 95 % bootstrap
over assignments. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from netgraft.assemble import assemble
from netgraft.config import parse_config
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import crops_of, train_source
from netgraft.distill import Distillation, SurrogateKey, fit_surrogates, start_surrogates
from netgraft.evaluate import batch_psnr_db, paired_interval
from netgraft.features import site_features
from netgraft.nets.blocks import deploy
from netgraft.operators import options_for
from netgraft.sites import KEEP
from netgraft.stages import Run
from netgraft.store import RunStore

DENSITIES = (0.1, 0.25, 0.5)
Assignment = dict[str, str]


def chosen_assignments(run: Run, folder: Path, members: int, random: int) -> dict[str, list[Assignment]]:
    """Assignments to judge by: members of the front, evenly spread, and random ones, by the group's name."""
    front = [point["assignment"] for point in json.loads((folder / "result.json").read_text())["front"]]
    front = [{path: name for path, name in full.items() if name != KEEP} for full in front]
    front = [changed for changed in front if changed]
    picks = np.unique(np.linspace(0, len(front) - 1, members).round().astype(int))
    groups = {"front": [front[pick] for pick in picks]}
    rng = np.random.default_rng(2)
    for density in DENSITIES:
        groups[f"random, {density:.0%}"] = [
            {
                site.path: str(rng.choice(options_for(site, run.pool)[1:]))
                for site in run.open_sites
                if len(options_for(site, run.pool)) > 1 and rng.random() < density
            }
            for _ in range(random // len(DENSITIES))
        ]
    return groups


def distilled(run: Run, steps: int, joint_steps: int) -> tuple[dict[SurrogateKey, nn.Module], float, float]:
    """Surrogates of a distillation, and the CPU seconds of one step of either phase."""
    config = run.config.distill.model_copy(update={"steps": steps, "joint_steps": joint_steps})
    modules = start_surrogates(run.teacher.module, run.open_sites, run.pool, seed=run.config.seed)
    degraded, _ = crops_of(run.config.data, "train", count=8, size=(config.crop, config.crop), seed=run.config.seed)
    fit_surrogates(modules, site_features(run.teacher.module, degraded, run.open_sites))
    work = Distillation(run.teacher.module, run.open_sites, modules, run.pool, config, seed=run.config.seed)
    source = train_source(run.config.data, fraction=config.data_fraction, seed=run.config.seed)
    stage = CropStage(steps=config.all_steps, size=config.crop, batch=config.batch)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for images, _ in crop_batches(source, [stage], seed=run.config.seed):
        began, apart = time.process_time(), work.step < steps
        work.run([images])
        seconds[apart].append(time.process_time() - began)
    for module in modules.values():
        module.eval()
    apart_seconds, joint_seconds = (float(np.mean(seconds[kind])) if seconds[kind] else 0.0 for kind in (True, False))
    return modules, apart_seconds, joint_seconds


def losses_db(
    run: Run,
    surrogates: Mapping[SurrogateKey, nn.Module],
    assignments: list[Assignment],
    calibration: Tensor,
    crops: tuple[Tensor, Tensor],
) -> list[float]:
    """PSNR lost to the teacher by every assembled student; at most 5 dB, which is far beyond use, for diverged ones."""
    teacher_db = batch_psnr_db(deploy(run.teacher.module), *crops)
    students = (assemble(run.teacher.module, each, surrogates, calibration=calibration) for each in assignments)
    return [min(5.0, teacher_db - batch_psnr_db(deploy(student), *crops)) for student in students]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--steps", type=int, default=120, help="independent steps of the one without")
    parser.add_argument("--joint-steps", type=int, default=120, help="joint steps of the one with")
    parser.add_argument("--front", type=int, default=12, help="assignments from the front")
    parser.add_argument("--random", type=int, default=18, help="random assignments")
    parser.add_argument("--crops", type=int, default=8, help="validation crops")
    parser.add_argument("--size", type=int, default=128, help="their side, in pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = args.run / "config.json"
    run = Run(parse_config(json.loads(stored.read_text()), str(stored)), RunStore(args.run))
    size = (args.size, args.size)
    crops = crops_of(run.config.data, "validation", count=args.crops, size=size)
    calibration, _ = crops_of(run.config.data, "train", count=4, size=size, seed=1)
    groups = chosen_assignments(run, args.run, args.front, args.random)

    # A few steps of each kind say how many independent ones the joint phase costs.
    _, apart_seconds, joint_seconds = distilled(run, 4, 8)
    steps = args.steps - round(args.joint_steps * joint_seconds / apart_seconds)
    if steps < 1:
        parser.error(f"--joint-steps {args.joint_steps} cost more than all of --steps {args.steps}")
    ways = {"without": (args.steps, 0), "with": (steps, args.joint_steps)}
    scores: dict[str, dict[str, list[float]]] = {}
    spent: dict[str, float] = {}
    for way, (apart, joint) in ways.items():
        surrogates, apart_seconds, joint_seconds = distilled(run, apart, joint)
        spent[way] = apart * apart_seconds + joint * joint_seconds
        scores[way] = {name: losses_db(run, surrogates, each, calibration, crops) for name, each in groups.items()}
    for way in ways:
        scores[way]["all"] = [loss for losses in scores[way].values() for loss in losses]

    table = Table(
        title=f"PSNR lost, dB: {args.steps} independent steps ({spent['without']:.0f} CPU s) against "
        f"{steps} and {args.joint_steps} joint ones ({spent['with']:.0f} CPU s)"
    )
    for column in ("assignments", "without: mean", "median", "with: mean", "median", "gain, mean [95 %]"):
        table.add_column(column)
    gains = {}
    for name, without in scores["without"].items():
        joint_losses = scores["with"][name]
        gains[name] = [float(np.mean(without) - np.mean(joint_losses)), *paired_interval(without, joint_losses)]
        means = [f"{kind(losses):.3f}" for losses in (without, joint_losses) for kind in (np.mean, np.median)]
        table.add_row(f"{name} ({len(without)})", *means, "{:+.3f} [{:+.3f}, {:+.3f}]".format(*gains[name]))
    Console().print(table)
    print(
        json.dumps(
            {
                "settings": {key: value for key, value in vars(args).items() if key != "run"},
                "steps": ways,
                "cpu_seconds": spent,
                "losses_db": scores,
                "gain_db": gains,
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
