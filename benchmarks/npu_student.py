"""What the student of a run for an NPU is worth there: estimates on three Ethos-U, and PSNR of its 8-bit file.

    netgraft run --preset npu --out runs/npu
    python benchmarks/npu_student.py --run runs/npu [--npus u55-256,u65-512,u85-2048] [--calibration 16] \
        [--record benchmarks/results/npu_student.json]

    netgraft distill --preset npu --out runs/npu
    python benchmarks/npu_student.py --run runs/npu --assemble block=naf_relu,encoders.3=drop,up=transposed,ups.3=resize

With --assemble no search is asked: each entry names an operator for a kind of site, or for all sites whose path
begins so; later entries win. That student is fine-tuned here, for --steps steps, and its state is kept.

Teacher and student of the run become 8-bit TFLite files at the profiled size, calibrated on training crops. Arm's
compiler estimates their latency on each NPU and names what falls back to the processor. The files' PSNR is that on
the embedded test photographs, whole, by LiteRT on this machine, in the tiles that a restoration uses; the fp32
networks go through the same tiles. Files and scores are kept in RUN/npu: after a stop the same command continues.
Prints a table, then one line of JSON; the interval of the loss is a 95 % bootstrap over the photographs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from netgraft.config import parse_config
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import crops_of, train_source, whole_images
from netgraft.devices import open_device
from netgraft.devices.arm.ethos_u import EthosUDevice
from netgraft.devices.tflite.convert import quantize_tflite, tflite_bytes
from netgraft.devices.tflite.litert import TfliteRunnable
from netgraft.errors import StoreError
from netgraft.evaluate import evaluate, paired_interval
from netgraft.files import write_atomically
from netgraft.finetune import FinetuneConfig, Finetuning
from netgraft.nets.blocks import deploy
from netgraft.restore import Restorer
from netgraft.sites import KEEP, Site
from netgraft.stages import Run
from netgraft.store import RunStore

SAVE_EVERY = 50
NPUS = "u55-256,u65-512,u85-2048"


class Kept:
    """Results in a folder, by name and by what they were made from."""

    def __init__(self, folder: Path, made_from: str) -> None:
        self.folder = folder
        self.made_from = made_from
        folder.mkdir(parents=True, exist_ok=True)

    def content(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self.folder / f"{self.made_from}-{name}"
        if not path.exists():
            write_atomically(path, make(), StoreError)
        return path.read_bytes()

    def json(self, name: str, make: Callable[[], Any]) -> Any:
        return json.loads(self.content(f"{name}.json", lambda: json.dumps(make()).encode()))


def digest(module: nn.Module, inputs: Tensor) -> str:
    """Stands for a network's weights and the calibration inputs."""
    found = hashlib.sha256(inputs.numpy().tobytes())
    for name, tensor in module.state_dict().items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def judged(module: nn.Module, run: Run, npus: list[str], calibration: Tensor, kept: Kept) -> dict[str, Any]:
    """Estimates by NPU, and PSNR of every test photograph in fp32 and in 8 bits."""
    example, size = calibration[:1], run.config.size
    content = kept.content("int8.tflite", lambda: quantize_tflite(tflite_bytes(module, example), calibration.numpy()))
    runnable = TfliteRunnable(content, threads=1)

    def whole(x: Tensor) -> Tensor:
        with torch.inference_mode():
            y: Tensor = module(x)
        return y.clone()

    def in_8_bits(x: Tensor) -> Tensor:
        return torch.from_numpy(runnable.run(x.contiguous().numpy()))

    def scores(fn: Callable[[Tensor], Tensor]) -> list[float]:
        return [score.psnr_db for score in evaluate(Restorer(run=fn, fixed=size), run.test_images).scores]

    return {
        "size_bytes": len(content),
        "fp32_db": kept.json("fp32", partial(scores, whole)),
        "int8_db": kept.json("int8", partial(scores, in_8_bits)),
        "estimates": {npu: kept.json(npu, partial(estimated, npu, content)) for npu in npus},
    }


def assembled(rules: str, sites: Sequence[Site]) -> dict[str, str]:
    """Operator by site path, from ``kind=operator`` and ``path=operator`` entries."""
    assignment = {site.path: KEEP for site in sites}
    for rule in rules.split(","):
        where, _, operator = rule.partition("=")
        assignment |= {
            site.path: operator for site in sites if site.kind == where or f"{site.path}.".startswith(f"{where}.")
        }
    return assignment


def finetuned(run: Run, assignment: Mapping[str, str], config: FinetuneConfig) -> nn.Module:
    """The student with these operators, fine-tuned; continues where it stopped."""
    work = Finetuning(run.student_of(assignment), run.teacher.module, config)
    made_from = {"origin": run.origin, "assignment": dict(assignment), "finetune": config.model_dump()}
    path = run.store.path("npu/finetune", made_from, ".pt")
    if path.exists():
        work.load_state(run.store.load_tensors(path))

    def on_step(now: Finetuning) -> None:
        if now.step % SAVE_EVERY == 0 or now.step == config.steps:
            run.store.save_tensors(path, now.state())
            print(f"step {now.step}/{config.steps}, loss {mean(now.losses[-SAVE_EVERY:]):.2f} dB", file=sys.stderr)

    source = train_source(run.config.data, seed=run.config.seed)
    stage = CropStage(steps=config.steps, size=config.crop, batch=config.batch)
    work.run(crop_batches(source, [stage], seed=run.config.seed + 1, first_step=work.step), on_step)
    student: nn.Module = work.average
    return student


def estimated(npu: str, content: bytes) -> dict[str, Any]:
    device = open_device(f"ethos-u:{npu}")
    assert isinstance(device, EthosUDevice)
    estimate = device.estimate(content)
    return {
        "latency_ms": estimate.latency_ms,
        "fallbacks": estimate.fallback_counts,
        "fallback_ms": estimate.fallback_ms,
        "hardware": device.description.hardware,
    }


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run that has fine-tuned its student")
    parser.add_argument("--npus", default=NPUS, help="names, separated by commas")
    parser.add_argument("--calibration", type=int, default=16, help="training crops that the quantizer sees")
    parser.add_argument("--record", type=Path, help="a file for the record, beside the printed line")
    parser.add_argument("--assemble", help="KIND=OPERATOR and PATH=OPERATOR, separated by commas, instead of a search")
    parser.add_argument("--steps", type=int, default=600, help="of fine-tuning what was assembled")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = args.run / "config.json"
    run = Run(parse_config(json.loads(stored.read_text()), str(stored)), RunStore(args.run))
    size, npus = run.config.size, args.npus.split(",")
    # Not the crops that the search calibrated its networks on.
    calibration, _ = crops_of(run.config.data, "train", count=args.calibration, size=size, seed=2)
    if args.assemble:
        config = FinetuneConfig(steps=args.steps, batch=4, crop=96, learning_rate=args.learning_rate)
        assignment = assembled(args.assemble, run.sites)
        student_module = finetuned(run, assignment, config)
    else:
        config, assignment, student_module = run.config.finetune, run.assignment, run.finetuned[0]
    networks = {"teacher": deploy(run.teacher.module), "student": deploy(student_module)}
    found = {
        name: judged(module, run, npus, calibration, Kept(args.run / "npu", digest(module, calibration)))
        for name, module in networks.items()
    }
    degraded = [score.psnr_db for score in evaluate(lambda image: image, whole_images(run.config.data, "test")).scores]
    teacher, student = found["teacher"], found["student"]
    low, high = paired_interval(teacher["fp32_db"], student["int8_db"])
    loss = {"db": mean(teacher["fp32_db"]) - mean(student["int8_db"]), "interval": [low, high]}
    show(found, mean(degraded), loss)
    record = {
        "machine": machine("ethos-u-vela", "ai-edge-litert", "litert-torch", "ai-edge-quantizer"),
        "size": list(size),
        "calibration_crops": args.calibration,
        "degraded_db": degraded,
        **found,
        "loss_of_int8_student_to_fp32_teacher": loss,
        "assignment": assignment,
        "searched": not args.assemble,
        "finetune": config.model_dump(),
    }
    if args.record is not None:
        write_atomically(args.record, json.dumps(record, indent=1).encode() + b"\n", StoreError)
    print(json.dumps(record))


def show(found: Mapping[str, Any], degraded_db: float, loss: Mapping[str, Any]) -> None:
    quality = Table(title=f"Test photographs, degraded {degraded_db:.2f} dB")
    for column in ("network", "fp32, dB", "int8, dB", "int8 file, bytes"):
        quality.add_column(column)
    for name, row in found.items():
        quality.add_row(name, f"{mean(row['fp32_db']):.2f}", f"{mean(row['int8_db']):.2f}", str(row["size_bytes"]))
    latency = Table(title="Arm's estimates, nothing measured")
    for column in ("NPU", "teacher, ms", "student, ms", "faster", "fallbacks of teacher", "of student"):
        latency.add_column(column)
    for npu, before in found["teacher"]["estimates"].items():
        after = found["student"]["estimates"][npu]
        ratio = before["latency_ms"] / after["latency_ms"]
        times = (f"{before['latency_ms']:.1f}", f"{after['latency_ms']:.2f}", f"{ratio:.1f}x")
        latency.add_row(npu, *times, *(str(row["fallbacks"] or "none") for row in (before, after)))
    console = Console(width=110)
    console.print(quality)
    console.print(latency)
    low, high = loss["interval"]
    console.print(f"8-bit student against fp32 teacher: {loss['db']:.2f} dB lost [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
