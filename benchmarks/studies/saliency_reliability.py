"""Which saliency metric tells what a block is worth? Each against the PSNR that is really lost.

    python -m benchmarks.studies.saliency_reliability runs/demo --root PHOTOS

Every block site in turn is replaced by a fixed operator: the distilled 3x3 convolution (conv3_res), or the fitted
scale and offset (drop). The PSNR lost on validation crops is the truth; Spearman's rank correlation of each metric
with it is the answer, over all block sites, within the long stage, and over the stages replaced as a whole. Intervals
resample the photographs, the sites and the batches that the metric was computed on. For comparison: what needs no
gradient (MACs, the drop operator's feature error), the loss measured directly on a few training crops, and the
truth on half of the photographs against the other half, which says how reliable the truth itself is.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
from benchmarks.studies.judging import Floats, Judges, interval
from benchmarks.studies.study import GRAY, PINK, TEAL, Study, figure, spread
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr
from torch import nn

from netgraft.assemble import assemble
from netgraft.saliency import METRICS
from netgraft.sites import Site

FIXED = ("conv3_res", "drop")
COMBINATIONS = {
    "mean rank of all six": tuple(METRICS),
    "mean rank of grad_norm, snip, fisher": ("grad_norm", "snip", "fisher"),
}
"""Fixed before the results were seen."""
QUICK_CROPS = 4
"""Crops of the quick truth: that of measuring each site directly, but cheaply."""

HALVES = "truth, half against half"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--operators", nargs="+", choices=FIXED, default=FIXED, help="what the blocks are replaced by")
    parser.add_argument("--crops", type=int, default=29, help="validation crops")
    parser.add_argument("--side", type=int, default=128, help="their side in pixels")
    parser.add_argument(
        "--batches", type=int, default=3, help="batches of training crops that the metrics are computed on"
    )


def main() -> None:
    study = Study("saliency_reliability", __doc__ or "", options)
    args, run = study.args, study.run
    judges = Judges.of(args.root, "validation", count=args.crops, side=args.side)
    quick = Judges.of(None, "train", count=QUICK_CROPS, side=args.side)
    blocks = [site for site in run.sites if site.kind == "block"]
    stages = list(dict.fromkeys(stage_of(site) for site in blocks))
    size = {"crops": args.crops, "side": args.side}

    losses = {}
    for operator in args.operators:
        lost = {
            site.path: np.array(
                study.unit(f"{operator}.{site.path}", size, partial(_lost, study, judges, [site], operator))
            )
            for site in blocks
        }
        for stage in stages:
            members = [site for site in blocks if stage_of(site) == stage]
            make = partial(_lost, study, judges, members, operator)
            # A stage of one block is that block.
            alone = len(members) == 1
            lost[stage] = lost[members[0].path] if alone else np.array(study.unit(f"{operator}.{stage}", size, make))
        losses[operator] = lost
    fast = np.array(study.unit("quick", {"side": args.side}, partial(_quick, study, quick, blocks)))
    batches = [study.unit(f"metrics.{seed}", {}, partial(study.metrics, blocks, seed)) for seed in range(args.batches)]
    scores = {metric: np.array([batch[metric] for batch in batches]) for metric in METRICS}
    errors = [_drop_error(study, site) for site in blocks]
    scores |= {"MACs": np.array([[float(site.macs) for site in blocks]])}
    scores |= {"drop's feature error": np.array([errors])}
    scores |= {f"measured on {QUICK_CROPS} crops": fast[None]}
    ranked = {name: _ranks(scores, members) for name, members in COMBINATIONS.items()}

    long = max(stages, key=lambda stage: sum(stage_of(site) == stage for site in blocks))
    subsets = {
        "all": np.arange(len(blocks)),
        "long stage": np.array([i for i, site in enumerate(blocks) if stage_of(site) == long]),
    }
    found: dict[str, dict[str, Any]] = {}
    for operator in args.operators:
        truth = np.array([losses[operator][site.path] for site in blocks])
        found[operator] = {
            subset: _correlations(scores | ranked, truth, judges, where)
            | {HALVES: {"rho": _noise_ceiling(truth, judges, where)}}
            for subset, where in subsets.items()
        }
    stage_scores = {
        name: np.array([values.mean(0)[[stage_of(s) == stage for s in blocks]].sum() for stage in stages])
        for name, values in scores.items()
        if name in METRICS
    }
    rule = {operator: _rule(losses[operator], stage_scores, stages, judges) for operator in args.operators}
    sites_rule = {operator: _site_rule(losses[operator], scores | ranked, blocks) for operator in args.operators}

    columns = ["saliency", *(f"{op}, {where}" for op in args.operators for where in ("36 sites", "long stage"))]
    rows = [
        [name, *(spread(*_split(found[op][subset][name]["rho"])) for op in args.operators for subset in subsets)]
        for name in found[args.operators[0]]["all"]
    ]
    record = {
        "photographs": judges.photographs,
        "sites": [site.path for site in blocks],
        "lost_db": {op: {part: float(v.mean()) for part, v in losses[op].items()} for op in args.operators},
        "lost_db_interval": {
            op: {
                part: interval(lambda rng, v=v: float(v[judges.resampled(rng)].mean()))
                for part, v in losses[op].items()
            }
            for op in args.operators
        },
        "scores": {name: values.mean(0) for name, values in scores.items()},
        "spearman": found,
        "stage_rule": rule,
        "site_rule": sites_rule,
    }
    study.finish(columns, rows, record, _draw(found, record, blocks))


def stage_of(site: Site) -> str:
    """The stage of a block, e.g. ``encoders.3``."""
    return site.path.rpartition(".")[0]


def _lost(study: Study, judges: Judges, members: list[Site], operator: str) -> list[float]:
    """PSNR lost by each crop when all of ``members`` are replaced."""
    whole = study.unit(
        "teacher",
        {"crops": len(judges.degraded), "side": judges.degraded.shape[-1]},
        lambda: judges.psnr_db(study.run.teacher.module).tolist(),
    )
    return (np.array(whole) - judges.psnr_db(_replaced(study, members, operator))).tolist()


def _replaced(study: Study, members: list[Site], operator: str) -> nn.Module:
    return assemble(study.run.teacher.module, {site.path: operator for site in members}, study.run.surrogates.modules)


def _quick(study: Study, judges: Judges, blocks: list[Site]) -> list[float]:
    """Mean PSNR lost on a few training crops when each block is dropped."""
    whole = judges.psnr_db(study.run.teacher.module)
    return [float((whole - judges.psnr_db(_replaced(study, [site], "drop"))).mean()) for site in blocks]


def _drop_error(study: Study, site: Site) -> float:
    return study.run.surrogates.errors[site.path, "drop"]


def _ranks(scores: dict[str, Floats], members: tuple[str, ...]) -> Floats:
    """(batches, sites): the mean of the members' ranks."""
    return np.mean([rankdata(scores[name], axis=1) for name in members], axis=0)


def _correlations(
    values: dict[str, Floats], truth: Floats, judges: Judges, where: NDArray[np.int64]
) -> dict[str, dict[str, list[float]]]:
    """Spearman of each saliency, (batches, sites), with the loss, (sites, crops), at some sites, and against the best.

    The best of the six metrics is the one that all are compared with, draw by draw.
    """
    point = {n: float(np.mean([spearman(row[where], truth[where].mean(1)) for row in v])) for n, v in values.items()}
    names = list(values)
    best = names.index(max(METRICS, key=lambda name: point[name]))

    def draw(rng: np.random.Generator) -> Floats:
        sites = rng.choice(where, len(where))
        lost = rankdata(truth[np.ix_(sites, judges.resampled(rng))].mean(1))
        batches = [values[name][rng.integers(len(values[name]))] for name in names]
        found = np.array([spearman(batch[sites], lost) for batch in batches])
        return np.concatenate([found, found - found[best]])

    low, high = interval(draw)
    k = len(names)
    return {
        name: {
            "rho": [point[name], low[i], high[i]],
            "against_best": [point[name] - point[names[best]], low[k + i], high[k + i]],
        }
        for i, name in enumerate(names)
    }


def _noise_ceiling(truth: Floats, judges: Judges, where: NDArray[np.int64]) -> list[float]:
    """Spearman of the loss on half of the photographs with that on the other half, over random halves."""

    def draw(rng: np.random.Generator) -> float:
        mixed = rng.permutation(np.unique(judges.photograph))
        first = np.isin(judges.photograph, mixed[: len(mixed) // 2])
        halves = truth[np.ix_(where, first)].mean(1), truth[np.ix_(where, ~first)].mean(1)
        return spearman(*halves)

    rng = np.random.default_rng(1)
    return [float(np.mean([draw(rng) for _ in range(200)])), *interval(draw)]


def _split(bounded: list[float]) -> tuple[float, list[float]]:
    return bounded[0], bounded[1:]


def spearman(first: Floats, second: Floats) -> float:
    """Spearman's rank correlation; NaN where one of the two is constant, as MACs are within a stage."""
    if not (np.ptp(first) and np.ptp(second)):
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def _rule(
    losses: dict[str, Floats], scores: dict[str, Floats], stages: list[str], judges: Judges
) -> dict[str, dict[str, object]]:
    """The paper's rule: is the stage that a metric protects the one that is worst to lose?"""
    lost = np.array([losses[stage] for stage in stages])
    rng = np.random.default_rng(0)
    worst = [int(lost[:, judges.resampled(rng)].mean(1).argmax()) for _ in range(1000)]
    true = lost.mean(1)
    answer: dict[str, dict[str, object]] = {
        "truth": {
            "worst": stages[int(true.argmax())],
            "share_of_draws": float(np.mean(np.array(worst) == true.argmax())),
            "lost_db": dict(zip(stages, true, strict=True)),
        }
    }
    for metric, values in scores.items():
        top = int(values.argmax())
        answer[metric] = {
            "protects": stages[top],
            "is_worst": bool(top == true.argmax()),
            "rank_of_protected": int(1 + (true > true[top]).sum()),
            "spearman": float(spearmanr(values, true).statistic),
        }
    return answer


def _site_rule(
    losses: dict[str, Floats], scores: dict[str, Floats], blocks: list[Site]
) -> dict[str, dict[str, object]]:
    """The same for single blocks."""
    true = np.array([losses[site.path].mean() for site in blocks])
    answer: dict[str, dict[str, object]] = {"truth": {"worst": blocks[int(true.argmax())].path, "lost_db": true.max()}}
    for name, values in scores.items():
        top = int(values.mean(0).argmax())
        answer[name] = {
            "protects": blocks[top].path,
            "lost_db": float(true[top]),
            "rank_of_protected": int(1 + (true > true[top]).sum()),
        }
    return answer


def _draw(found: dict[str, dict[str, Any]], record: dict[str, Any], blocks: list[Site]) -> Figure:
    fig, (left, right) = figure(11, 5.2, 2, width_ratios=[1.15, 1])
    names = list(next(iter(found.values()))["all"])
    colors = {name: color for name, color in zip(FIXED, (TEAL, PINK), strict=True) if name in found}
    for shift, (operator, color) in zip((-0.15, 0.15), colors.items(), strict=False):
        point, low, high = np.array([found[operator]["all"][name]["rho"] for name in names]).T
        y = np.arange(len(names)) + shift
        left.errorbar(point, y, xerr=[point - low, high - point], fmt="o", ms=5, color=color, capsize=2, label=operator)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.axvline(0, color=GRAY, lw=0.8)
    left.set_xlim(-1.02, 1.02)
    left.set_xlabel("Spearman's rank correlation with the PSNR really lost")
    left.set_title(f"Saliency against truth, {len(blocks)} block sites (95 % intervals)", loc="left", fontsize=10.5)
    left.legend(title="block replaced by", loc="lower left")
    for operator, color in colors.items():
        lost = np.array([record["lost_db"][operator][site.path] for site in blocks])
        bounds = np.array([record["lost_db_interval"][operator][site.path] for site in blocks])
        x = np.arange(len(blocks))
        right.fill_between(x, bounds[:, 0], bounds[:, 1], color=color, alpha=0.2, lw=0)
        right.plot(x, lost, "o-", ms=3, lw=1, color=color, label=operator)
    right.set_yscale("symlog", linthresh=0.01)
    right.axhline(0, color=GRAY, lw=0.8)
    paths, long = [site.path for site in blocks], max(set(map(stage_of, blocks)), key=[*map(stage_of, blocks)].count)
    inside = [i for i, site in enumerate(blocks) if stage_of(site) == long]
    # Neighbors' names would run into each other.
    ticks = [0, inside[0], inside[len(inside) // 2], inside[-1], len(paths) - 1]
    right.set_xticks(ticks, [paths[i] for i in ticks], rotation=45, ha="right", fontsize=8.5)
    right.set_ylabel("PSNR lost in dB (linear below 0.01)")
    right.set_title("What each block is worth", loc="left", fontsize=10.5)
    return fig


if __name__ == "__main__":
    main()
