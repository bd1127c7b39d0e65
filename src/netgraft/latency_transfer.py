"""A new device's latency table from few measurements on it and the tables of other devices.

Devices differ, but not arbitrarily. With L[i, d] the logarithm of what entry i (an operator at a shape of site) costs
on base device d, m[i] the mean over the base devices and E[i, d] = L[i, d] - m[i], centered, how device d departs from
it, a new device is taken to be a draw of a Gaussian process around the equal mix:

    log y = m + offset + slope * m + sum over d of w_d * E[:, d] + f(features) + noise

The offset is free; slope and weights w are shrunk to zero, and so is f, which lets a new device be what no base device
is: a part linear in the features of a block (work, parameters, bytes, channels, resolution), a part of each operator,
and one of each operator that varies smoothly with the features. How strongly each is shrunk is learned from the base:
every base device is predicted from the others, and the likelihood of that is maximized, for all of them together and
for each alone, since an NPU departs from the mix in other ways than one more runtime of a processor. The probes weigh
these sets of strengths by how likely they are under each, and the prediction is the mixture.

Where to measure follows from the covariance alone: the next probe is the entry that takes most variance from the whole
table. A prediction is judged by the same few measurements: :class:`Prediction` has the rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from netgraft.devices.device import Unsupported
from netgraft.devices.measure import Latency
from netgraft.errors import DeviceError
from netgraft.latency import LatencyTable
from netgraft.nets.footprint import FLOAT_BYTES, Footprint
from netgraft.sites import Site

FloatArray = NDArray[np.float64]
Entry = tuple[str, str]
"""Shape key and operator."""

LEAST_SPEARMAN = 0.95
"""Rank correlation with the true table that a prediction must be expected to reach."""
FEWEST_PROBES = 5
"""Probes without which no prediction counts as good enough."""
OFFSET_SD = 3.0
"""Of a device's overall speed, in natural logarithms: hardly a restriction."""
EXPECTED_SD = (0.2, 1.0, 0.1, 0.2, 0.2, 0.05)
"""Where the learned strengths start from and are held, loosely: those of :class:`Strengths`, in their order."""
LOOSENESS = 1.5
"""Standard deviation of the logarithm of a strength around that."""
TRUST = 4.0
"""Probes that the spread learned from the base is worth against the misfit of the new device's own."""
DRAWS = 400
"""Tables that are drawn to see what rank correlation is to be expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFeatures:
    """What is known of a block without running it."""

    kind: str
    """The kind of its site: ``block``, ``down`` or ``up``."""
    operator: str
    """Its operator."""
    macs: int
    """Multiply-accumulates, deployed, batch 1."""
    params: int
    """Parameters, deployed."""
    bytes_moved: int
    """Its input, output and weights in fp32: the least that must be read or written."""
    in_channels: int
    """Channels of its input."""
    stride: int
    """Pixels of the image per pixel of its input, along one axis."""


def block_features(site: Site, operator: str, footprint: Footprint, size: tuple[int, int]) -> BlockFeatures:
    """The features of an operator at a site of a network for images of ``size`` (h, w)."""
    h, w = size
    values_in = site.in_channels * (h // site.stride) * (w // site.stride)
    values_out = site.out_channels * (h // site.out_stride) * (w // site.out_stride)
    return BlockFeatures(
        kind=site.kind,
        operator=operator,
        macs=footprint.macs,
        params=footprint.params,
        bytes_moved=FLOAT_BYTES * (values_in + values_out) + footprint.size_bytes,
        in_channels=site.in_channels,
        stride=site.stride,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """Standard deviations of the parts of a device, in natural logarithms of a latency."""

    slope: float
    """Of the slope over the mean table."""
    weight: float
    """Of the weights of the base devices, against those of a device like any of them."""
    linear: float
    """Of what a standardized feature does."""
    operator: float
    """Of what an operator costs more or less on this device, wherever it stands."""
    local: float
    """Of the same, varying with the features."""
    noise: float
    """Of what one entry costs more or less than all that, noise of the measurement included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A predicted table, and whether to trust it.

    The rule: it is good enough if it rests on at least :data:`FEWEST_PROBES` probes and the rank correlation
    (Spearman) between it and the true table is expected to reach :data:`LEAST_SPEARMAN`. That expectation is the mean
    over tables drawn from the posterior, whose variance grows as far as the new device's probes depart from what the
    other probes say of them more than the base devices taught to expect.
    """

    median_ms: Mapping[Entry, float]
    """Every entry; those that were probed as measured."""
    log_sd: Mapping[Entry, float]
    """Standard deviation of each in natural logarithms, 0 for those that were probed."""
    left_out_ms: Mapping[Entry, float]
    """What the other probes say of each probe."""
    left_out_error_percent: float
    """Median over the probes of how far that is off."""
    left_out_spearman: float
    """Rank correlation of that with the measurements; NaN for fewer than three probes."""
    misfit: float
    """By how much the standard deviations were multiplied because the probes depart from what was expected."""
    expected_spearman: float
    """Rank correlation with the true table that is to be expected."""
    reason: str | None
    """Why the prediction is not good enough, in one line; None if it is."""

    @property
    def good_enough(self) -> bool:
        """Whether a search may use it."""
        return self.reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """How a new device departs from the mean of the base devices."""

    strengths: Strengths
    covariance: FloatArray
    """(n, n), without noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferModel:
    """What the base devices teach of a device that is new; from :func:`learn`."""

    entries: tuple[Entry, ...]
    """The n entries that are predicted."""
    left_out: tuple[Entry, ...]
    """Entries that a base device refuses, or that cost it nothing: nothing is said of them."""
    mean: FloatArray
    """(n,) mean of the logarithm of the latency in ms over the base devices."""
    priors: tuple[Prior, ...]
    """What to expect of a new device, learned from all base devices together, then from each alone."""

    def choose_probes(self, count: int) -> tuple[Entry, ...]:
        """Entries to measure, each the one that takes most variance from the whole table, given those before it."""
        left, chosen = self.priors[0].covariance.copy(), list[int]()
        noise = self.priors[0].strengths.noise ** 2
        for _ in range(min(count, len(self.entries))):
            gain = (left**2).sum(axis=0) / (np.diag(left) + noise)
            gain[chosen] = -np.inf
            best = int(np.argmax(gain))
            chosen.append(best)
            left -= np.outer(left[best], left[best]) / (left[best, best] + noise)
        return tuple(self.entries[i] for i in chosen)

    def predict(self, probes_ms: Mapping[Entry, float]) -> Prediction:
        """The whole table from latencies that were measured on the new device.

        Raises:
            DeviceError: there is no probe, one that the base does not know, or one that is no positive number.
        """
        at, seen = self._checked(probes_ms)
        each = [_given(prior, at, seen - self.mean[at]) for prior in self.priors]
        likelihood = np.array([one.log_likelihood for one in each])
        weights = np.exp(likelihood - likelihood.max())
        weights /= weights.sum()
        change = weights @ np.array([one.change for one in each])
        spread = np.zeros_like(self.priors[0].covariance)
        for weight, one in zip(weights, each, strict=True):
            spread += weight * (one.spread + np.outer(one.change - change, one.change - change))
        predicted = self.mean + change
        left_out = seen - weights @ np.array([one.left_out for one in each])
        misfit = float(weights @ [one.misfit for one in each])
        predicted[at], spread[at], spread[:, at] = seen, 0.0, 0.0
        expected = _expected_spearman(predicted, spread)
        ranked = spearman(left_out, seen) if len(at) >= 3 else math.nan
        error = 100 * float(np.median(np.abs(np.expm1(left_out - seen))))
        return Prediction(
            median_ms=dict(zip(self.entries, np.exp(predicted).tolist(), strict=True)),
            log_sd=dict(zip(self.entries, np.sqrt(np.maximum(np.diag(spread), 0)).tolist(), strict=True)),
            left_out_ms={self.entries[i]: float(np.exp(value)) for i, value in zip(at, left_out, strict=True)},
            left_out_error_percent=error,
            left_out_spearman=ranked,
            misfit=misfit,
            expected_spearman=expected,
            reason=_objection(len(at), expected, error),
        )

    def _checked(self, probes_ms: Mapping[Entry, float]) -> tuple[list[int], FloatArray]:
        """Positions and logarithms of the probes."""
        if not probes_ms:
            raise DeviceError("no probe: a new device's latencies cannot be predicted without measuring any of them")
        place = {entry: i for i, entry in enumerate(self.entries)}
        for (shape, operator), ms in probes_ms.items():
            if (shape, operator) not in place:
                raise DeviceError(f"the probe {operator} at {shape} is no entry that all base tables measured")
            if not (math.isfinite(ms) and ms > 0):
                raise DeviceError(f"the probe {operator} at {shape} took {ms:g} ms: it must be above zero")
        return [place[entry] for entry in probes_ms], np.log(list(probes_ms.values()))


def learn(base: Sequence[LatencyTable], features: Mapping[Entry, BlockFeatures], *, mix: bool = True) -> TransferModel:
    """Learn from base devices' tables of the same entries what to expect of another device.

    mix: without, a new device is described by the features alone, and the base only tells how strongly.

    Raises:
        DeviceError: there is no table, two of them have other entries or another image size, or an entry has no
        features.
    """
    _check_tables(base)
    entries, left_out, logs = _columns(base)
    missing = [entry for entry in entries if entry not in features]
    if missing:
        raise DeviceError(f"no features of {missing[0][1]} at {missing[0][0]}, an entry of the base tables")
    parts = _feature_parts([features[entry] for entry in entries])
    count = logs.shape[1]
    # What one device teaches alone needs at least two others to be told from.
    groups = [range(count if count > 1 else 0), *([device] for device in range(count if count > 2 else 0))]
    learned = [_learned_strengths(logs, parts, mix, group) for group in groups]
    mean, _ = _prior(logs, parts, learned[0], mix)
    priors = tuple(Prior(strengths=one, covariance=_prior(logs, parts, one, mix)[1]) for one in learned)
    return TransferModel(entries=entries, left_out=left_out, mean=mean, priors=priors)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """A prior after k probes."""

    log_likelihood: float
    """Of the probes."""
    change: FloatArray
    """(n,) expected departure from the mean."""
    spread: FloatArray
    """(n, n) covariance around that, noise and misfit included."""
    left_out: FloatArray
    """(k,) how far each probe is above what the others say of it."""
    misfit: float


def _given(prior: Prior, at: list[int], departure: FloatArray) -> _Given:
    """Probes at these positions depart so much from the mean."""
    noise = prior.strengths.noise**2
    covariance = prior.covariance[np.ix_(at, at)] + noise * np.eye(len(at))
    inverse = np.linalg.inv(covariance)
    cross, surprise = prior.covariance[:, at], inverse @ departure
    # Each probe by the others, in closed form.
    left_out = surprise / np.diag(inverse)
    misfit = math.sqrt(max(1.0, (TRUST + float(left_out @ surprise)) / (TRUST + len(at))))
    # Noise is what an entry has for its own, so that it belongs to what is not known of those not probed.
    spread = prior.covariance - cross @ inverse @ cross.T + noise * np.eye(len(cross))
    return _Given(
        log_likelihood=-_surprise(departure, covariance),
        change=cross @ surprise,
        spread=misfit**2 * spread,
        left_out=left_out,
        misfit=misfit,
    )


def _check_tables(base: Sequence[LatencyTable]) -> None:
    if not base:
        raise DeviceError("no base table: a new device's latencies are predicted from other devices' tables")
    for number, table in enumerate(base, 1):
        if any(isinstance(entry, Latency) and entry.predicted for entry in table.entries.values()):
            raise DeviceError(f"base table {number} was predicted itself: only measured ones can serve")
    first = base[0]
    for number, table in enumerate(base[1:], 2):
        if table.size != first.size:
            raise DeviceError(f"base table {number} is for images of {table.size}, the first one for {first.size}")
        odd = sorted(table.entries.keys() ^ first.entries.keys())
        if odd:
            (shape, operator), place = odd[0], "the first one" if odd[0] in first.entries else f"base table {number}"
            raise DeviceError(f"the base tables have different entries: only {place} has {operator} at {shape}")


def _columns(base: Sequence[LatencyTable]) -> tuple[tuple[Entry, ...], tuple[Entry, ...], FloatArray]:
    """Entries that all devices run, those that one refuses, and (n, D) logarithms of latencies in ms."""

    def runs(entry: Latency | Unsupported) -> bool:
        return isinstance(entry, Latency) and entry.median_ms > 0

    refused = {key for table in base for key, entry in table.entries.items() if not runs(entry)}
    entries = tuple(key for key in base[0].entries if key not in refused)
    if not entries:
        raise DeviceError("the base tables have no entry that all of their devices run")
    columns = [[entry.median_ms for key in entries if isinstance(entry := t.entries[key], Latency)] for t in base]
    return entries, tuple(key for key in base[0].entries if key in refused), np.log(np.array(columns)).T


def _feature_parts(features: Sequence[BlockFeatures]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Covariances (n, n) of unit strength: linear in the features, by operator, by operator and features."""
    numbers = np.log1p(np.array([astuple(row)[2:] for row in features], dtype=np.float64))
    spread = numbers.std(axis=0)
    scaled = (numbers - numbers.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    names = np.array([f"{row.kind}:{row.operator}" for row in features])
    same = (names[:, None] == names[None, :]).astype(np.float64)
    near = np.exp(-0.5 * cdist(scaled, scaled, "sqeuclidean") / scaled.shape[1])
    return scaled @ scaled.T, same, same * near


def _prior(
    logs: FloatArray, parts: tuple[FloatArray, FloatArray, FloatArray], strengths: Strengths, mix: bool
) -> tuple[FloatArray, FloatArray]:
    """Mean (n,) and covariance (n, n) of a device, given (n, D) logarithms of the base devices' latencies."""
    linear, operator, local = parts
    covariance = strengths.linear**2 * linear + strengths.operator**2 * operator + strengths.local**2 * local
    covariance = covariance + OFFSET_SD**2
    if not mix:
        return np.full(len(logs), logs.mean()), covariance
    mean = logs.mean(axis=1)
    centered = mean - mean.mean()
    departures = logs - mean[:, None]
    departures = departures - departures.mean(axis=0)
    devices = departures @ departures.T / max(1, logs.shape[1] - 1)
    covariance = covariance + strengths.slope**2 * np.outer(centered, centered) + strengths.weight**2 * devices
    return mean, covariance


def _learned_strengths(
    logs: FloatArray, parts: tuple[FloatArray, FloatArray, FloatArray], mix: bool, devices: Sequence[int]
) -> Strengths:
    """Those that make each of these base devices likely, given the others; without any, those that are expected."""
    expected = np.log(EXPECTED_SD)

    def cost(sizes: FloatArray) -> float:
        strengths = Strengths(**dict(zip(_NAMES, np.exp(sizes).tolist(), strict=True)))
        total = 0.5 * float(np.sum(((sizes - expected) / LOOSENESS) ** 2))
        for device in devices:
            mean, covariance = _prior(np.delete(logs, device, axis=1), parts, strengths, mix)
            total += _surprise(logs[:, device] - mean, covariance + strengths.noise**2 * np.eye(len(mean)))
        return total

    bounds = [(low, low + 10) for low in expected - 5]
    found = optimize.minimize(  # type: ignore[no-untyped-call]
        cost, expected, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40}
    )
    return Strengths(**dict(zip(_NAMES, np.exp(found.x).tolist(), strict=True)))


_NAMES = tuple(Strengths.__dataclass_fields__)


def _surprise(residual: FloatArray, covariance: FloatArray) -> float:
    """Negative logarithm of the likelihood, up to a constant."""
    _, size = np.linalg.slogdet(covariance)
    return float(0.5 * residual @ np.linalg.solve(covariance, residual) + 0.5 * size)


def _expected_spearman(predicted: FloatArray, spread: FloatArray) -> float:
    """Mean rank correlation between the prediction and tables drawn around it."""
    values, vectors = np.linalg.eigh(spread)
    root = vectors * np.sqrt(np.maximum(values, 0))
    draws = predicted + np.random.default_rng(0).standard_normal((DRAWS, len(predicted))) @ root.T
    return float(np.mean([spearman(predicted, draw) for draw in draws]))


def spearman(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Rank correlation of two (n,) arrays; NaN if one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _objection(probes: int, expected: float, error_percent: float) -> str | None:
    if probes < FEWEST_PROBES:
        return f"{probes} probes are too few to judge a prediction by: at least {FEWEST_PROBES} are needed"
    if not expected >= LEAST_SPEARMAN:
        return (
            f"the predicted ranks are expected to agree with the device's by {expected:.3f} (Spearman), not "
            f"{LEAST_SPEARMAN:g}; the probes are {error_percent:.0f} % off what the others say of them"
        )
    return None
