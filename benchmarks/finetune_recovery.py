"""What each part of the fine-tuning loss recovers, and how fast: validation PSNR against steps and CPU time.

    python benchmarks/finetune_recovery.py --run RUN [--steps 300] [--batch 8] [--crop 64] [--crops 12]

The student of a finished run, as its search assembled it, is fine-tuned by the same schedule on the same crops:

- psnr: the PSNR loss against the clean image alone;
- +kd: and against the teacher's output, with the weight of the run's config;
- +fft: the PSNR loss and the Fourier loss, with weights from --fourier;
- +kd +fft: all of them.

The averaged weights are judged on 128-pixel validation crops at every checkpoint; the interval is that of the paired
difference to ``psnr`` over the crops (95 % bootstrap). Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from netgraft.config import parse_config
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import crops_of, train_source
from netgraft.evaluate import batch_psnr_db, paired_interval
from netgraft.finetune import FinetuneConfig, Finetuning
from netgraft.nets.blocks import deploy
from netgraft.stages import Run
from netgraft.store import RunStore

CHECKPOINTS = (0, 50, 100, 200, 300)


def scores_db(module: nn.Module, degraded: Tensor, clean: Tensor) -> list[float]:
    """PSNR of every crop."""
    deployed = deploy(module)
    return [batch_psnr_db(deployed, x, y) for x, y in zip(degraded.split(1), clean.split(1), strict=True)]


def recovery(
    start: nn.Module, run: Run, config: FinetuneConfig, crops: tuple[Tensor, Tensor]
) -> tuple[list[dict[str, float]], list[float]]:
    """Mean PSNR and CPU seconds at every checkpoint, and the last scores."""
    work = Finetuning(start, run.teacher.module, config)
    source = train_source(run.config.data, seed=run.config.seed)
    stage = CropStage(steps=config.steps, size=config.crop, batch=config.batch)
    # Made beforehand: the crops cost the same in every variant and are none of the loss's work.
    batches = list(crop_batches(source, [stage], seed=run.config.seed + 1))
    spent, rows, scores = 0.0, [], scores_db(work.average, *crops)
    for first, last in zip((0, *CHECKPOINTS), CHECKPOINTS, strict=False):
        if last > config.steps:
            break
        began = time.process_time()
        work.run(batches[first:last])
        spent += time.process_time() - began
        scores = scores_db(work.average, *crops)
        rows.append({"step": last, "cpu_seconds": spent, "psnr_db": sum(scores) / len(scores)})
    return rows, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--crops", type=int, default=12, help="validation crops")
    parser.add_argument("--fourier", type=float, nargs="+", default=[0.25, 1.0], help="weights of the Fourier loss")
    parser.add_argument("--learning-rate", type=float, default=FinetuneConfig().learning_rate)
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = args.run / "config.json"
    run = Run(parse_config(json.loads(stored.read_text()), str(stored)), RunStore(args.run))
    assignment = json.loads((args.run / "result.json").read_text())["student"]["assignment"]
    start = run.student_of(assignment)
    crops = crops_of(run.config.data, "validation", count=args.crops, size=(128, 128))
    kd = run.config.finetune.distillation or FinetuneConfig().distillation
    weights = {"psnr": (0.0, 0.0), "+kd": (kd, 0.0)}
    weights |= {f"+fft {weight:g}": (0.0, weight) for weight in args.fourier}
    weights |= {f"+kd +fft {weight:g}": (kd, weight) for weight in args.fourier}

    teacher_db = sum(scores_db(run.teacher.module, *crops)) / args.crops
    records: dict[str, Any] = {}
    last: dict[str, list[float]] = {}
    console = Console()
    for name, (distillation, fourier) in weights.items():
        config = FinetuneConfig(
            steps=args.steps,
            batch=args.batch,
            crop=args.crop,
            learning_rate=args.learning_rate,
            distillation=distillation,
            fourier=fourier,
        )
        rows, last[name] = recovery(start, run, config, crops)
        interval = paired_interval(last[name], last["psnr"])
        gain = rows[-1]["psnr_db"] - rows[0]["psnr_db"]
        records[name] = {
            "distillation": distillation,
            "fourier": fourier,
            "checkpoints": rows,
            "db_per_cpu_minute": 60 * gain / max(rows[-1]["cpu_seconds"], 1e-9),
            "against_psnr_db": [
                rows[-1]["psnr_db"] - records.get("psnr", {"checkpoints": rows})["checkpoints"][-1]["psnr_db"],
                *interval,
            ],
        }
        console.print(f"{name}: " + ", ".join(f"{row['step']}: {row['psnr_db']:.3f}" for row in rows))

    table = Table(title=f"validation PSNR, {args.crops} crops; teacher {teacher_db:.3f} dB")
    for column in ("loss", *(f"{row['step']}" for row in records["psnr"]["checkpoints"])):
        table.add_column(column)
    for column in ("CPU s", "dB a CPU minute", "against psnr, dB [95 %]"):
        table.add_column(column)
    for name, record in records.items():
        gap, low, high = record["against_psnr_db"]
        table.add_row(
            name,
            *(f"{row['psnr_db']:.3f}" for row in record["checkpoints"]),
            f"{record['checkpoints'][-1]['cpu_seconds']:.0f}",
            f"{record['db_per_cpu_minute']:.3f}",
            f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]",
        )
    console.print(table)
    settings = {key: value for key, value in vars(args).items() if key != "run"}
    print(
        json.dumps(
            {
                "settings": settings,
                "assignment": {path: name for path, name in assignment.items() if name != "keep"},
                "teacher_psnr_db": teacher_db,
                "variants": records,
                "machine": machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
