"""How much data do the surrogates need? Feature error and assembled PSNR against the share of the training photographs.

    python -m benchmarks.studies.data_fraction runs/demo --root PHOTOS

For each share and seed, surrogates that start afresh are distilled with the same number of steps on that share of the
photographs; the seed draws the photographs, the crops and the starting weights. Judged on test photographs: the
normalized L2 of the surrogates' features, as a ratio to what all photographs give with the same seed (geometric mean
over surrogates), and the PSNR of fixed assignments put together from them. Intervals resample seeds and photographs.
The smallest share, a single photograph, is a control: it shows whether the study can see a lack of data at all.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.studies.judging import Floats, Judges, data_of, interval
from benchmarks.studies.study import AMBER, BLUE, GRAY, PINK, TEAL, Study, figure, spread
from matplotlib.figure import Figure

from netgraft.assemble import assemble
from netgraft.data.crops import CropStage, crop_batches
from netgraft.data.images import train_source
from netgraft.data.pairs import SharpFolder
from netgraft.data.photos import photos
from netgraft.distill import Distillation, DistillConfig, fit_surrogates, normalized_l2, start_surrogates
from netgraft.features import site_features
from netgraft.operators import operator_pool
from netgraft.sites import Site, paper_sites
from netgraft.stages import Run

OPERATORS = ("conv3_res", "inverted_residual", "half_res")
"""Those that learn everything from the data: what starts from the teacher's weights needs little of it."""
DEEP_EVERY = 4
"""Of the long stage's blocks, every 4th takes part."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100, help="of the distillation")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=64, help="side of the distillation's crops")
    parser.add_argument("--assignments", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.35, help="of the sites that an assignment replaces")
    parser.add_argument("--crops", type=int, default=15, help="test crops")
    parser.add_argument("--side", type=int, default=128, help="their side in pixels")


def main() -> None:
    study = Study("data_fraction", __doc__ or "", options)
    args, run = study.args, study.run
    judges = Judges.of(args.root, "test", count=args.crops, side=args.side)
    sites = taking_part(run)
    rng = np.random.default_rng(0)
    assignments = [
        {s.path: str(rng.choice(OPERATORS)) for s in sites if rng.random() < args.share}
        for _ in range(args.assignments)
    ]
    key = {"steps": args.steps, "batch": args.batch, "crop": args.crop, "crops": args.crops, "side": args.side}
    teacher = np.array(study.unit("teacher", key, lambda: judges.psnr_db(run.teacher.module).tolist()))
    found: dict[float, list[dict[str, Any]]] = {fraction: [] for fraction in args.fractions}
    for seed in range(args.seeds):
        for fraction in sorted(args.fractions, reverse=True):
            own = key | {"fraction": fraction, "seed": seed, "assignments": assignments}
            make = partial(_trained, study, judges, sites, assignments, fraction, seed)
            found[fraction].append(study.unit(f"trained.{fraction}.{seed}", own, make))

    # (seeds, surrogates, crops) and (seeds, assignments, crops)
    errors = {
        f: np.array([[row["errors"][k] for k in sorted(row["errors"])] for row in rows]) for f, rows in found.items()
    }
    quality = {f: np.array([row["psnr_db"] for row in rows]) for f, rows in found.items()}
    whole = max(args.fractions)
    summary, by_operator = {}, {}
    names = sorted(found[whole][0]["errors"])
    for fraction in args.fractions:
        change = np.log(errors[fraction] / errors[whole])
        summary[fraction] = {
            "photographs": found[fraction][0]["photographs"],
            "error": float(np.exp(np.log(errors[fraction]).mean())),
            "error_ratio": np.exp(_with_interval(change, judges)),
            "lost_db": _with_interval(teacher - quality[fraction], judges),
            "psnr_change_db": _with_interval(quality[fraction] - quality[whole], judges),
        }
        by_operator[fraction] = {
            op: float(np.exp(change[:, [n.endswith(f"|{op}") for n in names]].mean())) for op in OPERATORS
        }
    columns = [
        "share",
        "photographs",
        "feature error",
        "feature error / that of all",
        "lost by the assemblies, dB",
        "PSNR against all, dB",
    ]
    rows = [
        [
            f"{100 * fraction:.0f} %",
            str(row["photographs"]),
            f"{row['error']:.4f}",
            spread(row["error_ratio"][0], row["error_ratio"][1:], 3),
            spread(row["lost_db"][0], row["lost_db"][1:]),
            spread(row["psnr_change_db"][0], row["psnr_change_db"][1:], 3),
        ]
        for fraction, row in summary.items()
    ]
    record = {
        "test_photographs": judges.photographs,
        "sites": [site.path for site in sites],
        "assignments": assignments,
        "teacher_db": teacher.mean(),
        "fractions": summary,
        "error_ratio_by_operator": by_operator,
    }
    study.finish(columns, rows, record, _draw(summary, by_operator, args.seeds))


def taking_part(run: Run) -> list[Site]:
    """The one-block stages, and some blocks of the long one."""
    blocks = [site for site in run.sites if site.kind == "block"]
    small = paper_sites(run.sites)
    deep = [site for site in blocks if site not in small][::DEEP_EVERY]
    return [site for site in blocks if site in small or site in deep]


def _trained(
    study: Study, judges: Judges, sites: list[Site], assignments: list[dict[str, str]], fraction: float, seed: int
) -> dict[str, Any]:
    """Distill on a share of the photographs; errors by surrogate and crop, PSNR by assignment and crop."""
    args, teacher, pool = study.args, study.run.teacher.module, operator_pool(OPERATORS)
    config = DistillConfig(steps=args.steps, batch=args.batch, crop=args.crop, data_fraction=fraction)
    source = train_source(data_of(args.root), fraction=fraction, seed=seed)
    batches = crop_batches(source, [CropStage(steps=args.steps, size=args.crop, batch=args.batch)], seed=seed)
    modules = start_surrogates(teacher, sites, pool, seed=seed)
    images = next(crop_batches(source, [CropStage(steps=1, size=args.crop, batch=8)], seed=seed + 1000))[0]
    fit_surrogates(modules, site_features(teacher, images, sites))
    Distillation(teacher, sites, modules, pool, config).run(degraded for degraded, _ in batches)
    for module in modules.values():
        module.eval()
    errors: dict[str, list[float]] = {"|".join(key): [] for key in modules}
    with torch.inference_mode():
        for crop in torch.split(judges.degraded, 1):
            features = site_features(teacher, crop.to(memory_format=torch.channels_last), sites)
            for (path, name), module in modules.items():
                error = normalized_l2(module(features[path].x), features[path].y)
                errors[f"{path}|{name}"].append(float(error))
    total = len(photos("train")) if args.root is None else len(SharpFolder(args.root / "train").paths)
    return {
        "photographs": max(1, round(fraction * total)),
        "errors": errors,
        "psnr_db": [judges.psnr_db(assemble(teacher, a, modules)).tolist() for a in assignments],
    }


def _with_interval(values: Floats, judges: Judges) -> Floats:
    """Mean, low and high of (seeds, surrogates or assignments, crops), over seeds and photographs."""

    def draw(rng: np.random.Generator) -> float:
        seeds = rng.integers(len(values), size=len(values))
        return float(per_crop[np.ix_(seeds, judges.resampled(rng))].mean())

    per_crop = values.mean(1)
    return np.array([values.mean(), *interval(draw)])


def _draw(summary: dict[float, dict[str, Any]], by_operator: dict[float, dict[str, float]], seeds: int) -> Figure:
    fig, (left, right) = figure(10.5, 4.2, 2)
    fractions = sorted(summary)
    x = np.arange(len(fractions))
    labels = [f"{100 * f:.0f} %\n({summary[f]['photographs']})" for f in fractions]
    for operator, color in zip(OPERATORS, (TEAL, BLUE, AMBER), strict=True):
        left.plot(x, [by_operator[f][operator] for f in fractions], "o--", ms=4, lw=1, color=color, label=operator)
    for axes, name, color in ((left, "error_ratio", PINK), (right, "lost_db", PINK)):
        point, low, high = np.array([summary[f][name] for f in fractions]).T
        axes.errorbar(
            x,
            point,
            yerr=[point - low, high - point],
            fmt="s-",
            ms=6,
            color=color,
            capsize=3,
            label="all, with 95 % interval",
        )
        axes.set_xticks(x, labels)
        axes.set_xlabel("share of the training photographs (their number)")
    left.axhline(1, color=GRAY, lw=0.8)
    left.set_ylabel("feature error / that with all photographs")
    left.set_title("Held-out feature error", loc="left", fontsize=10.5)
    left.legend()
    right.set_ylabel("PSNR lost against the teacher in dB")
    right.set_title("Fixed assignments, put together, not fine-tuned", loc="left", fontsize=10.5)
    return fig


if __name__ == "__main__":
    main()
