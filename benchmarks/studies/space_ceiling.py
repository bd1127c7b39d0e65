"""The most that a space can save, before anything is searched: every site takes its cheapest operator.

    python -m benchmarks.studies.space_ceiling runs/demo [--samples 20]

Spaces: the paper's eight one-block stages with the most salient stage, the 4th encoder, protected; the same with that
stage open as a ninth site, replaced as a whole; every block a site of its own, with and without the most salient one
protected; blocks, downs and ups. MACs are counted; latencies are sums of the run's latency table, and with
``--samples`` the cheapest network of each space is also measured whole. Whether such a network is any good is not
asked here: the ceiling only says what no search in that space can exceed. Each ceiling is given with and without the
operator that removes a block (drop).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from benchmarks.studies.students import fresh_surrogates, student
from benchmarks.studies.study import GRAY, PINK, TEAL, Study, figure
from matplotlib.figure import Figure

from netgraft.nets.blocks import deploy
from netgraft.nets.macs import count_macs
from netgraft.operators import options_for
from netgraft.sites import KEEP, Site, paper_sites
from netgraft.stages import Run

REMOVES = "drop"
"""The operator that leaves nothing of a block."""


@dataclass(frozen=True)
class Places:
    """A space: groups of sites; the sites of a group change together."""

    name: str
    groups: tuple[tuple[Site, ...], ...]

    @property
    def open(self) -> list[Site]:
        return [site for group in self.groups for site in group]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=0, help="timing samples of each whole network; 0 measures none")


def main() -> None:
    study = Study("space_ceiling", __doc__ or "", options)
    # Nothing is protected but by the spaces themselves.
    space = study.config.space.model_copy(update={"protect_top": 0, "protect": (), "sites": "all"})
    study.run = run = study.run_with(study.config.model_copy(update={"space": space}))
    macs = study.unit("macs", {"operators": list(run.pool)}, partial(_macs, run))
    records = []
    for places in spaces(run):
        for without in ((), (REMOVES,)):
            records.append(_ceiling(run, macs, places, without))
    if study.args.samples:
        key = {"samples": study.args.samples, "device": run.bench.device.description.as_dict()}
        measured = study.unit("measured", key, partial(_measured, study, records))
        for number, row in enumerate(records):
            row["measured_ms"] = measured[str(number)]
            row["measured_saving_percent"] = 100 * (1 - measured[str(number)][0] / measured["teacher"][0])
    columns = ["space", "sites", "assignments", "MACs saved", "latency saved", "fastest, ms", "speed-up"]
    if study.args.samples:
        columns.append("latency saved, measured")
    rows = []
    for row in records:
        cells = [
            row["space"] + ("" if row["drop"] else ", no drop"),
            str(row["sites"]),
            f"10^{row['log10_assignments']:.1f}",
            f"{row['mac_saving_percent']:.1f} %",
            f"{row['latency_saving_percent']:.1f} %",
            f"{row['fastest_ms']:.1f}",
            f"{row['speedup']:.1f}",
        ]
        rows.append(cells + ([f"{row['measured_saving_percent']:.1f} %"] if study.args.samples else []))
    record = {
        "teacher": {"macs": sum(macs["whole"].values()), "latency_ms": run.bench.latency_table.teacher.median_ms},
        "latency_device": dict(run.bench.latency_table.device),
        "rest_ms": run.bench.latency_table.rest_ms,
        "spaces": [{k: v for k, v in row.items() if k != "assignment"} for row in records],
    }
    device = run.bench.latency_table.device
    timed_on = f"latency: {device['backend']}, {device['threads']} thread(s), {run.config.size[0]}x{run.config.size[1]}"
    study.finish(columns, rows, record, _draw(records, timed_on))


def spaces(run: Run) -> list[Places]:
    """The spaces that are compared."""
    blocks = [site for site in run.sites if site.kind == "block"]
    small = paper_sites(run.sites)
    long = tuple(site for site in blocks if site not in small)
    # As in the paper, a stage's saliency is the sum over its weights; as a run does it, the blocks' own decides.
    scores = run.saliency[run.config.space.protect_by]
    top = max(blocks, key=lambda site: scores[run.sites.index(site)])

    def alone(sites: Sequence[Site]) -> tuple[tuple[Site, ...], ...]:
        return tuple((site,) for site in sites)

    return [
        Places(f"{len(small)} one-block stages (paper)", alone(small)),
        Places(f"{len(small) + 1} stages, none protected", (*alone(small), long)),
        Places(f"{len(blocks) - 1} blocks, top one protected", alone([site for site in blocks if site != top])),
        Places(f"{len(blocks)} blocks", alone(blocks)),
        Places(f"{len(run.sites)}: blocks, downs and ups", alone(run.sites)),
    ]


def _macs(run: Run) -> dict[str, dict[str, int]]:
    """MACs of every operator at every site, and of the teacher's parts outside of its sites."""
    found: dict[str, dict[str, int]] = {}
    for site in run.sites:
        block = run.teacher.module.get_submodule(site.path)
        size = (run.config.size[0] // site.stride, run.config.size[1] // site.stride)
        found[site.path] = {KEEP: site.macs}
        for name in options_for(site, run.pool)[1:]:
            module = deploy(run.pool[name].start(block, site))
            found[site.path][name] = count_macs(module, size, site.in_channels)
    whole = count_macs(run.teacher.module, run.config.size)
    sites = {site.path: site.macs for site in run.sites}
    return found | {"whole": sites | {"rest": whole - sum(sites.values())}}


def _ceiling(run: Run, macs: dict[str, dict[str, int]], places: Places, without: tuple[str, ...]) -> dict[str, object]:
    table = run.bench.latency_table
    choices = {site.path: [n for n in options_for(site, run.pool) if n not in without] for site in places.open}

    def cheapest(cost: Callable[[str, str], float]) -> dict[str, str]:
        chosen = {}
        for group in places.groups:
            names = choices[group[0].path]
            best = min(names, key=lambda name, group=group: sum(cost(site.path, name) for site in group))
            chosen |= {site.path: best for site in group}
        return chosen

    whole = macs["whole"]
    fewest = cheapest(lambda path, name: macs[path][name])
    fastest = cheapest(table.operator_ms)
    least = sum(whole.values()) - sum(whole[path] - macs[path][name] for path, name in fewest.items())
    fastest_ms = table.additive_ms(fastest)
    return {
        "space": places.name,
        "drop": not without,
        "sites": len(places.groups),
        "log10_assignments": sum(math.log10(len(choices[group[0].path])) for group in places.groups),
        "mac_saving_percent": 100 * (1 - least / sum(whole.values())),
        "latency_saving_percent": 100 * (1 - fastest_ms / table.teacher.median_ms),
        "fastest_ms": fastest_ms,
        "speedup": table.teacher.median_ms / fastest_ms,
        "assignment": fastest,
    }


def _measured(study: Study, records: list[dict[str, object]]) -> dict[str, list[float]]:
    # What they compute is of no account here: only their shapes are timed.
    surrogates = fresh_surrogates(study.run)
    networks = {str(i): student(study.run, row["assignment"], surrogates) for i, row in enumerate(records)}  # type: ignore[arg-type]
    return study.latencies_ms({"teacher": study.run.teacher.module} | networks, study.args.samples)


def _draw(records: list[dict[str, Any]], timed_on: str) -> Figure:
    fig, axes = figure(9, 4.6)
    names = list(dict.fromkeys(row["space"] for row in records))
    y, height = np.arange(len(names)), 0.36
    parts = (("mac_saving_percent", TEAL, "MACs", -height / 2), ("latency_saving_percent", PINK, "latency", height / 2))
    for figure_name, color, label, shift in parts:
        with_drop = [next(r[figure_name] for r in records if r["space"] == n and r["drop"]) for n in names]
        without = [next(r[figure_name] for r in records if r["space"] == n and not r["drop"]) for n in names]
        axes.barh(y + shift, with_drop, height, color=color, alpha=0.4, label=f"{label}, blocks may be dropped")
        axes.barh(y + shift, without, height, color=color, label=f"{label}, every block replaced, none dropped")
        for place, value in zip(y + shift, with_drop, strict=True):
            axes.text(value + 0.8, place, f"{value:.0f}", va="center", fontsize=8.5, color=GRAY)
        for place, value in zip(y + shift, without, strict=True):
            axes.text(value - 0.8, place, f"{value:.0f}", va="center", ha="right", fontsize=8.5, color="white")
    axes.set_yticks(y, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xlabel(f"largest possible saving, % of the teacher ({timed_on})")
    axes.set_title("What no search in a space can exceed", loc="left", fontsize=11)
    axes.legend(fontsize=8.5, loc="upper center", bbox_to_anchor=(0.4, -0.16), ncols=2)
    return fig


if __name__ == "__main__":
    main()
