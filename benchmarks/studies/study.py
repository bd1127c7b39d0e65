"""What all studies share: their run folder and arguments, units that are kept, and how results are handed out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from benchmarks.machine import machine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn

from netgraft.config import RunConfig, parse_config
from netgraft.data.images import crops_of, fingerprint
from netgraft.devices import Latency, MeasureProtocol, measure_modules
from netgraft.nets.blocks import deploy
from netgraft.saliency import METRICS, saliency
from netgraft.sites import Site
from netgraft.stages import Run
from netgraft.store import RunStore

TEAL, GRAY, PINK, BLUE, AMBER, VIOLET = "#0e9384", "#667085", "#d6457f", "#2e6fd8", "#d98a00", "#7a5af8"
RED = "#b42318"
CYCLE = (TEAL, AMBER, VIOLET, PINK, BLUE, GRAY)
TableOf = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Columns and rows."""
REPOSITORY = Path(__file__).resolve().parents[2]


class Study:
    """One study on a finished run folder; the folder stays locked while it works."""

    def __init__(self, name: str, docstring: str, options: Callable[[argparse.ArgumentParser], None]) -> None:
        parser = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("run", type=Path, help="folder of a finished netgraft run")
        parser.add_argument("--root", type=Path, help="folder with train/, validation/ and test/ of sharp photographs")
        parser.add_argument("--publish", action="store_true", help="write the results into the repository")
        options(parser)
        self.name = name
        self.page = "studies.md"
        self.args = parser.parse_args()
        self.config = parse_config(json.loads((self.args.run / "config.json").read_text()), str(self.args.run))
        self.store = RunStore(self.args.run)
        self._lock = self.store.lock()
        self._lock.__enter__()
        self.run = self.run_with(self.config)

    def run_with(self, config: RunConfig) -> Run:
        """A run of another config in the same folder: what both have in common is made once."""
        return Run(config, self.store)

    @property
    def result(self) -> dict[str, Any]:
        """``result.json`` of the run."""
        return json.loads((self.args.run / "result.json").read_text())

    def unit(self, name: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """A part of the study as plain data; made once for this run, these photographs and this key."""
        full = {"origin": self.run.origin, "distill": self.config.distill.model_dump(), **key}
        if self.args.root is not None:
            full["judged_by"] = fingerprint(
                self.run.config.data.model_copy(update={"source": "sharp", "root": self.args.root})
            )
        return self.store.json(f"studies/{self.name}/{name}", full, make)

    def metrics(self, sites: Sequence[Site], seed: int) -> dict[str, list[float]]:
        """Every saliency metric at every site, on the run's number of training crops."""
        config = self.config
        size = (config.saliency.crop, config.saliency.crop)
        batch = crops_of(config.data, "train", count=config.saliency.crops, size=size, seed=seed)
        return {metric: saliency(self.run.teacher.module, *batch, sites, metric=metric).tolist() for metric in METRICS}

    def latencies_ms(self, networks: Mapping[str, nn.Module], samples: int) -> dict[str, list[float]]:
        """Median and quartiles of whole networks in their deployed form, measured in turns in one session."""
        example = self.run._example()
        timed = measure_modules(
            self.run.bench.device,
            {name: (deploy(network), example) for name, network in networks.items()},
            MeasureProtocol(samples=samples, seed=self.config.seed),
        )
        return {
            name: [t.median_ms, t.q25_ms, t.q75_ms] if isinstance(t, Latency) else [float("nan")] * 3
            for name, t in timed.items()
        }

    def finish(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], record: dict[str, Any], figure: Figure
    ) -> None:
        """Print the table and the JSON line; keep record and picture in the run folder, or publish them."""
        settings = {k: v for k, v in vars(self.args).items() if k not in ("run", "root", "publish")}
        settings["photographs"] = self.config.data.source if self.args.root is None else "sharp folder"
        hand_out(
            self.name,
            {self.name: (columns, rows)},
            {"settings": settings} | record,
            figure,
            page=self.page if self.args.publish else None,
            folder=self.args.run / "studies",
        )


def hand_out(
    name: str,
    tables: Mapping[str, TableOf],
    record: Mapping[str, Any],
    figure: Figure,
    *,
    page: str | None,
    folder: Path,
) -> None:
    """Print the tables and the JSON line of a study; keep record and picture.

    tables: by their marks in the page, columns and rows. page: of the docs; with one, everything goes into the
    repository, else into the folder.
    """
    for columns, rows in tables.values():
        table = Table()
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        Console(width=160).print(table)
    document = {"study": name, **record, "machine": machine("numpy", "scipy", "onnxruntime")}
    line = json.dumps(rounded(document), allow_nan=False)
    picture, kept = folder / f"study_{name}.png", folder / f"study_{name}.json"
    if page is not None:
        picture = REPOSITORY / "docs" / "images" / picture.name
        kept = REPOSITORY / "benchmarks" / "results" / kept.name
        for mark, (columns, rows) in tables.items():
            _into_page(REPOSITORY / "docs" / page, mark, columns, rows)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)
    kept.write_text(json.dumps(json.loads(line), indent=1) + "\n")
    print(line)


def figure(
    width: float = 7.5, height: float = 4.2, panels: int = 1, *, rows: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure of the studies' common look with ``panels`` axes side by side, in ``rows`` of them."""
    plt.rcParams.update(
        {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    )
    fig, axes = plt.subplots(rows, panels, figsize=(width, height), layout="constrained", **options)
    for one in np.atleast_1d(axes).flat:
        one.grid(alpha=0.25)
        one.set_axisbelow(True)
    return fig, axes


def rank_bars(axes: Axes, ranks: Mapping[str, Sequence[float]]) -> None:
    """Rank correlations with their intervals, the largest first."""
    order = sorted(ranks, key=lambda name: -ranks[name][0])
    point, low, high = np.array([ranks[name] for name in order]).T
    axes.errorbar(point, range(len(order)), xerr=[point - low, high - point], fmt="o", color=TEAL, capsize=2)
    axes.set_yticks(range(len(order)), order)
    axes.invert_yaxis()
    axes.axvline(0, color=GRAY, lw=0.8)
    axes.set_xlim(-1.02, 1.02)
    axes.set_xlabel("Spearman's rank correlation with the PSNR really lost")


def rounded(value: Any) -> Any:
    """Plain data with six significant digits, arrays as lists and NaN as null."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [rounded(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def spread(value: float, low_high: Sequence[float], digits: int = 2) -> str:
    """``0.61 [0.40, 0.77]``; a dash for NaN."""
    if np.isnan(value):
        return "-"
    return f"{value:.{digits}f} [{low_high[0]:.{digits}f}, {low_high[1]:.{digits}f}]"


def _into_page(page: Path, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Replace what stands between the marks of this study in the page by the table, as Markdown."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    text = page.read_text()
    if begin not in text or end not in text:
        raise SystemExit(f"{page}: no place for this table; add the lines {begin.strip()} and {end}")
    lines = ["| " + " | ".join(row) + " |" for row in (columns, ["---", *["---:"] * (len(columns) - 1)], *rows)]
    before, _, rest = text.partition(begin)
    page.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2])
