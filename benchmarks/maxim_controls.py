"""A refitted MAXIM against its own first stages, fine-tuned as long: is the gain only the fine-tuning?

    python benchmarks/maxim_controls.py RUN --stages 1 2 --crops 15 --side 128

RUN is the folder of a finished `netgraft run` of a MAXIM. Its fine-tuning is repeated, with its seed, steps and crops,
on the teacher's first stages, each of which gives an image of its own; then everything is scored on the same center
crops of test photographs. Prints a table and one JSON line; the controls' weights are kept in RUN/controls.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from machine import machine
from torch import Tensor, nn

from netgraft.config import stored_config
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import crops_of, train_source
from netgraft.evaluate import crop_psnrs_db
from netgraft.finetune import Finetuning
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.maxim import Maxim, first_stages
from netgraft.portable import load_student

RESAMPLES = 1000


def scores_db(network: nn.Module, degraded: Tensor, clean: Tensor) -> list[float]:
    with torch.inference_mode():
        found = crop_psnrs_db((network(x) for x in torch.split(degraded, 1)), torch.split(clean, 1))
    assert found is not None, "a network diverged"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--crops", type=int, default=15)
    parser.add_argument("--side", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = stored_config(args.run)
    if config is None:
        raise SystemExit(f"{args.run}: holds no run")
    teacher = config.teacher.load().module
    assert isinstance(teacher, Maxim)
    degraded, clean = crops_of(config.data, "test", count=args.crops, size=(args.side, args.side))
    student = load_student(args.run / "export" / "student.safetensors").module
    found = {name: scores_db(net, degraded, clean) for name, net in
             (("degraded", nn.Identity()), ("teacher", teacher), ("student", student))}  # fmt: skip
    tuning = config.finetune
    for count in args.stages:
        shorter = first_stages(teacher, count)
        found[f"first {count}"] = scores_db(shorter, degraded, clean)
        work = Finetuning(shorter, teacher, tuning)
        stage = CropStage(steps=tuning.steps, size=tuning.crop, batch=tuning.batch)
        work.run(crop_batches(train_source(config.data, seed=config.seed), [stage], seed=config.seed + 1))
        save_weights(work.average, args.run / "controls" / f"first_{count}.safetensors", half=False)
        found[f"first {count}, fine-tuned"] = scores_db(work.average, degraded, clean)
        print(f"first {count}, fine-tuned: {np.mean(found[f'first {count}, fine-tuned']):.3f} dB", flush=True)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, args.crops, (RESAMPLES, args.crops))
    reference = np.array(found["teacher"])
    for name, values in found.items():
        gain = np.array(values) - reference
        low, high = np.quantile(gain[draws].mean(1), [0.025, 0.975])
        print(f"{name:22} {np.mean(values):7.2f} dB  {gain.mean():+.2f} [{low:+.2f}, {high:+.2f}] against the teacher")
    print(json.dumps({"psnr_db": found, "machine": machine()}))


if __name__ == "__main__":
    main()
