"""A refitted network and its teacher for another degradation: PSNR untuned and tuned, against the number of images.

    python benchmarks/adaptation.py --run RUN --root PHOTOS --out DIR [--defocus 5 20 80 0] [--noise 20 0] [--steps 200]

RUN is a finished run whose networks were trained on camera shake; PHOTOS holds train/, validation/ and test/ with sharp
photographs. Student and teacher are fine-tuned by the loop of `netgraft adapt` to defocus (discs whose radius varies
over the frame) and to Gaussian noise, from so many training photographs (0: all), with the same number of steps at
most. The figures are PSNR on one crop of each test photograph, by which nothing is chosen; intervals are 95 %
bootstraps over them, of differences in pairs. RUN may also be its export/student.safetensors.

The same command continues what is in DIR. Writes results/adaptation.json and ../docs/images/adaptation.png after every
point; prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from machine import machine
from rich.console import Console
from rich.table import Table
from torch import nn

from netgraft.adapt import AdaptConfig, parse_adapt_config
from netgraft.data.images import USUAL_STRENGTHS, crops_of
from netgraft.evaluate import batch_psnr_db, paired_interval
from netgraft.files import write_atomically
from netgraft.nets.blocks import deploy
from netgraft.stages import AdaptStages, Start, start_from
from netgraft.store import RunStore

RESULTS = Path(__file__).parent / "results" / "adaptation.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "adaptation.png"
NETWORKS = ("student", "teacher")
COLORS = {"student": "#0e9384", "teacher": "#667085"}


def scores_db(work: AdaptStages, module: nn.Module | None, size: int) -> list[float]:
    """PSNR of a crop of every test photograph, restored by a network; None: of the degraded ones."""
    paths = list((work.config.data.root / "test").iterdir())  # type: ignore[operator]
    degraded, clean = crops_of(work.config.data, "test", count=len(paths), size=(size, size))
    restorer = nn.Identity() if module is None else deploy(module)
    return [batch_psnr_db(restorer, x, y) for x, y in zip(degraded.split(1), clean.split(1), strict=True)]


def mean_of(scores: list[float]) -> dict[str, Any]:
    return {"psnr_db": float(np.mean(scores)), "interval": list(paired_interval(scores, [0.0] * len(scores)))}


def gap_of(first: list[float], second: list[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(np.subtract(first, second))), "interval": list(paired_interval(first, second))}


def scores_of(work: AdaptStages, name: str, size: int) -> dict[str, list[float]]:
    """PSNR of the test crops, degraded and restored by a network untuned and tuned."""
    scored = {"images": work.images, "size": size}
    scores = {"degraded": work.store.json("scores/degraded", scored, partial(scores_db, work, None, size))}
    for form in ("untuned", "tuned"):

        def make(form: str = form) -> list[float]:
            return scores_db(work, work.before[name] if form == "untuned" else work.tune(name).module, size)

        scores[f"{name} {form}"] = work.store.json(f"scores/{name}_{form}", [work.key(name, form), scored], make)
    return scores


def point(start: Start, config: AdaptConfig, store: RunStore, size: int) -> dict[str, Any]:
    """One degradation from one number of images."""
    work = AdaptStages(start, config, store)
    scores = scores_of(work, "student", size) | scores_of(work, "teacher", size)
    courses = {name: work.tune(name) for name in NETWORKS}
    return {
        "images": work.images_used,
        "figures": {name: mean_of(values) for name, values in scores.items()},
        "differences_db": {
            "student tuned - untuned": gap_of(scores["student tuned"], scores["student untuned"]),
            "teacher tuned - untuned": gap_of(scores["teacher tuned"], scores["teacher untuned"]),
            "student tuned - teacher tuned": gap_of(scores["student tuned"], scores["teacher tuned"]),
            "student tuned - teacher untuned": gap_of(scores["student tuned"], scores["teacher untuned"]),
        },
        "best_step": {name: course.best.step for name, course in courses.items()},
        "steps": {name: course.steps for name, course in courses.items()},
        "validation_psnr_db": {
            name: [[look.step, look.psnr_db] for look in course.looks] for name, course in courses.items()
        },
    }


def draw(points: dict[str, list[dict[str, Any]]]) -> None:
    """PSNR against the number of images, a panel a degradation."""
    figure, panels = plt.subplots(1, len(points), figsize=(4.6 * len(points), 3.8), dpi=130, squeeze=False)
    for axes, (degradation, rows) in zip(panels[0], points.items(), strict=True):
        counts, first = [row["images"] for row in rows], rows[0]["figures"]
        axes.axhline(first["degraded"]["psnr_db"], color="#b42318", ls=":", label="degraded")
        for name, color in COLORS.items():
            tuned = [row["figures"][f"{name} tuned"]["psnr_db"] for row in rows]
            axes.plot(counts, tuned, "o-", color=color, label=f"{name}, tuned")
            axes.axhline(first[f"{name} untuned"]["psnr_db"], color=color, ls="--", label=f"{name}, untuned")
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_title(f"shake to {degradation}")
        axes.set_xlabel("training photographs")
        axes.set_ylabel("PSNR in dB, test crops")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)
    plt.close(figure)


def table_of(degradation: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"PSNR on the test crops, shake to {degradation}")
    names = list(rows[0]["figures"])
    for column in ("images", *names, "student tuned - untuned", "student tuned - teacher tuned"):
        table.add_column(column)
    for row in rows:
        gaps = (row["differences_db"][name] for name in ("student tuned - untuned", "student tuned - teacher tuned"))
        table.add_row(
            str(row["images"]),
            *(f"{row['figures'][name]['psnr_db']:.2f}" for name in names),
            *(f"{gap['mean']:+.2f} [{gap['interval'][0]:+.2f}, {gap['interval'][1]:+.2f}]" for gap in gaps),
        )
    return table


def config_of(args: argparse.Namespace, degradation: str, count: int) -> AdaptConfig:
    data = {"source": "sharp", "root": args.root, "degradation": degradation}
    return parse_adapt_config(
        {
            "data": data | {"strength_px": USUAL_STRENGTHS[degradation]},
            "images": count or None,
            "steps": args.steps,
            "batch": args.batch,
            "crop": args.crop,
            "validation_crops": args.crops,
            "check_every": 50,
            "patience": 100,
        }
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--root", type=Path, required=True, help="train/, validation/ and test/ of sharp photographs")
    parser.add_argument("--out", type=Path, required=True, help="what is kept meanwhile")
    parser.add_argument("--defocus", type=int, nargs="*", default=[5, 20, 80, 0], help="numbers of images; 0: all")
    parser.add_argument("--noise", type=int, nargs="*", default=[20, 0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--crops", type=int, default=12, help="validation crops")
    parser.add_argument("--size", type=int, default=384, help="side of the test crops")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    torch.set_num_threads(1)
    start, store, console = start_from(args.run), RunStore(args.out), Console(width=160)
    points: dict[str, list[dict[str, Any]]] = {}
    settings = {name: value for name, value in vars(args).items() if name not in ("run", "root", "out")}
    line = ""
    with store.lock():
        for degradation, counts in {"defocus": args.defocus, "noise": args.noise}.items():
            for count in counts:
                config = config_of(args, degradation, count)
                points.setdefault(degradation, []).append(point(start, config, store, args.size))
                console.print(table_of(degradation, points[degradation]))
                record = {
                    "settings": settings,
                    "strengths": {name: list(USUAL_STRENGTHS[name]) for name in points},
                    "training": config.training() | {"images": None},
                    "points": points,
                    "machine": machine(),
                }
                line = json.dumps(record)
                write_atomically(RESULTS, (json.dumps(record, indent=1) + "\n").encode())
                draw(points)
    print(line)


if __name__ == "__main__":
    main()
