"""How well the latency of a whole network is known from its blocks, before and after correction.

    python benchmarks/latency_additivity.py --run runs/demo --device onnxruntime --networks 60

The blocks of the run's operators are measured on the device, then random assignments are measured whole, in turns
with the teacher and in the same session: a third uniform, a third near the teacher, a third near the front in the run's
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
from machine import machine
from rich.console import Console
from rich.table import Table

from netgraft.assemble import Assignment
from netgraft.config import parse_config
from netgraft.devices import Latency, Unsupported
from netgraft.latency import LatencyTable, agreement
from netgraft.latency_model import fit, left_out_ms
from netgraft.nets.load import load_teacher
from netgraft.sites import Site, find_sites
from netgraft.stages import Run
from netgraft.store import RunStore

CURVE = (3, 5, 10, 20, 40)
DRAWS = 20
"""Random subsets for each point of the learning curve."""
FEWEST_LEFT = 10
"""Networks that a point of the learning curve must leave to be judged by."""
FOLDS = 5


def gather(folder: Path, settings: dict[str, Any], networks: int, samples: int, seed: int) -> dict[str, Any]:
    """The table and whole networks, measured now. settings: what replaces the run's own in its ``device`` table."""
    config = parse_config(json.loads((folder / "config.json").read_text()), str(folder / "config.json"))
    config = config.model_copy(update={"device": config.device.model_copy(update=settings)})
    run = Run(config, RunStore(folder), lambda stage, done, total: print(f"\r{stage} {done}/{total}   ", end=""))
    start = time.monotonic()
    run.bench.block_sessions = run.bench.measure_blocks()
    tabled = time.monotonic()
    drawn = {str(number): row for number, row in enumerate(draw(run, folder, networks, seed))}
    measured = run.bench.measure_assignments(drawn, samples)
    table = run.bench.table_of(run.bench.block_sessions, measured)
    refused = sorted(name for name in drawn if isinstance(measured[name], Unsupported))
    print(f"\n{len(refused)} of {networks} networks diverged and were left out: {refused}" if refused else "")
    return {
        "table": table.to_json(),
        "networks": [
            {"assignment": assignment, "latency": dataclasses.asdict(entry)}
            for name, assignment in drawn.items()
            if isinstance(entry := measured[name], Latency)
        ],
        "device": run.bench.device.description.as_dict(),
        "seconds": {"table": tabled - start, "networks": time.monotonic() - tabled},
    }


def draw(run: Run, folder: Path, networks: int, seed: int) -> list[Assignment]:
    """Distinct assignments: uniform, few changes to the teacher, few changes to a member of the front, by turns."""
    rng = np.random.default_rng([seed, 2026])
    options = run.bench.runnable
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


def study(found: dict[str, Any], folder: Path, clock: str) -> dict[str, Any]:
    """Errors of the predictions for networks that the correction was not fitted to."""
    table = table_by_clock(LatencyTable.from_json(found["table"]), clock)
    sites = teacher_sites(folder, table)
    assignments = [row["assignment"] for row in found["networks"]]
    measured = np.array([by_clock(Latency(**row["latency"]), clock).median_ms for row in found["networks"]])
    raw = np.array([table.additive_ms(assignment) for assignment in assignments])
    corrected = left_out_ms(table, sites, assignments, measured.tolist(), folds=FOLDS)
    whole = fit(table, sites, assignments, measured.tolist())
    return {
        "networks": len(measured),
        "contended": float(np.median([row["latency"]["contended"] for row in found["networks"]])),
        "raw": dataclasses.asdict(agreement(raw, measured)),
        "corrected": dataclasses.asdict(agreement(corrected, measured)),
        "additive": whole.additive,
        "terms": len(whole.corrections),
        "learning_curve": learning_curve(table, sites, assignments, measured),
        "pairs": np.column_stack([raw, corrected, measured]).round(3).tolist(),
    }


def teacher_sites(folder: Path, table: LatencyTable) -> tuple[Site, ...]:
    """The sites of the run's teacher at the table's size."""
    config = parse_config(json.loads((folder / "config.json").read_text()), str(folder / "config.json"))
    return find_sites(load_teacher(config.teacher.path).module, table.size)


def learning_curve(
    table: LatencyTable, sites: tuple[Site, ...], assignments: list[Assignment], measured: np.ndarray
) -> list[dict[str, float]]:
    """Errors on all other networks after fitting to random subsets, by their size."""
    rng, curve = np.random.default_rng(0), []
    for count in CURVE:
        if count > len(measured) - FEWEST_LEFT:
            break
        errors, ranks = [], []
        for _ in range(DRAWS):
            order = rng.permutation(len(measured))
            seen, unseen = order[:count], order[count:]
            model = fit(table, sites, [assignments[i] for i in seen], measured[seen].tolist())
            predicted = model.predict_ms([assignments[i] for i in unseen])
            judged = agreement(predicted, measured[unseen], resamples=1)
            errors.append(judged.mape_percent)
            ranks.append(judged.spearman)
        low, high = np.quantile(errors, [0.025, 0.975]).tolist()
        curve.append(
            {
                "networks": count,
                "mape_percent": float(np.mean(errors)),
                "mape_low": low,
                "mape_high": high,
                "spearman": float(np.mean(ranks)),
            }
        )
    return curve


def show(result: dict[str, Any], device: dict[str, Any], clock: str) -> None:
    title = f"{result['networks']} networks, {device['backend']} {device['backend_version']}, {clock} clock"
    table = Table(title=title)
    for column in ("prediction", "MAPE %", "95 %", "Spearman", "95 %"):
        table.add_column(column, justify="left" if column == "prediction" else "right")
    for name in ("raw", "corrected"):
        row = result[name]
        low, high = row["mape_interval"]
        least, most = row["spearman_interval"]
        cells = (f"{row['mape_percent']:.2f}", f"{low:.2f} to {high:.2f}")
        table.add_row(name, *cells, f"{row['spearman']:.3f}", f"{least:.3f} to {most:.3f}")
    for row in result["learning_curve"]:
        error, low, high = (row[name] for name in ("mape_percent", "mape_low", "mape_high"))
        name = f"fitted to {row['networks']} networks"
        table.add_row(name, f"{error:.2f}", f"{low:.2f} to {high:.2f}", f"{row['spearman']:.3f}", "")
    table.caption = (
        f"{'a sum over sites' if result['additive'] else 'with terms for neighbors'}, {result['terms']} terms"
    )
    Console().print(table)


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
    result = study(found, args.run, args.clock)
    show(result, found["device"], args.clock)
    package = args.device if args.device in ("onnxruntime", "openvino") else "numpy"
    record = {"clock": args.clock, "device": found["device"], "seconds": found["seconds"], **result}
    print(json.dumps(machine(package) | record))


if __name__ == "__main__":
    main()
