"""The front before and after fine-tuning: not only the fastest point.

    python -m benchmarks.studies.front_finetuning runs/demo --root PHOTOS [--samples 40]

Points spread over the run's front, from the slowest that is not the teacher to the fastest, each get the same number
of fine-tuning steps; the teacher gets them too, as the control: what further training on these images gives by
itself. PSNR lost is against the untouched teacher on test crops, with intervals over photographs. Latencies are sums
of the latency table; with ``--samples`` the networks are also measured whole, in turns. Reported beside: how much of
the loss fine-tuning recovers, and whether the order of the points changes.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
from benchmarks.studies.judging import Floats, Judges, interval
from benchmarks.studies.students import changed, finetuned, student
from benchmarks.studies.study import AMBER, GRAY, PINK, TEAL, Study, figure, spread
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from netgraft.finetune import FinetuneConfig


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120, help="of fine-tuning")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=64, help="side of the fine-tuning's crops")
    parser.add_argument("--crops", type=int, default=30, help="test crops")
    parser.add_argument("--side", type=int, default=128, help="their side in pixels")
    parser.add_argument("--samples", type=int, default=0, help="timing samples of each whole network; 0 measures none")


def main() -> None:
    study = Study("front_finetuning", __doc__ or "", options)
    args, run = study.args, study.run
    judges = Judges.of(args.root, "test", count=args.crops, side=args.side)
    tuning = FinetuneConfig(steps=args.steps, batch=args.batch, crop=args.crop)
    points = [{}, *_spread_out(study.result["front"], args.points)]

    judged = {"crops": args.crops, "side": args.side}
    key = judged | {"tuning": tuning.model_dump()}
    scored = [
        study.unit(f"point.{i}", key | {"assignment": a}, partial(_scores, study, judges, a, tuning))
        for i, a in enumerate(points)
    ]
    before, after = (np.array([row[state] for row in scored]) for state in ("before", "after"))
    latency = np.array([run.bench.latency_table.additive_ms(a) for a in points])
    measured: list[list[float]] | None = None
    if args.samples:
        timing = {"samples": args.samples, "points": points, "device": run.bench.device.description.as_dict()}
        rows = study.unit("measured", timing, partial(_measured, study, points))
        measured = [rows[str(i)] for i in range(len(points))]
        latency = np.array([row[0] for row in measured])

    teacher = before[0]
    lost = {"before": teacher - before, "after": teacher - after}
    summary = {
        state: [[float(row.mean()), *_over_photographs(row, judges)] for row in rows] for state, rows in lost.items()
    }
    recovered = [[float((a - b).mean()), *_over_photographs(a - b, judges)] for a, b in zip(after, before, strict=True)]
    columns = [
        "point",
        "sites replaced",
        "latency, ms",
        "lost before, dB",
        "lost after, dB",
        "gained by fine-tuning, dB",
    ]
    names = ["teacher", *(str(i) for i in range(1, len(points)))]
    table = [
        [
            names[i],
            str(len(points[i])),
            f"{latency[i]:.1f}",
            spread(summary["before"][i][0], summary["before"][i][1:]),
            spread(summary["after"][i][0], summary["after"][i][1:]),
            spread(recovered[i][0], recovered[i][1:]),
        ]
        for i in range(len(points))
    ]
    record = {
        "photographs": judges.photographs,
        "latency": "measured whole" if measured else "sum of the latency table",
        "latency_ms": latency,
        "measured_ms": measured,
        "replaced": [len(a) for a in points],
        "teacher_db": teacher.mean(),
        "lost_db": summary,
        "gained_db": recovered,
        "kendall_tau_before_after": _taus(before[1:], after[1:], judges),
    }
    study.finish(columns, table, record, _draw(latency, summary, measured is not None))


def _spread_out(front: list[dict[str, Any]], count: int) -> list[dict[str, str]]:
    """``count`` points of the front, evenly over its latencies; the teacher itself is not one of them."""
    rows = sorted((row for row in front if changed(row["assignment"])), key=lambda row: -row["latency_ms"])
    times = np.array([row["latency_ms"] for row in rows])
    wanted = np.linspace(times[0], times[-1], count)
    picks = sorted({int(np.abs(times - ms).argmin()) for ms in wanted})
    return [changed(rows[i]["assignment"]) for i in picks]


def _scores(study: Study, judges: Judges, assignment: dict[str, str], tuning: FinetuneConfig) -> dict[str, list[float]]:
    run = study.run
    start = student(run, assignment, run.surrogates.modules)
    tuned = finetuned(run, start, tuning, seed=run.config.seed + 1)
    return {"before": judges.psnr_db(start).tolist(), "after": judges.psnr_db(tuned).tolist()}


def _measured(study: Study, points: list[dict[str, str]]) -> dict[str, list[float]]:
    run = study.run
    networks = {str(i): student(run, a, run.surrogates.modules) for i, a in enumerate(points)}
    return study.latencies_ms(networks, study.args.samples)


def _over_photographs(values: Floats, judges: Judges) -> Floats:
    return interval(lambda rng: float(values[judges.resampled(rng)].mean()))


def _taus(before: Floats, after: Floats, judges: Judges) -> list[float]:
    """Kendall's tau of the points' PSNR before and after, low, high; over photographs alone, the points are given."""

    def tau(crops: slice | np.ndarray) -> float:
        return float(kendalltau(before[:, crops].mean(1), after[:, crops].mean(1)).statistic)

    return [tau(slice(None)), *interval(lambda rng: tau(judges.resampled(rng)))]


def _draw(latency: Floats, summary: dict[str, list[list[float]]], measured: bool) -> Figure:
    fig, axes = figure(8, 4.6)
    apart = 0.006 * np.ptp(latency)
    for state, color, label, shift in (("before", GRAY, "as assembled", -apart), ("after", PINK, "fine-tuned", apart)):
        point, low, high = np.array(summary[state][1:]).T
        bars = [point - low, high - point]
        axes.errorbar(latency[1:] + shift, point, yerr=bars, fmt="o-", color=color, capsize=3, lw=1.2, label=label)
    axes.plot(latency[0], 0, "s", ms=9, color=TEAL, label="teacher")
    point, low, high = summary["after"][0]
    axes.errorbar(
        latency[0], point, yerr=[[point - low], [high - point]], fmt="D", ms=6, color=AMBER, capsize=3,
        label="teacher, fine-tuned as long",
    )  # fmt: skip
    axes.axhline(0, color=TEAL, lw=0.8, ls="--")
    axes.invert_yaxis()
    axes.set_xlabel(f"latency in ms, {'measured whole' if measured else 'sum of the latency table'}")
    axes.set_ylabel("PSNR lost against the teacher in dB")
    axes.set_title(
        "The front before and after the same fine-tuning (95 % intervals over photographs)", loc="left", fontsize=10.5
    )
    axes.legend(loc="lower right")
    return fig


if __name__ == "__main__":
    main()
