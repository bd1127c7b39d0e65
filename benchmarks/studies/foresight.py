"""Is the loss by each replacement foreseen rightly?

    python -m benchmarks.studies.foresight runs/demo --root PHOTOS

Every option of every site alone, judged on validation photographs, is the truth. Spearman's rank correlation with it
is the answer for the foreseen loss, and for what else is known before any network is put together: the feature error,
the site's saliency, and their product. Intervals resample photographs and replacements.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from benchmarks.studies.judging import Floats, Judges, interval
from benchmarks.studies.students import student
from benchmarks.studies.study import CYCLE, GRAY, Study, figure, spread
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from netgraft.distill import SurrogateKey
from netgraft.foresight import foreseen_losses_db
from netgraft.stages.judge import FORESIGHT_SIDE

LEAST_DB = 1e-3
"""Losses are drawn as at least this."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--crops", type=int, default=24, help="validation crops")
    parser.add_argument("--side", type=int, default=128, help="their side in pixels")


def main() -> None:
    study = Study("foresight", __doc__ or "", options)
    args, run = study.args, study.run
    judges = Judges.of(args.root, "validation", count=args.crops, side=args.side)
    keys = [(site.path, name) for site, own in zip(run.space.sites, run.space.options, strict=True) for name in own[1:]]

    def measured() -> dict[str, Any]:
        began = time.process_time()
        teacher = judges.psnr_db(run.teacher.module)
        alone = [teacher - judges.psnr_db(student(run, {p: n}, run.surrogates.modules)) for p, n in keys]
        return {"lost_db": np.array(alone).tolist(), "cpu_seconds": time.process_time() - began}

    def expected() -> dict[str, Any]:
        began = time.process_time()
        crops = Judges.of(None, "train", count=run.config.search.foresight_crops, side=FORESIGHT_SIDE)
        surrogates = {key: run.surrogates.modules[key] for key in keys}
        losses = foreseen_losses_db(run.teacher.module, surrogates, crops.degraded, crops.clean)
        return {"losses_db": list(losses.values()), "cpu_seconds": time.process_time() - began}

    truth_unit = study.unit("measured", {"crops": args.crops, "side": args.side, "of": keys}, measured)
    guess_unit = study.unit("expected", {"crops": run.config.search.foresight_crops, "of": keys}, expected)
    truth = np.array(truth_unit["lost_db"])
    saliency = dict(zip((s.path for s in run.sites), run.saliency[run.config.space.protect_by], strict=True))
    errors = run.surrogates.errors
    scores: dict[str, Floats] = {
        "foreseen loss": np.array(guess_unit["losses_db"]),
        "saliency x feature error": np.array([saliency[path] * errors[path, name] for path, name in keys]),
        "feature error": np.array([errors[key] for key in keys]),
        "saliency": np.array([saliency[path] for path, _ in keys]),
    }
    ranks = {name: _correlation(values, truth, judges) for name, values in scores.items()}
    ranks["truth, half against half"] = _halves(truth, judges)
    ahead = {name: _ahead(scores["foreseen loss"], scores[name], truth, judges) for name in list(scores)[1:]}
    columns = ["known before the search", "rank correlation", "foreseen loss ahead by"]
    rows = [
        [name, spread(found[0], found[1:]), spread(ahead[name][0], ahead[name][1:]) if name in ahead else "-"]
        for name, found in ranks.items()
    ]
    record = {
        "photographs": judges.photographs,
        "replacements": len(keys),
        "cpu_seconds": {"foreseen": guess_unit["cpu_seconds"], "measured": truth_unit["cpu_seconds"]},
        "spearman": ranks,
        "foreseen_ahead": ahead,
        "lost_db": {"|".join(key): float(row.mean()) for key, row in zip(keys, truth, strict=True)},
        "foreseen_db": {"|".join(key): float(v) for key, v in zip(keys, scores["foreseen loss"], strict=True)},
    }
    study.finish(columns, rows, record, _draw(keys, scores["foreseen loss"], truth.mean(1)))


def _rho(guess: Floats, truth: Floats) -> float:
    return float(spearmanr(guess, truth).statistic)


def _drawn(truth: Floats, judges: Judges, rng: np.random.Generator) -> tuple[Any, Floats]:
    """Replacements drawn with replacement, and their mean losses on photographs drawn with replacement."""
    picks = rng.integers(len(truth), size=len(truth))
    return picks, truth[np.ix_(picks, judges.resampled(rng))].mean(1)


def _correlation(guess: Floats, truth: Floats, judges: Judges) -> list[float]:
    def draw(rng: np.random.Generator) -> float:
        picks, losses = _drawn(truth, judges, rng)
        return _rho(guess[picks], losses)

    return [_rho(guess, truth.mean(1)), *interval(draw)]


def _ahead(first: Floats, second: Floats, truth: Floats, judges: Judges) -> list[float]:
    """How much higher the first's correlation is, on the same draws."""

    def draw(rng: np.random.Generator) -> float:
        picks, losses = _drawn(truth, judges, rng)
        return _rho(first[picks], losses) - _rho(second[picks], losses)

    return [_rho(first, truth.mean(1)) - _rho(second, truth.mean(1)), *interval(draw)]


def _halves(truth: Floats, judges: Judges) -> list[float]:
    """The correlation of the losses on a random half of the photographs with those on the other half."""
    names = np.unique(judges.photograph)

    def draw(rng: np.random.Generator) -> float:
        first = np.isin(judges.photograph, rng.permutation(names)[: len(names) // 2])
        return _rho(truth[:, first].mean(1), truth[:, ~first].mean(1))

    rng = np.random.default_rng(0)
    return [float(np.mean([draw(rng) for _ in range(200)])), *interval(draw, draws=200)]


def _draw(keys: list[SurrogateKey], guess: Floats, truth: Floats) -> Figure:
    fig, axis = figure(6.4, 4.6)
    names = list(dict.fromkeys(name for _, name in keys))
    for number, name in enumerate(names):
        own = [i for i, key in enumerate(keys) if key[1] == name]
        x, y = (np.maximum(values[own], LEAST_DB) for values in (guess, truth))
        axis.scatter(x, y, s=34, color=CYCLE[number % len(CYCLE)], label=name, alpha=0.85)
    ends = [LEAST_DB, max(guess.max(), truth.max())]
    axis.plot(ends, ends, color=GRAY, ls=":", lw=1)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("foreseen loss in dB, from 8 training crops")
    axis.set_ylabel("measured loss in dB, validation crops")
    axis.set_title("Each replacement alone (what is less than 0.001 dB stands there)", loc="left", fontsize=10.5)
    axis.legend(fontsize=9)
    return fig


if __name__ == "__main__":
    main()
