"""Teacher and student of a finished run where they were not trained: other blurs, noise, JPEG, exposure; and attacked.

    netgraft run --preset demo --out runs/demo
    python benchmarks/generalization.py --run runs/demo [--root PHOTOS] [--attacked 15] [--steps 10] [--publish]

Conditions are those of the run's report, on the center crops, at the profiled size, of every embedded test photograph
and of those in PHOTOS/test, through the files as they are delivered. The attack is PGD on the input of the PyTorch
networks in fp32, on the 128x128 center crops of the first --attacked photographs. Every mean has a 95 % bootstrap
interval over photographs; differences are paired. What is finished is kept in the run folder: after a stop the same
command continues. Prints two tables, then one line of JSON; --publish rewrites benchmarks/results/generalization.json,
docs/images/generalization.png and the tables of docs/robustness.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from machine import machine
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from netgraft.data.conditions import conditions_of
from netgraft.data.images import ImagePair, fingerprint, whole_images
from netgraft.errors import StoreError
from netgraft.files import write_atomically
from netgraft.generalization import DEGRADED, NETWORKS, Generalization, condition_psnrs_db
from netgraft.nets.blocks import deploy
from netgraft.robustness import BOUNDS, Robustness, robustness
from netgraft.stages import Run, finished_run

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "robustness.md"
GRAY, TEAL, INK = "#667085", "#0e9384", "#1d2530"
Columns, Rows = Sequence[str], Sequence[Sequence[str]]


def photographs(run: Run, root: Path | None) -> tuple[list[ImagePair], list[Any]]:
    """Embedded and other test photographs, degraded as the run's own, each name once; and what they depend on."""
    data = [run.config.data.model_copy(update={"source": "embedded", "root": None})]
    if root is not None:
        data.append(run.config.data.model_copy(update={"source": "sharp", "root": root}))
    found = {image.name: image for config in data for image in whole_images(config, "test")}
    return list(found.values()), [fingerprint(config) for config in data]


def generalized(run: Run, images: Sequence[ImagePair], key: Mapping[str, Any]) -> Generalization:
    conditions, delivery = conditions_of(run.config.data), run.deliveries[0]

    def score(name: str) -> list[list[float]]:
        def told(done: int) -> None:
            print(f"{name}: condition {done + 1} of {len(conditions)}", file=sys.stderr)

        judge = partial(
            condition_psnrs_db,
            images=images,
            conditions=conditions,
            size=run.config.size,
            seed=run.config.data.seed,
            progress=told,
        )
        if name == DEGRADED:
            return judge(lambda image: image)
        with delivery.restorer(delivery.delivered(name)) as restorer:
            return judge(restorer)

    full = {**key, "conditions": [(row.kind, row.name) for row in conditions], "size": run.config.size}
    psnrs = {
        name: run.store.json(f"benchmarks/generalization/{name}", full | run.network_key(name), partial(score, name))
        for name in NETWORKS
    }
    return Generalization.of(conditions, psnrs, [image.name for image in images], run.config.size)


def attacked(run: Run, images: Sequence[ImagePair], steps: int, key: Mapping[str, Any]) -> Robustness:
    networks = {"teacher": deploy(run.teacher.module), "student": deploy(run.finetuned[0])}

    def one(name: str, bound: float) -> dict[str, Any]:
        print(f"{name}: attack within {255 * bound:g}/255", file=sys.stderr)
        return robustness({name: networks[name]}, images, bounds=(bound,), steps=steps).as_dict()

    full = {**key, "attacked": len(images), "steps": steps}
    units = {
        name: [
            run.store.json(
                f"benchmarks/robustness/{name}.{255 * bound:g}", full | run.network_key(name), partial(one, name, bound)
            )
            for bound in BOUNDS
        ]
        for name in networks
    }
    return Robustness(
        images=tuple(image.name for image in images),
        bounds=BOUNDS,
        unattacked_db={name: tuple(found[0]["unattacked_db"][name]) for name, found in units.items()},
        attacked_db={
            name: tuple(tuple(unit["attacked_db"][name][0]) for unit in found) for name, found in units.items()
        },
        protocol=units["teacher"][0]["protocol"],
    )


def estimate(found: Mapping[str, float], *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{found['mean']:{sign}.2f} [{found['low']:{sign}.2f}, {found['high']:{sign}.2f}]"


def conditions_table(found: Mapping[str, Any]) -> tuple[Columns, Rows]:
    columns = [
        "condition",
        "trained on",
        "degraded, dB",
        "teacher",
        "student",
        "student - teacher",
        "to as trained",
        "breaks sooner",
    ]
    rows = []
    for row in found["conditions"]:
        means = [estimate(row[f"{name}_db"]) for name in NETWORKS]
        gaps = [estimate(row[name], signed=True) for name in ("difference_db", "difference_to_trained_db")]
        broken = "yes" if row["breaks_sooner"] else ""
        rows.append([f"{row['kind']}, {row['name']}", "yes" if row["trained_on"] else "", *means, *gaps, broken])
    return columns, rows


def attacks_table(found: Mapping[str, Any]) -> tuple[Columns, Rows]:
    columns = ["bound", "network", "unattacked, dB", "attacked", "drop", "teacher's drop - student's"]
    rows = []
    for row in found["rows"]:
        paired = row["first_drop_less_this_db"]
        cells = [estimate(row[name]) for name in ("unattacked_db", "attacked_db", "drop_db")]
        rows.append(
            [f"{row['bound_of_255']:g}/255", row["network"], *cells, estimate(paired, signed=True) if paired else ""]
        )
    return columns, rows


def show(title: str, columns: Columns, rows: Rows) -> None:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number > 1 else "left", no_wrap=number < 2)
    for row in rows:
        table.add_row(*row)
    Console(width=190).print(table)


def into_page(name: str, columns: Columns, rows: Rows) -> None:
    """Rewrite one table of the page, between its marks."""
    lines = [columns, ["---", "---", *["---:"] * (len(columns) - 2)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    PAGE.write_text(marked.sub(lambda match: f"{match[1]}{table}\n{match[2]}", PAGE.read_text()))


def picture(conditions: Mapping[str, Any], attacks: Mapping[str, Any]) -> plt.Figure:
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.4), width_ratios=(2.6, 1), layout="constrained")
    rows = conditions["conditions"]
    for offset, (name, color) in zip((-0.14, 0.14), (("teacher", GRAY), ("student", TEAL)), strict=True):
        bars(left, [i + offset for i in range(len(rows))], [row[f"{name}_gain_db"] for row in rows], name, color)
        own = [row for row in attacks["rows"] if row["network"] == name]
        bounds = [0, *(row["bound_of_255"] for row in own)]
        bars(
            right,
            [x + offset / 4 for x in bounds],
            [own[0]["unattacked_db"], *(r["attacked_db"] for r in own)],
            name,
            color,
            line=True,
        )
    left.axhline(0, color=INK, linewidth=0.8)
    labels = [f"{row['kind']}, {row['name']}" for row in rows]
    left.set_xticks(range(len(rows)), labels, rotation=90)
    left.set_ylabel("gain over the degraded image, dB")
    left.set_title(f"{len(conditions['images'])} photographs, gain with 95 % intervals", loc="left")
    right.set_xlabel("bound of the attack, of 255")
    right.set_ylabel("PSNR, dB")
    right.set_title(f"PGD, {len(attacks['images'])} photographs", loc="left")
    for axes in (left, right):
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.legend()
    return figure


def bars(
    axes: Axes, x: Sequence[float], found: Sequence[Mapping[str, float]], name: str, color: str, *, line: bool = False
) -> None:
    means = [row["mean"] for row in found]
    ends = [[row["mean"] - row["low"] for row in found], [row["high"] - row["mean"] for row in found]]
    axes.errorbar(x, means, yerr=ends, label=name, color=color, fmt="o-" if line else "o", markersize=4, capsize=2)


def rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--root", type=Path, help="folder whose test/ holds sharp photographs")
    parser.add_argument("--attacked", type=int, default=15, help="photographs that are attacked, at most")
    parser.add_argument("--steps", type=int, default=10, help="of the attack")
    parser.add_argument("--publish", action="store_true", help="write the results into the repository")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with finished_run(args.run) as run:
        images, made_from = photographs(run, args.root)
        key = {"photographs": made_from}
        conditions = generalized(run, images, key).as_dict()
        attacks = attacked(run, images[: args.attacked], args.steps, key).as_dict()
        student = {"assignment": run.assignment, "finetune": run.config.finetune.model_dump()}
    tables = {"conditions": conditions_table(conditions), "attacks": attacks_table(attacks)}
    show(f"{len(images)} photographs, center crops, PSNR in dB", *tables["conditions"])
    show(f"PGD, {len(attacks['images'])} photographs, {args.steps} steps", *tables["attacks"])
    record = {
        "machine": machine("numpy", "onnxruntime"),
        "student": student,
        "conditions": conditions,
        "attacks": attacks,
    }
    line = json.dumps(rounded(record))
    if args.publish:
        kept = REPOSITORY / "benchmarks" / "results" / "generalization.json"
        write_atomically(kept, json.dumps(json.loads(line), indent=1).encode() + b"\n", StoreError)
        picture(conditions, attacks).savefig(REPOSITORY / "docs" / "images" / "generalization.png", dpi=130)
        for name, (columns, rows) in tables.items():
            into_page(name, columns, rows)
    print(line)


if __name__ == "__main__":
    main()
