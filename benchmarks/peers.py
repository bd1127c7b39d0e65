"""Our refit against what a user would pick instead: one table, one plot, two runtimes.

    netgraft run --preset demo --out runs/demo
    python benchmarks/peers.py --run runs/demo --out runs/peers --prepare-only [--root PHOTOS] [--scratch NAME=FILE ...]
    python benchmarks/peers.py --run runs/demo --out runs/peers --measure-only [the same options]

The first call to peers trains, exports and scores every candidate, which takes an hour or two of one core; the same
command continues after a stop (``--only NAME,NAME`` makes some of them). The second needs a quiet machine for a few
minutes: all candidates that are there, timed in turns in one session. It prints the tables, then one line of JSON,
writes them as Markdown to OUT/tables.md and draws docs/images/peers.png. What each candidate is: docs/peers.md.
Needs ``pip install torch-pruning openvino nncf matplotlib``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from peer.candidates import Candidate, Candidates
from peer.plot import draw
from peer.table import TEACHERS, Row, joint_front, markdown, print_table, rows_of
from peer.workshop import TestSet, Workshop

from netgraft.data.images import DataConfig
from netgraft.devices import Latency, MeasureProtocol, SystemClock, measure
from netgraft.finetune import FinetuneConfig

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "peers.png"
PACKAGES = ("onnxruntime", "openvino", "nncf", "torch-pruning")


def prepare(shop: Workshop, wanted: list[Candidate], sets: list[TestSet]) -> None:
    """Make and score every candidate; what is there already costs nothing."""
    for candidate in wanted:
        made = candidate.network()
        means = [float(np.mean(shop.psnr_db(candidate.name, candidate.runtime, made.path, images))) for images in sets]
        spent = made.facts.get("cpu_seconds", 0.0)
        print(f"{candidate.name:<20}{'  '.join(f'{mean:.3f}' for mean in means)} dB  {spent:.0f} CPU s", flush=True)


def timed(shop: Workshop, wanted: list[Candidate], samples: int) -> dict[str, Latency]:
    """All candidates in one session, in turns, whichever runtime they are for."""
    runnables = {c.name: shop.load(c.runtime, c.network().path) for c in wanted}
    inputs = dict.fromkeys(runnables, shop.example.contiguous().numpy())
    try:
        return measure(runnables, inputs, MeasureProtocol(samples=samples), SystemClock())
    finally:
        for runnable in runnables.values():
            runnable.close()


def record(rows: list[Row], sets: list[TestSet], shop: Workshop, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the JSON line says."""
    return {
        "machine": machine(*PACKAGES),
        "images": {images.label: len(images.images) for images in sets},
        "degraded_psnr_db": {images.label: shop.degraded_db(images) for images in sets},
        "recipe": shop.recipe.model_dump(),
        "samples": arguments.samples,
        "front": {
            images.label: {runtime: joint_front(rows, images.label, runtime) for runtime in TEACHERS} for images in sets
        },
        "candidates": [asdict(row) for row in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="finished run folder of the demo preset")
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps every candidate")
    parser.add_argument("--root", type=Path, help="a folder whose test/ holds more sharp photographs to score on")
    parser.add_argument("--scratch", action="append", default=[], metavar="NAME=FILE", help="weights of netgraft train")
    parser.add_argument("--only", help="names of candidates, separated by commas")
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning, the same for all")
    parser.add_argument("--refit-seconds", type=float, help="processor time of the refit; by default worked out")
    parser.add_argument("--samples", type=int, default=40, help="timing samples of each network")
    parser.add_argument("--image", type=Path, default=IMAGE, help="where the plot goes")
    step = parser.add_mutually_exclusive_group()
    step.add_argument("--prepare-only", action="store_true", help="make and score, do not time")
    step.add_argument("--measure-only", action="store_true", help="time and show what is there, make nothing")
    step.add_argument("--show-only", action="store_true", help="table and plot of the last session")
    arguments = parser.parse_args()

    shop = Workshop(arguments.out, DataConfig(), FinetuneConfig(steps=arguments.steps))
    sets = [TestSet("embedded", DataConfig())]
    if arguments.root:
        sets.append(TestSet("full", DataConfig(source="sharp", root=arguments.root)))
    scratch = {name: Path(file) for name, _, file in (entry.partition("=") for entry in arguments.scratch)}
    wanted = Candidates(shop, arguments.run, scratch, arguments.refit_seconds).all()
    if arguments.only:
        names = arguments.only.split(",")
        unknown = set(names) - {candidate.name for candidate in wanted}
        if unknown:
            sys.exit(f"no candidate {', '.join(sorted(unknown))}: there are {', '.join(c.name for c in wanted)}")
        wanted = [candidate for candidate in wanted if candidate.name in names]
    if not (arguments.measure_only or arguments.show_only):
        prepare(shop, wanted, sets)
    if arguments.prepare_only:
        return
    shop.frozen = True
    there = [candidate for candidate in wanted if shop.has(candidate.network)]
    session = shop.store.root / "latency.json"
    if not arguments.show_only:
        measured = timed(shop, there, arguments.samples)
        shop.store.write(session, json.dumps({name: asdict(ms) for name, ms in measured.items()}, indent=1).encode())
    latencies = {name: Latency(**row) for name, row in json.loads(session.read_text()).items()}
    rows = rows_of(shop, [candidate for candidate in there if candidate.name in latencies], latencies, sets)
    for images in sets:
        print_table(rows, images.label, shop.degraded_db(images))
    tables = [f"{images.label}\n\n{markdown(rows, images.label)}\n" for images in sets]
    shop.store.write(shop.store.root / "tables.md", "\n".join(tables).encode())
    draw(rows, sets[-1].label, len(sets[-1].images), arguments.image)
    print(json.dumps(record(rows, sets, shop, arguments)))


if __name__ == "__main__":
    main()
