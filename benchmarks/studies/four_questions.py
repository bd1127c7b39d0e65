"""The four questions that arXiv 2601.11685 leaves open, answered from one finished run of any network.

    python -m benchmarks.studies.four_questions RUN --label maxim_denoising [--publish]

Does saliency predict what a site is worth? Each metric against the PSNR that is lost when the site alone is dropped.
Are losses additive? The sum of what every replacement loses alone against what they lose together, for all assignments
that the search evaluated. Are latencies additive? Sums of blocks against whole networks that the run measured, both as
shares of the teacher's latency in the same session. Does the surrogates' fidelity predict quality? The feature error of
each against what it loses alone, and the sum of errors against what an assignment loses. All losses are those that the
search saw: before fine-tuning, on the run's own validation crops.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from benchmarks.studies.judging import Floats, rank_agreement
from benchmarks.studies.study import GRAY, PINK, TEAL, Study, figure, rank_bars, spread
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from netgraft.operators import options_for
from netgraft.sites import KEEP
from netgraft.stages.joint import LOSS

Pairs = tuple[Floats, Floats]
NOTHING = ("drop", "add")
"""What stands for an absent block: of one input, of several."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--label", required=True, help="of the network and its task, e.g. maxim_denoising")


def main() -> None:
    study = Study("four_questions", __doc__ or "", options)
    study.name, study.page = f"four_questions_{study.args.label}", "maxim.md"
    run = study.run
    alone = _losses_alone(study)
    dropped = {
        site: next(alone[site.path, name] for name in NOTHING if (site.path, name) in alone)
        for site in run.open_sites
        if any((site.path, name) in alone for name in NOTHING)
    }
    metrics = study.unit("saliency", {}, partial(study.metrics, list(dropped), study.config.seed))
    truth = np.array(list(dropped.values()))
    worth = {name: (np.array(values), truth) for name, values in metrics.items()}
    worth["MACs"] = (np.array([float(site.macs) for site in dropped]), truth)

    together = _assembled(study)
    lost = np.array([loss for _, loss in together])
    sums = np.array([sum(alone[pair] for pair in changed.items()) for changed, _ in together])
    errors = run.surrogates.errors
    error_sums = np.array([sum(errors[pair] for pair in changed.items()) for changed, _ in together])
    fidelity = np.array([errors[pair] for pair in alone]), np.array(list(alone.values()))
    latencies = _latencies(study)

    found: dict[str, tuple[str, Pairs]] = {
        f"{name} against what dropping the site loses": ("saliency", pair) for name, pair in worth.items()
    }
    found["sum of single losses against the loss together"] = ("losses", (sums, lost))
    found["sum of blocks' latencies against the whole network's"] = ("latencies", latencies)
    found["a surrogate's feature error against what it loses alone"] = ("fidelity", fidelity)
    found["sum of feature errors against the loss together"] = ("fidelity", (error_sums, lost))
    record: dict[str, Any] = {"network": run.teacher.description, "degradation": run.config.data.degradation_in_words}
    record["answers"] = {
        name: {"spearman": rank_agreement(*pair), "n": len(pair[0])} for name, (_, pair) in found.items()
    }
    off_db = np.abs(sums - lost)
    record["off_db"] = off_db.tolist()
    record["off_latency"] = (np.abs(latencies[0] / latencies[1] - 1) * 100).tolist()
    ranks = {name: answer["spearman"] for name, answer in record["answers"].items()}
    rows = [
        [question, name, str(len(pair[0])), spread(ranks[name][0], ranks[name][1:])]
        for name, (question, pair) in found.items()
    ]
    rows.append(["losses", "median absolute error of the sum, dB", str(len(lost)), f"{np.median(off_db):.2f}"])
    off = np.median(record["off_latency"])
    rows.append(["latencies", "median absolute error of the sum, %", str(len(latencies[0])), f"{off:.1f}"])
    columns = ["question", "what against what", "pairs", "Spearman [95 %], or error"]
    study.finish(columns, rows, record, _draw(worth, (sums, lost), latencies, fidelity, record["network"]))


def _losses_alone(study: Study) -> dict[tuple[str, str], float]:
    """PSNR lost by every surrogate when it is the only one."""
    run, found = study.run, {}
    known = {tuple(changed.items()): loss for changed, loss in _evaluated(study)}
    for site in run.open_sites:
        for name in options_for(site, run.pool)[1:]:
            key = (site.path, name)
            if key not in run.surrogates.errors:
                continue
            found[key] = known[(key,)] if (key,) in known else study.unit("/".join(key), {}, partial(_lost, study, key))
    return found


def _lost(study: Study, key: tuple[str, str]) -> float:
    return min(study.run.teacher_validation_db - study.run.scores.psnr_db(dict([key])), study.run.cap_db)


def _evaluated(study: Study) -> list[tuple[dict[str, str], float]]:
    """What the search evaluated: what was replaced by what, and the loss in dB."""
    search = study.run.search
    rows = zip(search.assignments.tolist(), search.costs[:, LOSS].tolist(), strict=True)
    return [({p: n for p, n in study.run.name_row(row).items() if n != KEEP}, loss) for row, loss in rows]


def _assembled(study: Study) -> list[tuple[dict[str, str], float]]:
    """Those of them with several replacements, whose loss is not so large that the search cut it off."""
    cap = study.run.cap_db
    return [(changed, loss) for changed, loss in _evaluated(study) if len(changed) > 1 and loss < cap]


def _latencies(study: Study) -> Pairs:
    """Sums of blocks and measured networks, as shares of the teacher's latency."""
    bench, result = study.run.bench, study.result
    table = bench.latency_table
    assignments, measured = bench.checked_networks
    pairs = [
        (table.additive_ms(assignment), ms / table.teacher.median_ms)
        for assignment, ms in zip(assignments, measured, strict=True)
    ]
    whole_ms = result["teacher"]["latency_ms"]["median"]
    front: list[Mapping[str, Any]] = [entry for entry in result["front"] if entry["measured"]]
    pairs += [(table.additive_ms(entry["assignment"]), entry["latency_ms"] / whole_ms) for entry in front]
    sums, shares = np.array(pairs).T
    return sums / table.additive_ms({}), shares


def _draw(worth: Mapping[str, Pairs], losses: Pairs, latencies: Pairs, fidelity: Pairs, network: str) -> Figure:
    fig, axes = figure(11, 8.4, 2, rows=2)
    bars, sums, times, errors = axes.flat
    rank_bars(bars, {name: rank_agreement(*pair) for name, pair in worth.items()})
    bars.set_title(f"Does saliency predict the loss? {network}", loc="left", fontsize=10.5)
    _scatter(sums, losses, "sum of the losses of each replacement alone, dB", "lost together, dB", symlog=True)
    sums.set_title("Are losses additive? Before fine-tuning", loc="left", fontsize=10.5)
    _scatter(times, latencies, "sum of blocks, share of the teacher's", "measured whole, share of the teacher's")
    times.set_title("Are latencies additive?", loc="left", fontsize=10.5)
    errors.plot(*fidelity, "o", ms=4, color=PINK, alpha=0.7)
    errors.set_xscale("symlog", linthresh=1e-3)
    errors.set_yscale("symlog", linthresh=0.01)
    errors.set_xlabel("normalized feature error of the surrogate")
    errors.set_ylabel("PSNR lost by it alone, dB")
    errors.set_title("Does fidelity predict quality?", loc="left", fontsize=10.5)
    return fig


def _scatter(axes: Axes, pair: Pairs, x: str, y: str, *, symlog: bool = False) -> None:
    axes.plot(*pair, "o", ms=4, color=TEAL, alpha=0.7)
    low, high = min(map(np.min, pair)), max(map(np.max, pair))
    axes.plot([low, high], [low, high], color=GRAY, lw=0.8)
    if symlog:
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_yscale("symlog", linthresh=0.1)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


if __name__ == "__main__":
    main()
