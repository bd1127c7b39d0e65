"""How well the latency of a whole network is known from its blocks, before and after correction.

    python benchmarks/latency_additivity.py --run runs/demo --device onnxruntime --networks 60

The latency table of the run's operators is measured on the device, then random assignments are measured whole, in
turns and in the same session: a third uniform, a third near the teacher, a third near the front in the run's
``result.json``. Errors are those of networks that the correction was not fitted to: by turns all but a fifth of them
are fitted to (raw and corrected figures), and random subsets of 3, 5, 10, 20 and 40 (learning curve). Intervals are
95 % bootstrap intervals over networks. Prints a table and one JSON line. ``--keep FILE`` keeps what was measured, and
judges it again without measuring when the file is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from netgraft.assemble import Assignment
from netgraft.config import parse_config
from netgraft.devices import Latency, Unsupported
from netgraft.latency import LatencyTable
from netgraft.stages import Run
from netgraft.store import RunStore


def gather(folder: Path, settings: dict[str, Any], networks: int, samples: int, seed: int) -> dict[str, Any]:
    """The table and whole networks, measured now. settings: what replaces the run's own in its ``device`` table."""
    config = parse_config(json.loads((folder / "config.json").read_text()), str(folder / "config.json"))
    config = config.model_copy(update={"device": config.device.model_copy(update=settings)})
    run = Run(config, RunStore(folder), lambda stage, done, total: print(f"\r{stage} {done}/{total}   ", end=""))
    start = time.monotonic()
    run.latency_table = run.measure_table()
    tabled = time.monotonic()
    drawn = {str(number): row for number, row in enumerate(draw(run, folder, networks, seed))}
    measured = run.measure_assignments(drawn, samples)
    refused = sorted(name for name, entry in measured.items() if isinstance(entry, Unsupported))
    print(f"\n{len(refused)} of {networks} networks diverged and were left out: {refused}" if refused else "")
    return {
        "table": run.latency_table.to_json(),
        "networks": [
            {"assignment": drawn[name], "latency": dataclasses.asdict(entry)}
            for name, entry in measured.items()
            if isinstance(entry, Latency)
        ],
        "device": run.device.description.as_dict(),
        "seconds": {"table": tabled - start, "networks": time.monotonic() - tabled},
    }


def draw(run: Run, folder: Path, networks: int, seed: int) -> list[Assignment]:
    """Distinct assignments: uniform, few changes to the teacher, few changes to a member of the front, by turns."""
    rng = np.random.default_rng([seed, 2026])
    options = {site.path: names for site, names in zip(run.space.sites, run.space.options, strict=True)}
    front = [row["assignment"] for row in json.loads((folder / "result.json").read_text())["front"]]

    def changed(start: Assignment, count: int) -> dict[str, str]:
        row = {path: start.get(path, "keep") for path in options}
        row = {path: name if name in options[path] else "keep" for path, name in row.items()}
        for path in rng.choice(list(options), count, replace=False).tolist():
            row[path] = str(rng.choice(options[path]))
        return row

    drawn: dict[str, dict[str, str]] = {}
    for number in range(networks * 2):
        kind = number % 3
        start = {} if kind < 2 else front[int(rng.integers(len(front)))]
        most = len(options) if kind == 0 else min(len(options), 12 if kind == 1 else 6)
        row = changed(start, most if kind == 0 else int(rng.integers(1, most + 1)))
        drawn.setdefault(json.dumps(row, sort_keys=True), row)
        if len(drawn) == networks:
            break
    return list(drawn.values())


def by_clock(latency: Latency, clock: str) -> Latency:
    """The same with the median of the clock that is asked for in the median's place."""
    return latency if clock == "wall" else dataclasses.replace(latency, median_ms=latency.cpu_median_ms)


def table_by_clock(table: LatencyTable, clock: str) -> LatencyTable:
    entries = {key: by_clock(row, clock) if isinstance(row, Latency) else row for key, row in table.entries.items()}
    return dataclasses.replace(table, entries=entries, teacher=by_clock(table.teacher, clock))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--device", default="onnxruntime")
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--samples", type=int, default=8, help="timing samples of each whole network")
    parser.add_argument("--table-samples", type=int, default=20, help="timing samples of each block")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu where the machine is busy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="file for the measurements; read if it is there")
    args = parser.parse_args()
    if args.keep and args.keep.exists():
        found = json.loads(args.keep.read_text())
    else:
        settings = {"name": args.device, "samples": args.table_samples, "whole_samples": args.samples}
        found = gather(args.run, settings, args.networks, args.samples, args.seed)
        if args.keep:
            args.keep.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
