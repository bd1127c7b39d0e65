"""What is each stage of the pipeline worth? One left out at a time, at the same number of evaluations.

    python -m benchmarks.studies.stage_ablation runs/demo --root PHOTOS [--samples 40]

    full             the run's own space, surrogates and search
    no foresight     the search starts from a Latin design, not from the losses that are foreseen
    no saliency      nothing is protected
    paper's rule     only the eight one-block stages may change: the most salient stage is protected, as in the paper
    no distillation  surrogates as they start: fitted in closed form and calibrated, never trained
    random           no search: random assignments, with a random share of the sites replaced in each
    greedy           no search: sites replaced from the least to the most salient, by the fastest or closest operator

Each evaluates the same number of assignments on the run's validation images. Then a user with a latency budget comes:
of all assignments within the budget by the latency table, the one that lost least is fine-tuned, all alike, and
judged on test photographs. Budgets are shares of the teacher's latency. Intervals resample photographs and seeds of
the search; the gap to the full pipeline is taken photograph by photograph.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
from benchmarks.studies.judging import Floats, Judges, interval
from benchmarks.studies.students import changed, finetuned, fresh_surrogates, random_assignment
from benchmarks.studies.study import AMBER, BLUE, GRAY, PINK, RED, TEAL, VIOLET, Study, figure, spread
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from netgraft.assemble import assemble, named_assignment
from netgraft.data.images import crops_of
from netgraft.finetune import FinetuneConfig
from netgraft.foresight import foreseen_losses_db
from netgraft.search import minimize
from netgraft.stages import Run
from netgraft.stages.judge import CAPPED_LOSSES, FORESIGHT_SIDE, REFERENCE_LOSSES

VARIANTS = ("full", "no foresight", "no saliency", "paper's rule", "no distillation", "random", "greedy")
COLORS = dict(zip(VARIANTS, (TEAL, RED, BLUE, AMBER, PINK, GRAY, VIOLET), strict=True))
SEARCHED = ("full", "no foresight", "no saliency", "paper's rule", "no distillation")

Rows = NDArray[np.int64]
Evaluated = dict[str, Any]
"""``assignments``, their ``loss_db`` on the validation crops and ``latency_ms`` by the table."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--evaluations", type=int, default=48, help="of each variant and seed")
    parser.add_argument("--seeds", type=int, default=2, help="of the searches; greedy has none")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.75, 0.4], help="shares of the teacher's latency")
    parser.add_argument("--search-crops", type=int, default=6, help="validation crops")
    parser.add_argument("--crops", type=int, default=30, help="test crops")
    parser.add_argument("--side", type=int, default=128, help="side of both in pixels")
    parser.add_argument("--steps", type=int, default=60, help="of fine-tuning")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=64, help="side of the fine-tuning's crops")
    parser.add_argument("--samples", type=int, default=0, help="timing samples of each whole network; 0 measures none")


class Ablation:
    """The run's variants, and the networks that they choose from."""

    def __init__(self, study: Study) -> None:
        self.study, self.args, run = study, study.args, study.run
        space = run.config.space
        free = {"protect_top": 0, "protect": ()}
        self.runs: dict[str, Run] = dict.fromkeys(VARIANTS, run)
        self.runs["no saliency"] = self._with(space.model_copy(update=free))
        self.runs["paper's rule"] = self._with(space.model_copy(update=free | {"sites": "paper"}))
        self.fresh = cache(lambda: fresh_surrogates(run))
        size = (self.args.side, self.args.side)
        data = run.config.data
        self.validation = Judges(*crops_of(data, "validation", count=self.args.search_crops, size=size), np.zeros(1))
        self.calibration, _ = crops_of(data, "train", count=2, size=size, seed=1)
        self.teacher_db = self.validation.psnr_db(run.teacher.module)

    def _with(self, space: Any) -> Run:
        return self.study.run_with(self.study.config.model_copy(update={"space": space}))

    def network(self, variant: str, assignment: Mapping[str, str]) -> nn.Module:
        run = self.runs[variant]
        surrogates = self.fresh() if variant == "no distillation" else run.surrogates.modules
        return assemble(run.teacher.module, assignment, surrogates, calibration=self.calibration)

    def loss_db(self, variant: str, assignment: Mapping[str, str]) -> float:
        return float((self.teacher_db - self.validation.psnr_db(self.network(variant, assignment))).mean())

    def foreseen(self, variant: str) -> list[list[float]]:
        """The loss by each option of each site, as the run would foresee it."""
        run = self.runs[variant]
        surrogates = self.fresh() if variant == "no distillation" else run.surrogates.modules
        options = list(zip(run.space.sites, run.space.options, strict=True))
        keys = [(site.path, name) for site, names in options for name in names[1:]]
        side = min(*run.config.size, FORESIGHT_SIDE)
        count = run.config.search.foresight_crops
        crops = crops_of(run.config.data, "train", count=count, size=(side, side), seed=run.config.seed)
        losses = foreseen_losses_db(run.teacher.module, {key: surrogates[key] for key in keys}, *crops)
        return [[losses.get((site.path, name), 0.0) for name in names] for site, names in options]

    def evaluated(self, variant: str, seed: int) -> Evaluated:
        """What a variant has evaluated when its budget is spent."""
        if variant in SEARCHED:
            return self._searched(variant, seed)
        run = self.runs[variant]
        if variant == "random":
            rng = np.random.default_rng(seed)
            chosen = [random_assignment(run.space, rng, rng.uniform()) for _ in range(self.args.evaluations)]
        else:
            chosen = _greedy(run, self.args.evaluations)
        return {
            "assignments": chosen,
            "loss_db": [self.loss_db(variant, a) for a in chosen],
            "latency_ms": [run.bench.latency_table.additive_ms(a) for a in chosen],
        }

    def _searched(self, variant: str, seed: int) -> Evaluated:
        run = self.runs[variant]
        sites, names, table = run.space.sites, run.space.options, run.bench.latency_table
        fixed = table.fixed_ms([site.path for site in sites]) / len(sites)
        known = [[table.operator_ms(s.path, n) + fixed for n in own] for s, own in zip(sites, names, strict=True)]
        reference_db = REFERENCE_LOSSES * run.config.search.max_loss_db

        def costs(rows: Rows) -> Floats:
            losses = [self.loss_db(variant, changed(named_assignment(row, sites, names))) for row in rows.tolist()]
            return np.array([[min(loss, CAPPED_LOSSES * reference_db), np.nan] for loss in losses])

        found = minimize(
            costs,
            [len(own) for own in names],
            budget=self.args.evaluations,
            method=run.config.search.method,
            reference_point=(reference_db, sum(row[0] for row in known)),
            seed=seed,
            known={1: known},
            guess={} if variant == "no foresight" else {0: self.foreseen(variant)},
        )
        return {
            "assignments": [changed(named_assignment(row, sites, names)) for row in found.assignments.tolist()],
            "loss_db": found.costs[:, 0].tolist(),
            "latency_ms": found.costs[:, 1].tolist(),
        }


def main() -> None:
    study = Study("stage_ablation", __doc__ or "", options)
    args, run = study.args, study.run
    judges = Judges.of(args.root, "test", count=args.crops, side=args.side)
    ablation = Ablation(study)
    tuning = FinetuneConfig(steps=args.steps, batch=args.batch, crop=args.crop)
    teacher_ms = run.bench.latency_table.teacher.median_ms
    judged = {"crops": args.crops, "side": args.side}
    teacher = np.array(study.unit("teacher", judged, lambda: judges.psnr_db(run.teacher.module).tolist()))

    searched: dict[tuple[str, int], Evaluated] = {}
    scored: dict[tuple[str, float, int], dict[str, Any] | None] = {}
    for seed in range(args.seeds):
        for variant in VARIANTS:
            own_seed = 0 if variant == "greedy" else seed
            same = "full" if variant == "no saliency" and _same_space(ablation.runs[variant], run) else variant
            key = {"schema": 2, "evaluations": args.evaluations, "crops": args.search_crops, "side": args.side}
            key |= {"space": _described(ablation.runs[same])}
            make = partial(ablation.evaluated, same, own_seed)
            found = searched[variant, seed] = study.unit(f"searched.{_file(same)}.{own_seed}", key, make)
            for budget in args.budgets:
                pick = _best_within(found, budget * teacher_ms)
                if pick is None:
                    scored[variant, budget, seed] = None
                    continue
                own = judged | {"tuning": tuning.model_dump(), "assignment": pick, "fresh": same == "no distillation"}
                make = partial(_scores, ablation, judges, same, pick, tuning)
                scored[variant, budget, seed] = study.unit(f"tuned.{_file(same)}.{budget}.{own_seed}", own, make)

    measured = _measured(study, ablation, searched) if args.samples else None
    summary = {
        variant: {
            str(budget): _summary(
                [scored[variant, budget, seed] for seed in range(args.seeds)],
                [scored["full", budget, seed] for seed in range(args.seeds)],
                teacher,
                judges,
            )
            for budget in args.budgets
        }
        for variant in VARIANTS
    }
    columns = [
        "variant",
        "latency budget",
        "latency, ms",
        "lost before, dB",
        "lost after fine-tuning, dB",
        "PSNR against full, dB",
    ]
    rows = [_row(variant, budget, summary[variant][str(budget)]) for budget in args.budgets for variant in VARIANTS]
    record = {
        "photographs": judges.photographs,
        "teacher_db": teacher.mean(),
        "teacher_ms": teacher_ms,
        "protected": {variant: list(ablation.runs[variant].protection.paths) for variant in VARIANTS},
        "no_saliency_is_the_same_space": _same_space(ablation.runs["no saliency"], run),
        "fastest_evaluated_ms": {
            v: min(min(searched[v, s]["latency_ms"]) for s in range(args.seeds)) for v in VARIANTS
        },
        "measured": measured,
        "variants": summary,
    }
    study.finish(columns, rows, record, _draw(searched, summary, teacher_ms, args))


def _file(variant: str) -> str:
    return variant.replace(" ", "_").replace("'", "")


def _described(run: Run) -> list[Any]:
    return [[site.path, names] for site, names in zip(run.space.sites, run.space.options, strict=True)]


def _same_space(first: Run, second: Run) -> bool:
    """Whether two runs offer the same choices; sites that only keep their block are none."""
    choices = [[entry for entry in _described(run) if len(entry[1]) > 1] for run in (first, second)]
    return choices[0] == choices[1]


def _greedy(run: Run, budget: int) -> list[dict[str, str]]:
    """Two walks from the least to the most salient site, by the fastest and by the closest operator."""
    scores, table, errors = run.saliency[run.config.space.protect_by], run.bench.latency_table, run.surrogates.errors
    open_sites = [(s.path, names[1:]) for s, names in zip(run.space.sites, run.space.options, strict=True) if names[1:]]
    salient = {site.path: score for site, score in zip(run.sites, scores, strict=True)}
    open_sites.sort(key=lambda entry: salient[entry[0]])
    costs: tuple[Callable[[str, str], float], ...] = (table.operator_ms, lambda path, name: errors[path, name])
    found = []
    for number, cost in enumerate(costs):
        steps = [(path, min(names, key=partial(cost, path))) for path, names in open_sites]
        count = budget // 2 + (budget % 2 if number == 0 else 0)
        lengths = np.unique(np.linspace(1, len(steps), count).round().astype(int))
        found += [dict(steps[:length]) for length in lengths]
    return found


def _best_within(found: Evaluated, budget_ms: float) -> dict[str, str] | None:
    """The assignment that lost least within a latency; None if none is fast enough."""
    within = [i for i, ms in enumerate(found["latency_ms"]) if ms <= budget_ms]
    return found["assignments"][min(within, key=lambda i: found["loss_db"][i])] if within else None


def _scores(
    ablation: Ablation, judges: Judges, variant: str, assignment: dict[str, str], tuning: FinetuneConfig
) -> dict[str, Any]:
    run = ablation.study.run
    start = ablation.network(variant, assignment)
    tuned = finetuned(run, start, tuning, seed=run.config.seed + 1)
    return {
        "assignment": assignment,
        "latency_ms": run.bench.latency_table.additive_ms(assignment),
        "before": judges.psnr_db(start).tolist(),
        "after": judges.psnr_db(tuned).tolist(),
    }


def _summary(
    mine: list[dict[str, Any] | None], full: list[dict[str, Any] | None], teacher: Floats, judges: Judges
) -> dict[str, Any] | None:
    """Losses with intervals over seeds and photographs; None where a seed has nothing within the budget.

    A crop on which the network is not finite counts as 0 dB, which ruins a mean: such crops are counted beside.
    """
    if any(row is None for row in mine + full):
        return None
    before, after, base = (
        np.array([row[state] for row in rows if row is not None])
        for state, rows in (("before", mine), ("after", mine), ("after", full))
    )

    def over_both(values: Floats) -> list[float]:
        def draw(rng: np.random.Generator) -> float:
            seeds = rng.integers(len(values), size=len(values))
            return float(values[np.ix_(seeds, judges.resampled(rng))].mean())

        return [float(values.mean()), *interval(draw)]

    return {
        "latency_ms": [row["latency_ms"] for row in mine if row is not None],
        "diverged_crops": int((before == 0).sum() + (after == 0).sum()),
        "replaced": [len(row["assignment"]) for row in mine if row is not None],
        "lost_before_db": over_both(teacher - before),
        "lost_after_db": over_both(teacher - after),
        "against_full_db": over_both(after - base),
    }


def _row(variant: str, budget: float, row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return [variant, f"{100 * budget:.0f} %", "not reached", "", "", ""]
    spreads = [spread(row[name][0], row[name][1:]) for name in ("lost_before_db", "lost_after_db", "against_full_db")]
    return [variant, f"{100 * budget:.0f} %", f"{np.mean(row['latency_ms']):.1f}", *spreads]


def _measured(study: Study, ablation: Ablation, searched: Mapping[tuple[str, int], Evaluated]) -> dict[str, Any]:
    """The chosen networks of the first seed, whole and in turns."""
    teacher_ms = study.run.bench.latency_table.teacher.median_ms
    picks = {
        (variant, budget): pick
        for budget in study.args.budgets
        for variant in VARIANTS
        if (pick := _best_within(searched[variant, 0], budget * teacher_ms)) is not None
    }

    def timed() -> dict[str, list[float]]:
        networks = {f"{variant} {budget}": ablation.network(variant, a) for (variant, budget), a in picks.items()}
        return study.latencies_ms({"teacher": study.run.teacher.module} | networks, study.args.samples)

    key = {"samples": study.args.samples, "device": study.run.bench.device.description.as_dict()}
    return study.unit("measured", key | {"picks": [[*name, a] for name, a in picks.items()]}, timed)


def _draw(
    searched: Mapping[tuple[str, int], Evaluated], summary: Any, teacher_ms: float, args: argparse.Namespace
) -> Figure:
    fig, (left, right) = figure(11.5, 4.6, 2, width_ratios=[1.2, 1])
    for variant, color in COLORS.items():
        # What a user with each latency budget gets, before fine-tuning: the lower hull of all seeds' evaluations.
        ms = np.concatenate([searched[variant, s]["latency_ms"] for s in range(args.seeds)])
        loss = np.concatenate([searched[variant, s]["loss_db"] for s in range(args.seeds)])
        order = np.argsort(ms)
        style = "--" if variant == "no saliency" else "-"
        left.step(
            ms[order], np.minimum.accumulate(loss[order]), where="post", color=color, lw=1.6, ls=style, label=variant
        )
    for budget in args.budgets:
        left.axvline(budget * teacher_ms, color=GRAY, lw=0.8, ls=":")
    left.set_yscale("symlog", linthresh=0.1)
    left.set_ylim(3, -0.02)
    left.set_xlabel("latency in ms, sum of the latency table (dotted: the budgets)")
    left.set_ylabel("PSNR lost in dB, validation crops")
    left.set_title(
        f"Before fine-tuning: best of {args.evaluations} evaluations, {args.seeds} seed(s)", loc="left", fontsize=10.5
    )
    left.legend(fontsize=9)
    shown = [v for v in VARIANTS if v != "full"]
    for shift, budget, marker in zip(np.linspace(-0.15, 0.15, len(args.budgets)), args.budgets, "osD^", strict=False):
        for y, variant in enumerate(shown):
            row = summary[variant][str(budget)]
            if row is None:
                right.text(
                    0.0,
                    y + shift,
                    f" not reached at {100 * budget:.0f} %",
                    va="center",
                    fontsize=8.5,
                    color=COLORS[variant],
                )
                continue
            point, low, high = row["against_full_db"]
            right.errorbar(
                point,
                y + shift,
                xerr=[[point - low], [high - point]],
                fmt=marker,
                ms=6,
                capsize=3,
                color=COLORS[variant],
            )
        right.plot([], [], marker, color=GRAY, label=f"within {100 * budget:.0f} % of the teacher's latency")
    right.axvline(0, color=TEAL, lw=1)
    right.set_yticks(range(len(shown)), shown)
    right.set_ylim(len(shown) - 0.4, -0.6)
    right.set_xlabel("PSNR against the full pipeline in dB, test photographs")
    right.set_title("After the same fine-tuning (95 % intervals)", loc="left", fontsize=10.5)
    right.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.45, -0.13))
    return fig


if __name__ == "__main__":
    main()
