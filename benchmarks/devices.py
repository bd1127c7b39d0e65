"""The embedded network on every device that this machine has: latency, and what its precision costs.

    python benchmarks/devices.py [--devices openvino,openvino:int8,ethos-u:u85-2048] [--samples 20]

Two networks go to each device: the teacher, and one of its shape with every block ``naf_static`` and every up
``transposed``, which is what NPUs like. The second is untrained, since the teacher's own weights diverge when all norms
are frozen at once: its latency is what it is for, and it has no PSNR. Devices on this machine's processor are timed in
turns in one session on one thread; an NPU's latency is its compiler's estimate. PSNR is that of the compiled teacher on
validation crops of the profiled size. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from netgraft.assemble import assemble
from netgraft.data.images import DataConfig, crops_of
from netgraft.devices import (
    Device,
    Latency,
    MeasureProtocol,
    Runnable,
    SystemClock,
    Unsupported,
    describe_devices,
    measure,
    open_device,
)
from netgraft.devices.arm.ethos_u import EstimatedRunnable
from netgraft.distill import fit_surrogates, start_surrogates
from netgraft.evaluate import batch_psnr_db
from netgraft.features import site_features
from netgraft.nets.blocks import deploy
from netgraft.nets.load import load_teacher
from netgraft.nets.nafnet import NafNet, NafNetShape
from netgraft.operators import operator_pool
from netgraft.sites import find_sites
from netgraft.train import TrainConfig, new_network

SIZE = (256, 256)
CROPS, CALIBRATION = 4, 8
TEACHER = "teacher"
FRIENDLY = {"block": "naf_static", "up": "transposed"}
Key = tuple[str, str]
"""Device and network."""


class Compiled(nn.Module):
    """A compiled network as a module. x: (b, 3, h, w) -> the same."""

    def __init__(self, runnable: Runnable) -> None:
        super().__init__()
        self.runnable = runnable

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.from_numpy(self.runnable.run(image[None].contiguous().numpy())) for image in x])


def networks(calibration: Tensor) -> dict[str, nn.Module]:
    """The deployed networks by name."""
    teacher = load_teacher()
    torch.manual_seed(0)
    shape = teacher.design.shape
    assert isinstance(shape, NafNetShape)
    untrained = new_network(NafNet(shape), TrainConfig()).eval()
    sites = [site for site in find_sites(untrained, SIZE) if site.kind in FRIENDLY]
    surrogates = start_surrogates(untrained, sites, operator_pool(tuple(FRIENDLY.values())), seed=0)
    fit_surrogates(surrogates, site_features(untrained, calibration, sites))
    friendly = {site.path: FRIENDLY[site.kind] for site in sites}
    student = assemble(untrained, friendly, surrogates, calibration=calibration)
    return {TEACHER: deploy(teacher.module), "friendly, untrained": deploy(student)}


def timed(
    devices: Mapping[str, Device], runnables: Mapping[Key, Runnable], example: Tensor, samples: int
) -> dict[Key, Latency]:
    """Those on this machine's processor in one session, each of the others in its own."""
    found: dict[Key, Latency] = {}
    here = {name for name, device in devices.items() if isinstance(device.clock, SystemClock)}
    for together in (here, *({name} for name in devices if name not in here)):
        session = {key: runnable for key, runnable in runnables.items() if key[0] in together}
        if session:
            clock = devices[next(iter(session))[0]].clock
            # An estimate is the same every time.
            protocol = MeasureProtocol(samples=samples if together is here else 1)
            found |= measure(session, dict.fromkeys(session, example.numpy()), protocol, clock)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", help="names, separated by commas; by default all that are here but the fake one")
    parser.add_argument("--samples", type=int, default=20, help="timing samples of each network")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = arguments.devices.split(",") if arguments.devices else here()
    data = DataConfig()
    degraded, clean = crops_of(data, "validation", count=CROPS, size=SIZE)
    calibration, _ = crops_of(data, "train", count=CALIBRATION, size=SIZE, seed=1)
    devices = {name: open_device(name) for name in wanted}
    modules = networks(calibration)
    runnables: dict[Key, Runnable] = {}
    refused: dict[Key, str] = {}
    for name, device in devices.items():
        for network, module in modules.items():
            outcome = device.compile(module, degraded[:1], calibration)
            if isinstance(outcome, Unsupported):
                refused[name, network] = outcome.reason
            else:
                runnables[name, network] = outcome
    scores = {
        key: batch_psnr_db(Compiled(runnable), degraded, clean)
        for key, runnable in runnables.items()
        if key[1] == TEACHER
    }
    latencies = timed(devices, runnables, degraded[:1], arguments.samples)
    reference = batch_psnr_db(modules[TEACHER], degraded, clean)
    show(latencies, scores, refused, reference)
    record: dict[str, Any] = {
        "machine": machine("onnxruntime"),
        "crops": CROPS,
        "degraded_db": batch_psnr_db(nn.Identity(), degraded, clean),
        "torch_db": reference,
        "devices": {name: device.description.as_dict() for name, device in devices.items()},
        "runs": [
            {"device": key[0], "network": key[1], "psnr_db": scores.get(key), "latency": asdict(latencies[key])}
            | fallbacks(runnable)
            for key, runnable in runnables.items()
        ],
        "refused": [{"device": key[0], "network": key[1], "reason": reason} for key, reason in refused.items()],
    }
    print(json.dumps(record))


def fallbacks(runnable: Runnable) -> dict[str, Any]:
    """What an NPU leaves to its host, and what that is charged in ms; nothing for other devices."""
    if not isinstance(runnable, EstimatedRunnable):
        return {}
    return {"fallbacks": runnable.estimate.fallback_counts, "fallback_ms": runnable.estimate.fallback_ms}


def here() -> list[str]:
    """The devices that this machine has."""
    return [row.name for row in describe_devices() if row.available and row.name != "fake"]


def show(
    latencies: Mapping[Key, Latency],
    scores: Mapping[Key, float],
    refused: Mapping[Key, str],
    reference: float,
) -> None:
    table = Table(title=f"{CROPS} crops of {SIZE[0]}x{SIZE[1]}; the teacher in PyTorch: {reference:.2f} dB")
    for column in ("device", "network", "latency_ms median [quartiles]", "psnr_db"):
        table.add_column(column)
    for key, ms in latencies.items():
        table.add_row(
            *key,
            f"{ms.median_ms:.1f} [{ms.q25_ms:.1f}, {ms.q75_ms:.1f}]",
            f"{scores[key]:.2f}" if key in scores else "",
        )
    for key, reason in refused.items():
        table.add_row(*key, "refused", reason)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
