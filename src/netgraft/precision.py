"""In which precision a network is delivered: what fewer bits cost it in quality, and what they gain in time.

Each network exists in several *forms*, one in single precision and others in fewer bits. The rule is in
:func:`choose`: of the forms that lose at most what is allowed, and are measurably faster than single precision, the
fastest. A form that mixes precisions is one more entry of the same mapping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from netgraft.devices import Latency
from netgraft.evaluate import Evaluation, paired_interval

SINGLE = "fp32"
"""The form that others are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormScore:
    """What a form of a network achieves."""

    evaluation: Evaluation
    """Its scores on the test images."""
    latency: Latency
    """Its latency, in one session with the other forms'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A form against the same network in single precision."""

    loss_db: float
    """Mean PSNR that it loses over the images; negative where it gains."""
    loss_interval_db: tuple[float, float]
    """95 % bootstrap interval of that, over the images in pairs."""
    speedup: float | None
    """The median latency in single precision, divided by its own; None if the device runs no single precision."""
    faster: bool | None
    """Whether its upper quartile lies below the lower one in single precision; None likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The form that is delivered, and why."""

    form: str
    """Its name, e.g. ``int8``."""
    reason: str
    """A sentence for the report."""
    as_asked: bool
    """Whether it is in the device's precision, within the allowed loss."""


def compare(reduced: FormScore, evaluation: Evaluation, single: Latency | None) -> Comparison:
    """A form against the same network in single precision, given the scores of the latter, and its latency if the
    device runs it."""
    before = [score.psnr_db for score in evaluation.scores]
    after = [score.psnr_db for score in reduced.evaluation.scores]
    interval = paired_interval(before, after)
    return Comparison(
        loss_db=float(np.mean(np.subtract(before, after))),
        loss_interval_db=interval,
        speedup=None if single is None else single.median_ms / reduced.latency.median_ms,
        faster=None if single is None else reduced.latency.q75_ms < single.q25_ms,
    )


def choose(compared: Mapping[str, Comparison | str], limit_db: float, *, single: bool) -> Choice:
    """The form that ships for a device.

    compared: the forms in fewer bits, by name, the preferred first; a form that the device refuses is its reason.
    limit_db: what one may lose at most. single: whether the device runs single precision, which is the alternative.
    """
    reasons = []
    best: tuple[float, str] | None = None
    for name, found in compared.items():
        wrong = _objection(name, found, limit_db)
        if wrong is not None:
            reasons.append(wrong)
        elif isinstance(found, Comparison):
            speed = found.speedup or 1.0
            if best is None or speed > best[0]:
                best = (speed, name)
    if best is not None:
        kept = compared[best[1]]
        assert isinstance(kept, Comparison), "what is refused is not the best"
        return Choice(form=best[1], reason=f"{_cost(best[1], kept)}: {best[1]} is delivered.", as_asked=True)
    told = "; ".join(reasons)
    if single:
        return Choice(form=SINGLE, reason=f"{told}: {SINGLE} is delivered.", as_asked=False)
    runs = [name for name, found in compared.items() if isinstance(found, Comparison)]
    form = min(runs, key=lambda name: _loss(compared[name])) if runs else SINGLE
    return Choice(form=form, reason=f"{told}. This device does not run {SINGLE}: {form} is delivered.", as_asked=False)


def _objection(name: str, found: Comparison | str, limit_db: float) -> str | None:
    """Why a form must not ship; None if it may."""
    if isinstance(found, str):
        return f"In {name} the device does not run the {found}"
    # Written so that NaN counts as too much.
    if not found.loss_db <= limit_db:
        return f"{_cost(name, found)}, more than max_precision_loss_db = {limit_db:g} allows"
    if found.faster is False:
        return f"{_cost(name, found)}, which is not measurably faster"
    return None


def _loss(found: Comparison | str) -> float:
    return found.loss_db if isinstance(found, Comparison) and math.isfinite(found.loss_db) else math.inf


def _cost(name: str, found: Comparison) -> str:
    low, high = found.loss_interval_db
    cost = f"{name} costs the student {found.loss_db:.3f} dB [{low:.3f}, {high:.3f}] against {SINGLE}"
    return cost if found.speedup is None else f"{cost} and makes it {found.speedup:.2f} times as fast"
