"""Do candidates keep their ranks when they are trained?

    python -m benchmarks.studies.rank_stability runs/demo --root PHOTOS

The same random assignments, with between a few and nearly all sites replaced, are judged in four states: with
surrogates that were only started (fitted in closed form and calibrated), with distilled ones, and each of the two
after a short fine-tuning, the same for all. Kendall's tau between the states says how far a ranking by one stands for
the other: what a search before training is worth. Intervals resample assignments and photographs. The summed feature
error of the assignment's surrogates, and its summed latency, are ranked too: can one do without assembling the
network?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial
from itertools import combinations
from typing import Any

import numpy as np
from benchmarks.studies.judging import Floats, Judges, interval
from benchmarks.studies.students import finetuned, fresh_surrogates, random_assignment, student
from benchmarks.studies.study import GRAY, PINK, TEAL, Study, figure, spread
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from netgraft.finetune import FinetuneConfig

STATES = {
    "fresh": "fresh surrogates",
    "distilled": "distilled surrogates",
    "fresh_tuned": "fresh, fine-tuned",
    "distilled_tuned": "distilled, fine-tuned",
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--assignments", type=int, default=12)
    parser.add_argument("--steps", type=int, default=60, help="of fine-tuning")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=64, help="side of the fine-tuning's crops")
    parser.add_argument("--crops", type=int, default=30, help="test crops")
    parser.add_argument("--side", type=int, default=128, help="their side in pixels")
    parser.add_argument("--seed", type=int, default=0)


def main() -> None:
    study = Study("rank_stability", __doc__ or "", options)
    args, run = study.args, study.run
    judges = Judges.of(args.root, "test", count=args.crops, side=args.side)
    rng = np.random.default_rng(args.seed)
    shares = np.linspace(0.1, 0.9, args.assignments)
    assignments = [random_assignment(run.space, rng, share) for share in shares]
    tuning = FinetuneConfig(steps=args.steps, batch=args.batch, crop=args.crop)

    fresh = cache(lambda: fresh_surrogates(run))
    key = {"crops": args.crops, "side": args.side, "tuning": tuning.model_dump(), "seed": args.seed}
    scored = [
        study.unit(f"assignment.{i}", key | {"assignment": a}, partial(_states, study, judges, a, tuning, fresh))
        for i, a in enumerate(assignments)
    ]
    teacher = np.array(study.unit("teacher", key, lambda: judges.psnr_db(run.teacher.module).tolist()))
    psnr = {state: np.array([row[state] for row in scored]) for state in STATES}
    errors = run.surrogates.errors
    proxies = {
        "feature_error": np.array([-sum(errors[item] for item in a.items()) for a in assignments]),
        "latency": np.array([run.bench.latency_table.additive_ms(a) for a in assignments]),
    }
    names = {**STATES, "feature_error": "summed feature error", "latency": "latency: slower is better"}
    taus = {}
    for first, second in combinations(names, 2):
        if second in proxies and first in proxies:
            continue
        taus[first, second] = _tau((psnr | proxies)[first], (psnr | proxies)[second], judges)

    rows = [[f"{names[a]} / {names[b]}", spread(*_split(tau))] for (a, b), tau in taus.items()]
    record = {
        "photographs": judges.photographs,
        "teacher_db": teacher.mean(),
        "degraded_db": _degraded(judges),
        "kendall_tau": {f"{a}/{b}": tau for (a, b), tau in taus.items()},
        "assignments": [
            {"replaced": len(a), "latency_ms": float(proxies["latency"][i])}
            | {state: float(psnr[state][i].mean()) for state in STATES}
            for i, a in enumerate(assignments)
        ],
    }
    study.finish(["ranking by / ranking by", "Kendall's tau"], rows, record, _draw(psnr, teacher, taus, record))


def _states(
    study: Study, judges: Judges, assignment: dict[str, str], tuning: FinetuneConfig, fresh: Callable[[], Any]
) -> dict[str, list[float]]:
    """PSNR of each crop in each state."""
    run, seed = study.run, study.args.seed
    scores = {}
    for state, surrogates in (("fresh", fresh()), ("distilled", run.surrogates.modules)):
        start = student(run, assignment, surrogates)
        scores[state] = judges.psnr_db(start).tolist()
        # The same crops for every student, other ones than the surrogates learned from.
        scores[f"{state}_tuned"] = judges.psnr_db(finetuned(run, start, tuning, seed=seed + 1)).tolist()
    return scores


def _tau(first: Floats, second: Floats, judges: Judges) -> list[float]:
    """Kendall's tau-b between two rankings, low, high; PSNRs are (assignments, crops), proxies (assignments,)."""

    def draw(rng: np.random.Generator) -> float:
        rows, crops = rng.choice(len(first), len(first)), judges.resampled(rng)
        return _tau_b(*(x[rows] if x.ndim == 1 else x[np.ix_(rows, crops)].mean(1) for x in (first, second)))

    point = _tau_b(*(x if x.ndim == 1 else x.mean(1) for x in (first, second)))
    return [point, *interval(draw)]


def _tau_b(first: Floats, second: Floats) -> float:
    return float(kendalltau(first, second).statistic)


def _split(tau: list[float]) -> tuple[float, list[float]]:
    return tau[0], tau[1:]


def _degraded(judges: Judges) -> float:
    mse = (judges.degraded - judges.clean).square().mean((1, 2, 3))
    return float((-10 * mse.log10()).mean())


def _draw(psnr: dict[str, Floats], teacher: Floats, taus: dict[tuple[str, str], list[float]], record: Any) -> Figure:
    pairs = [("fresh", "distilled"), ("distilled", "distilled_tuned"), ("fresh", "fresh_tuned")]
    fig, panels = figure(12, 4.4, 3)
    for axes, (before, after) in zip(panels, pairs, strict=True):
        x, y = psnr[before].mean(1), psnr[after].mean(1)
        replaced = [row["replaced"] for row in record["assignments"]]
        dots = axes.scatter(x, y, c=replaced, cmap="viridis", s=44, zorder=3)
        axes.axhline(teacher.mean(), color=TEAL, lw=1, ls="--")
        axes.axhline(record["degraded_db"], color=PINK, lw=1, ls=":")
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        axes.plot([low, high], [low, high], color=GRAY, lw=0.8)
        axes.set_xlabel(f"PSNR in dB, {STATES[before]}")
        axes.set_ylabel(f"PSNR in dB, {STATES[after]}")
        axes.set_title(f"tau {spread(*_split(taus[before, after]))}", loc="left", fontsize=10.5)
    panels[0].plot([], [], color=TEAL, ls="--", lw=1, label="teacher")
    panels[0].plot([], [], color=PINK, ls=":", lw=1, label="degraded images")
    panels[0].plot([], [], color=GRAY, lw=0.8, label="no change")
    panels[0].legend(loc="best", fontsize=8.5)
    fig.colorbar(dots, ax=panels, label="sites replaced", shrink=0.85)
    fig.suptitle("One dot an assignment: its quality before and after training", x=0.01, ha="left", fontsize=11.5)
    return fig


if __name__ == "__main__":
    main()
