"""What the paper's experiment will cost, before any of it is done: counted work over the speed of this machine."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from netgraft.nets.load import Teacher
from netgraft.nets.losses import psnr_loss
from netgraft.reproduction import POINTS, TRIALS, Experiment
from netgraft.scores import Scorer
from netgraft.sites import find_sites, paper_sites

PIXELS = {
    "gopro": 1280 * 720,
    "hide": 1280 * 720,
    "realblur_j": 680 * 773,
    "realblur_r": 680 * 773,
    "dpdd": 1680 * 1120,
}
"""Of an image of each test set, as shipped."""
TRAINED_DPDD = 2
"""Student and teacher are both adapted."""
EXPORT_SECONDS = 10.0
"""A whole network's export to ONNX on a processor of today; a block takes a tenth."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of this machine, measured with the teacher."""

    forward: float
    """Multiply-accumulates a second."""
    training: float
    """Those of the forward pass, in a second of forward and backward passes."""
    scoring: float
    """Pixels a second that a restored image is compared at."""
    latency_ms: float
    """Of the teacher's forward pass at the profiled size, on the processor."""


def measure_speed(experiment: Experiment, teacher: Teacher, seconds: float = 1.0) -> Speed:
    """Run the teacher for a moment, forwards and backwards, where the experiment computes."""
    side = 64 if experiment.tiny else 256
    macs, layout = teacher.macs(side, side), torch.channels_last
    # As it is trained and judged: a copy, in the layout that both use.
    module = copy.deepcopy(teacher.module).to(experiment.compute, memory_format=layout)  # type: ignore[call-overload]
    x = torch.rand(1, 3, side, side).to(experiment.compute, memory_format=layout)

    def forward() -> None:
        with torch.inference_mode():
            float(module(x).mean())

    def learn() -> None:
        module.zero_grad(set_to_none=True)
        psnr_loss(module(x), x * 0.9).backward()  # type: ignore[no-untyped-call]
        float(x.mean())

    image = (torch.rand(side, side, 3) * 255).to(torch.uint8).numpy()
    scorer = Scorer()
    plain = _seconds_a_run(forward, seconds)
    return Speed(
        forward=macs / plain,
        training=macs / _seconds_a_run(learn, seconds),
        scoring=side * side / _seconds_a_run(lambda: scorer("speed", image // 2, image), seconds / 4),
        latency_ms=1e3 * plain,
    )


def _seconds_a_run(work: Callable[[], object], seconds: float) -> float:
    """The median of as many runs as fit; the first one warms up."""
    work()
    taken: list[float] = []
    while sum(taken) < seconds:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def estimate_seconds(
    experiment: Experiment, teacher: Teacher, counts: Mapping[str, int], speed: Speed
) -> dict[str, float]:
    """Seconds of every part of the experiment; counts: pairs of every test set.

    Trainings are counted as the teacher's: a student is cheaper. Latencies that a device elsewhere measures, and
    reading images, are not in it.
    """
    run, adaptation = experiment.run_config(POINTS[0]), experiment.adapt_config()
    h, w = run.size
    a_pixel = teacher.macs(h, w) / (h * w)
    sites = paper_sites(find_sites(teacher.module, run.size))
    share, operators = sum(site.macs_share for site in sites), len(run.space.operators)
    distilled = run.distill.all_steps * run.distill.batch * run.distill.crop**2 * a_pixel
    tuned = len(POINTS) * run.finetune.steps * run.finetune.batch * run.finetune.crop**2 * a_pixel
    blocks, networks = len(sites) * operators, run.device.check_networks + 2
    profiled = blocks * (EXPORT_SECONDS / 10 + run.device.samples * speed.latency_ms / 1e3 / len(sites))
    profiled += networks * (EXPORT_SECONDS + run.device.whole_samples * speed.latency_ms / 1e3)
    looks = adaptation.steps / adaptation.check_every * adaptation.validation_crops * adaptation.validation_crop**2
    adapted = adaptation.steps * adaptation.batch * adaptation.crop**2 * a_pixel
    parts = {
        "distillation": distilled / speed.forward + distilled * share * operators / speed.training,
        "profile": profiled,
        "search": run.search.budget * run.search.crops * h * w * a_pixel / speed.forward,
        "fine-tuning": tuned / speed.training + tuned / speed.forward,
    }
    for trial in TRIALS:
        pixels = counts[trial.layout] * PIXELS[trial.layout]
        parts[f"evaluation, {trial.name}"] = _evaluation(pixels, a_pixel, 1 + len(POINTS), speed)
    parts["adaptation"] = TRAINED_DPDD * (adapted / speed.training + looks * a_pixel / speed.forward)
    parts["evaluation, dpdd"] = _evaluation(counts["dpdd"] * PIXELS["dpdd"], a_pixel, 2 * TRAINED_DPDD, speed)
    return parts


def _evaluation(pixels: int, a_pixel: float, networks: int, speed: Speed) -> float:
    """The degraded images are scored, too."""
    return pixels * (networks * a_pixel / speed.forward + (networks + 1) / speed.scoring)
