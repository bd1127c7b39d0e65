"""How well a new device's latency table is predicted from a few probes and the tables of the other devices.

    python benchmarks/latency_transfer.py [--folder runs/latency_transfer] [--devices onnxruntime,litert:int8]
    python benchmarks/latency_transfer.py --judge benchmarks/results/latency_transfer.json

Every operator at every shape of site of the embedded network is measured once on every device that this machine has,
resumably: the folder keeps what was measured. Then each device by turns is new: its table is predicted from 3, 5, 10
and 20 probes on it and the tables of the others (``--leave device``), or of those with another software (``--leave
backend``), so that a U55 is not known from a U65. Rows:

    transfer        probes chosen by what they tell
    random probes   the same model, probes at random, mean of several draws
    features only   chosen probes; nothing of the other devices but how strongly features count
    equal mix       the mean of the others, no probe

Spearman is that of the whole table, probes among it; the error is the median one of the entries that were not probed.
For the regret the front of (quality loss, sum of the sites' latencies) is found exactly with the predicted table and
judged with the measured one: how much slower than the best assignment within the same loss is the one that the search
picks, mean over three loss budgets, and the share of the true front's hypervolume. The losses are made up, drawn at
random for each site and operator, mean over a few draws. Latencies are processor-time medians, since wall times of a
busy machine are no one's; those of NPUs are their compiler's estimates. Prints a table and one JSON line; ``--judge``
judges the tables in such a line, measuring nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from rich.console import Console
from rich.table import Table

from netgraft.config import DeviceConfig, RunConfig
from netgraft.devices import Latency, Unsupported, describe_devices
from netgraft.latency import LatencyTable
from netgraft.latency_transfer import BlockFeatures, Entry, block_features, learn, spearman
from netgraft.nets.footprint import Footprint
from netgraft.nets.load import load_teacher
from netgraft.operators import OPERATORS, options_for
from netgraft.search import hypervolume
from netgraft.search.additive import AdditiveModel, exact_front
from netgraft.sites import KEEP, Site, find_sites
from netgraft.stages import Run
from netgraft.store import RunStore

PROBES = (3, 5, 10, 20)
DRAWS = 5
"""Random choices of probes."""
LOSSES = 3
"""Draws of the made-up losses."""
BUDGETS = (0.1, 0.25, 0.5)
"""Loss budgets, as shares of the largest loss on the true front."""
LIMIT = 200
"""Points of a partial front."""
ENOUGH = 0.95
Values = Mapping[Entry, float]


def gather(name: str, folder: Path, samples: int) -> LatencyTable:
    """A device's table, measured where the folder does not hold it."""
    store = RunStore(folder / name.replace(":", "_"))
    kept = store.root / "table.json"
    if not kept.exists():
        config = RunConfig(device=DeviceConfig(name=name, samples=samples))
        run = Run(config, store, lambda stage, done, total: print(f"\r{name} {stage} {done}/{total}   ", end=""))
        table = run.bench.table_of(run.bench.block_sessions, run.bench.measure_assignments({}, samples))
        store.write(kept, table.to_json().encode())
    return LatencyTable.from_json(kept.read_text())


def by_processor_time(table: LatencyTable) -> LatencyTable:
    def turned(entry: Latency) -> Latency:
        return dataclasses.replace(entry, median_ms=entry.cpu_median_ms)

    entries = {key: turned(row) if isinstance(row, Latency) else row for key, row in table.entries.items()}
    return dataclasses.replace(table, entries=entries, teacher=turned(table.teacher))


def all_features(sites: Sequence[Site], size: tuple[int, int]) -> dict[Entry, BlockFeatures]:
    module, found = load_teacher().module, {}
    for site in {site.shape_key: site for site in sites}.values():
        block, inner = module.get_submodule(site.path), (size[0] // site.stride, size[1] // site.stride)
        for name in options_for(site, OPERATORS):
            made = block if name == KEEP else OPERATORS[name].start(block, site)
            found[site.shape_key, name] = block_features(site, name, Footprint.of(made, inner, site.in_channels), size)
    return found


class Searches:
    """Exact fronts with one table, judged with another."""

    def __init__(self, sites: Sequence[Site], true: Values) -> None:
        self.options = [[(site.shape_key, name) for name in options_for(site, OPERATORS)] for site in sites]
        self.options = [[entry for entry in row if entry in true] for row in self.options]
        rng = np.random.default_rng(0)
        self.losses = [[self._loss(row, rng) for row in self.options] for _ in range(LOSSES)]
        self.true = true
        self.fronts = [self._front(losses, true) for losses in self.losses]

    @staticmethod
    def _loss(row: list[Entry], rng: np.random.Generator) -> np.ndarray:
        """dB of the options of one site: none where an operator equals the teacher's, most where nothing is left."""
        sizes = rng.lognormal(-3, 0.7) * rng.lognormal(0, 0.7, len(row))
        names = [name for _, name in row]
        exact = np.array([name == KEEP or OPERATORS[name].learning == "exact" for name in names])
        return np.where(exact, 0.0, sizes * np.where(np.array(names) == "drop", 3.0, 1.0))

    def _costs(self, losses: list[np.ndarray], values: Values) -> list[np.ndarray]:
        latencies = [np.array([values[entry] for entry in row]) for row in self.options]
        return [np.column_stack(pair) for pair in zip(losses, latencies, strict=True)]

    def _front(self, losses: list[np.ndarray], values: Values) -> np.ndarray:
        """(k, 2) loss and true latency of the assignments that are the front by these latencies, by loss."""
        believed = self._costs(losses, values)
        model = AdditiveModel(sum(cost[0] for cost in believed), tuple(cost - cost[0] for cost in believed))
        rows = exact_front(model, limit=LIMIT)
        actual = self._costs(losses, self.true)
        costs = sum(cost[rows[:, site]] for site, cost in enumerate(actual))
        # The fastest that is believed to be within a budget is the last one, by loss.
        return costs[np.argsort(costs[:, 0], kind="stable")]

    def judge(self, values: Values) -> tuple[float, float]:
        """Regret in percent, and share of the hypervolume."""
        regrets, shares = [], []
        for losses, best in zip(self.losses, self.fronts, strict=True):
            found = self._front(losses, values)
            for share in BUDGETS:
                budget = share * best[:, 0].max() + 1e-9
                picked, fastest = found[found[:, 0] <= budget][-1, 1], best[best[:, 0] <= budget][:, 1].min()
                regrets.append(100 * (picked / fastest - 1))
            reference = np.array([1.01 * best[:, 0].max(), 1.01 * sum(self.true[row[0]] for row in self.options)])
            shares.append(hypervolume(found, reference) / hypervolume(best, reference))
        return float(np.mean(regrets)), float(np.mean(shares))


def judged(values: Values, true: Values, searches: Searches, probed: Sequence[Entry] = ()) -> dict[str, float]:
    """A predicted table against the measured one."""
    left = [entry for entry in true if entry not in probed]
    errors = [100 * abs(values[entry] / true[entry] - 1) for entry in left]
    regret, share = searches.judge(values)
    return {
        "spearman": spearman(np.array([values[e] for e in true]), np.array(list(true.values()))),
        "unseen_spearman": spearman(np.array([values[e] for e in left]), np.array([true[e] for e in left])),
        "unseen_error_percent": float(np.median(errors)),
        "unseen_mape_percent": float(np.mean(errors)),
        "regret_percent": regret,
        "hypervolume": share,
    }


def with_new(
    table: LatencyTable, base: Sequence[LatencyTable], features: Mapping[Entry, BlockFeatures], sites: Sequence[Site]
) -> list[dict[str, Any]]:
    """One row for each method and number of probes on a device that is not among the base."""
    mixed, alone = learn(base, features), learn(base, features, mix=False)
    runs = {key: entry.median_ms for key, entry in table.entries.items() if isinstance(entry, Latency)}
    runs = {key: ms for key, ms in runs.items() if ms > 0}
    true = {entry: runs[entry] for entry in mixed.entries if entry in runs}
    searches, entries = Searches(sites, true), list(true)
    # The mean of the others, on the scale of the device, so that errors mean something; ranks do not depend on it.
    mean = dict(zip(mixed.entries, np.exp(mixed.mean), strict=True))
    scale = float(np.median([true[entry] / mean[entry] for entry in entries]))
    equal = judged({entry: scale * mean[entry] for entry in entries}, true, searches)
    rows: list[dict[str, Any]] = [{"method": "equal mix", "probes": 0, **equal}]
    for count in PROBES:
        for method, model in (("transfer", mixed), ("features only", alone)):
            wanted = [entry for entry in model.choose_probes(len(model.entries)) if entry in true][:count]
            found = model.predict({entry: true[entry] for entry in wanted})
            names = ("good_enough", "expected_spearman", "misfit", "left_out_error_percent", "left_out_spearman")
            row = judged(found.median_ms, true, searches, wanted) | {name: getattr(found, name) for name in names}
            rows.append({"method": method, "probes": count, **row})
        drawn = []
        for seed in range(DRAWS):
            order = np.random.default_rng([seed, count]).permutation(len(entries))[:count]
            wanted = [entries[i] for i in order]
            found = mixed.predict({entry: true[entry] for entry in wanted})
            drawn.append(judged(found.median_ms, true, searches, wanted))
        average = {name: float(np.mean([row[name] for row in drawn])) for name in drawn[0]}
        rows.append({"method": "random probes", "probes": count, **average})
    return rows


def study(
    tables: Mapping[str, LatencyTable], features: Mapping[Entry, BlockFeatures], sites: Sequence[Site], leave: str
) -> list[dict[str, Any]]:
    """Every device by turns as the new one."""
    rows: list[dict[str, Any]] = []
    for new, table in tables.items():
        base = [
            tables[name]
            for name in tables
            if (name != new if leave == "device" else name.partition(":")[0] != new.partition(":")[0])
        ]
        rows += [{"device": new, **row} for row in with_new(table, base, features, sites)]
        print(f"{leave}: {new} judged", flush=True)
    return rows


def show(rows: list[dict[str, Any]], leave: str) -> None:
    devices = list(dict.fromkeys(row["device"] for row in rows))
    table = Table(title=f"{len(devices)} devices, each left out with its {leave}; mean (worst) over them")
    for column in (
        "method",
        "probes",
        "Spearman",
        ">= .95",
        "error %",
        "regret %",
        "hypervolume",
        "verdict: yes, wrong yes",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["probes"]), []).append(row)
    for (method, count), group in sorted(groups.items()):
        ranks, errors, regrets, shares = (
            [row[name] for row in group]
            for name in ("spearman", "unseen_error_percent", "regret_percent", "hypervolume")
        )
        verdict = ""
        if "good_enough" in group[0]:
            yes = [row for row in group if row["good_enough"]]
            verdict = f"{len(yes)}, {sum(row['spearman'] < ENOUGH for row in yes)}"
        table.add_row(
            method,
            str(count),
            f"{np.mean(ranks):.3f} ({min(ranks):.3f})",
            f"{sum(rank >= ENOUGH for rank in ranks)}/{len(ranks)}",
            f"{np.mean(errors):.1f} ({max(errors):.1f})",
            f"{np.mean(regrets):.1f} ({max(regrets):.1f})",
            f"{np.mean(shares):.3f} ({min(shares):.3f})",
            verdict,
        )
    Console(width=130).print(table)


def unrecorded(name: str, row: dict[str, Any], sites: Sequence[Site], size: tuple[int, int]) -> LatencyTable:
    """A table from a record."""

    def latency(ms: float) -> Latency:
        return Latency(median_ms=ms, q25_ms=ms, q75_ms=ms, cpu_median_ms=ms, runs=1, contended=0.0)

    entries: dict[Entry, Latency | Unsupported] = {}
    for shape, operators in row["entries"].items():
        for operator, ms in operators.items():
            entries[shape, operator] = Unsupported("recorded so") if ms is None else latency(ms)
    return LatencyTable(
        device=row["device"],
        size=size,
        protocol={},
        site_keys={site.path: site.shape_key for site in sites},
        entries=entries,
        teacher=latency(row["teacher_ms"]),
    )


def recorded(table: LatencyTable) -> dict[str, Any]:
    """What :func:`unrecorded` takes."""
    entries: dict[str, dict[str, float | None]] = {}
    for (shape, operator), entry in table.entries.items():
        ms = None if isinstance(entry, Unsupported) else float(f"{entry.median_ms:.5g}")
        entries.setdefault(shape, {})[operator] = ms
    return {"device": dict(table.device), "teacher_ms": round(table.teacher.median_ms, 3), "entries": entries}


def here() -> list[str]:
    """The devices that this machine has, of those that are a software and a machine of their own."""
    return [row.name for row in describe_devices() if row.available and row.name != "fake"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/latency_transfer"), help="keeps what was measured")
    parser.add_argument("--devices", help="names, separated by commas; by default all that are here but the fake one")
    parser.add_argument("--samples", type=int, default=6, help="timing samples of each block")
    parser.add_argument("--leave", choices=("device", "backend", "both"), default="both")
    parser.add_argument("--judge", type=Path, help="a record of this benchmark: judge its tables, measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = RunConfig().size
    sites = find_sites(load_teacher().module, size)
    if arguments.judge:
        record = json.loads(arguments.judge.read_text())
        tables = {name: unrecorded(name, row, sites, size) for name, row in record["tables"].items()}
        machines = record["machine"]
    else:
        names = arguments.devices.split(",") if arguments.devices else here()
        tables = {name: by_processor_time(gather(name, arguments.folder, arguments.samples)) for name in names}
        machines = machine("onnxruntime", "scipy")
    features = all_features(sites, size)
    rows = {}
    for leave in ("device", "backend") if arguments.leave == "both" else (arguments.leave,):
        rows[leave] = study(tables, features, sites, leave)
        show(rows[leave], leave)
    found = [(key, row) for table in tables.values() for key, row in table.entries.items()]
    refused = sorted({key for key, row in found if isinstance(row, Unsupported)})
    print(
        json.dumps(
            {
                "machine": machines,
                "clock": "processor time, median; an NPU's is its compiler's estimate",
                "samples": arguments.samples,
                "size": size,
                "entries": len(next(iter(tables.values())).entries),
                "refused_somewhere": refused,
                "losses": "made up",
                "rows": rows,
                "tables": {name: recorded(table) for name, table in tables.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
