"""Corrections of summed latencies, on made-up devices whose true latencies are known."""

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from netgraft.devices.device import Unsupported
from netgraft.devices.measure import Latency
from netgraft.errors import DeviceError, StoreError
from netgraft.latency import LatencyTable
from netgraft.latency_model import Assignment, ChainLatency, LatencyModel, fit, left_out_ms
from netgraft.sites import KEEP, Site

OPERATORS = ("drop", "conv3", "half_res")
BLOCKS = 12
SIZE = (100, 100)


def ms(median: float) -> Latency:
    return Latency(median_ms=median, q25_ms=median, q75_ms=median, cpu_median_ms=median, runs=1, contended=0.0)


def block(number: int) -> Site:
    """Every other block at half the resolution, with twice the channels: 1 and 0.5 million values."""
    stride = 1 + number % 2
    return Site(
        path=f"blocks.{number}",
        kind="block",
        stride=stride,
        out_stride=stride,
        in_channels=100 * stride,
        out_channels=100 * stride,
        macs=1,
        macs_share=1 / BLOCKS,
        params=1,
    )


SITES = tuple(block(number) for number in range(BLOCKS))
COSTS = {KEEP: 10.0, "drop": 1.0, "conv3": 4.0, "half_res": 6.0}


@pytest.fixture
def table() -> LatencyTable:
    """A teacher of 130 ms whose blocks cost 10 each; at half the resolution everything costs half."""
    entries: dict[tuple[str, str], Latency | Unsupported] = {}
    for site in SITES:
        entries |= {(site.shape_key, name): ms(cost / site.stride) for name, cost in COSTS.items()}
        entries[site.shape_key, "odd"] = Unsupported("no kernel")
    return LatencyTable(
        device={},
        size=SIZE,
        protocol={},
        site_keys={site.path: site.shape_key for site in SITES},
        entries=entries,
        teacher=ms(130.0),
    )


def random_networks(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Assignments that change a random share of the sites."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        share = rng.uniform()
        names = {s.path: str(rng.choice(OPERATORS)) if rng.uniform() < share else KEEP for s in SITES}
        found.append(names)
    return found


def mape(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(100 * np.mean(np.abs(predicted - truth) / truth))


def by_operator(table: LatencyTable) -> Callable[[list[dict[str, str]]], np.ndarray]:
    """A device on which a conv3 costs 30 % more inside a network, and a drop 2 ms more for a million values."""

    def truth(networks: list[dict[str, str]]) -> np.ndarray:
        found = []
        for network in networks:
            extra = sum(0.3 * 4 / site.stride for site in SITES if network[site.path] == "conv3")
            extra += sum(2.0 / site.stride for site in SITES if network[site.path] == "drop")
            found.append(table.additive_ms(network) + extra)
        return np.array(found)

    return truth


def by_pairs(table: LatencyTable) -> Callable[[list[dict[str, str]]], np.ndarray]:
    """A device on which each conv3 behind a drop saves 3 ms."""

    def truth(networks: list[dict[str, str]]) -> np.ndarray:
        return np.array([table.additive_ms(network) - 3.0 * behind_drop(network) for network in networks])

    return truth


def behind_drop(network: Assignment) -> int:
    names = [network[site.path] for site in SITES]
    return sum(pair == ("drop", "conv3") for pair in pairwise(names))


def test_without_networks_it_is_the_plain_sum(table: LatencyTable) -> None:
    networks = random_networks(5)
    plain = [table.additive_ms(network) for network in networks]
    np.testing.assert_allclose(LatencyModel(table=table, sites=SITES).predict_ms(networks), plain)
    two = fit(table, SITES, networks[:2], [50.0, 60.0])
    assert not two.corrections
    np.testing.assert_allclose(two.predict_ms(networks), plain)


def test_sums_that_are_right_stay_as_they_are(table: LatencyTable) -> None:
    networks = random_networks(10)
    assert not fit(table, SITES, networks, [table.additive_ms(network) for network in networks]).corrections


def test_noise_teaches_nothing_harmful(table: LatencyTable) -> None:
    """Where sums are right but for 2 % of noise, ten networks must not make unseen predictions worse by 1 %."""
    unseen = random_networks(200, seed=1)
    truth = np.array([table.additive_ms(network) for network in unseen])
    for seed in range(10):
        networks = random_networks(10, seed=seed + 2)
        noise = 1 + 0.02 * np.random.default_rng(seed).standard_normal(10)
        measured = [table.additive_ms(network) * factor for network, factor in zip(networks, noise, strict=True)]
        assert mape(fit(table, SITES, networks, measured).predict_ms(unseen), truth) < 2.5


def test_what_an_operator_costs_inside_a_network_is_learned(table: LatencyTable) -> None:
    """From 20 networks, and without giving up the sum over sites."""
    truth = by_operator(table)
    seen, unseen = random_networks(20), random_networks(100, seed=1)
    model = fit(table, SITES, seen, truth(seen).tolist())
    raw = np.array([table.additive_ms(network) for network in unseen])
    assert mape(raw, truth(unseen)) > 5
    assert mape(model.predict_ms(unseen), truth(unseen)) < 1
    assert model.additive


def test_a_few_networks_already_help(table: LatencyTable) -> None:
    truth = by_operator(table)
    unseen = random_networks(100, seed=99)
    raw = mape(np.array([table.additive_ms(network) for network in unseen]), truth(unseen))
    errors = []
    for seed in range(10):
        seen = random_networks(5, seed=seed)
        errors.append(mape(fit(table, SITES, seen, truth(seen).tolist()).predict_ms(unseen), truth(unseen)))
    assert np.median(errors) < raw / 2


def test_what_neighbors_do_to_each_other_is_learned_where_it_is_allowed(table: LatencyTable) -> None:
    truth = by_pairs(table)
    seen, unseen = random_networks(60), random_networks(100, seed=1)
    free = fit(table, SITES, seen, truth(seen).tolist())
    sums = fit(table, SITES, seen, truth(seen).tolist(), pairs="never")
    assert not free.additive
    assert sums.additive
    assert mape(free.predict_ms(unseen), truth(unseen)) < mape(sums.predict_ms(unseen), truth(unseen)) / 2


def test_what_conversions_cost_is_learned_from_neighbors_in_8_bits(table: LatencyTable) -> None:
    """Two neighbors in 8 bits save 1.5 ms for each million values between them, which the search is told."""
    entries = dict(table.entries) | {
        (site.shape_key, f"{name}@int8"): ms(0.7 * COSTS[name] / site.stride)
        for site in SITES
        for name in ("conv3", "half_res")
    }
    table = dataclasses.replace(table, entries=entries)
    rng = np.random.default_rng(0)
    names = (KEEP, "drop", "conv3", "conv3@int8", "half_res@int8")

    def saved(network: Assignment) -> float:
        values = [1.0, 0.5] * (BLOCKS // 2)
        in_8_bits = [network[site.path].endswith("@int8") for site in SITES]
        return 1.5 * sum(values[k + 1] for k in range(BLOCKS - 1) if in_8_bits[k] and in_8_bits[k + 1])

    networks = [{site.path: str(rng.choice(names)) for site in SITES} for _ in range(24)]
    truth = np.array([table.additive_ms(network) - saved(network) for network in networks])
    model = fit(table, SITES, networks[:8], truth[:8].tolist())
    plain = LatencyModel(table=table, sites=SITES).predict_ms(networks[8:])
    assert model.corrections["joined",] == pytest.approx(-1.5, rel=0.1)
    assert mape(model.predict_ms(networks[8:]), truth[8:]) < 0.1 * mape(plain, truth[8:])
    known = model.known({site.path: names for site in SITES})
    assert isinstance(known, ChainLatency)
    rows = np.array([[names.index(network[site.path]) for site in SITES] for network in networks])
    np.testing.assert_allclose(known(rows), model.predict_ms(networks))


@pytest.mark.parametrize("device", [by_operator, by_pairs])
def test_the_search_gets_what_is_predicted(
    table: LatencyTable, device: Callable[[LatencyTable], Callable[[list[dict[str, str]]], np.ndarray]]
) -> None:
    """Sums over sites or a function, for a space that leaves some sites, and neighbors, out."""
    seen = random_networks(60)
    model = fit(table, SITES, seen, device(table)(seen).tolist())
    options = {f"blocks.{number}": (KEEP, *OPERATORS) for number in (0, 1, 2, 5, 6, 9)}
    rows = np.random.default_rng(0).integers(0, 4, (50, len(options)))
    named = [
        {path: names[index] for (path, names), index in zip(options.items(), row, strict=True)} for row in rows.tolist()
    ]
    known = model.known(options)
    if model.additive:
        assert not callable(known)
        found = np.array([sum(costs[index] for costs, index in zip(known, row, strict=True)) for row in rows.tolist()])
    else:
        assert callable(known)
        found = known(rows)
    np.testing.assert_allclose(found, model.predict_ms(named))


def test_the_least_latency_of_a_space_is_that_of_enumeration(table: LatencyTable) -> None:
    """Sites 0 to 2 and 5 are searched: one pair of them are no neighbors, and 4^4 assignments can be tried."""
    seen = random_networks(60)
    model = fit(table, SITES, seen, by_pairs(table)(seen).tolist())
    assert not model.additive
    known = model.known({f"blocks.{number}": (KEEP, *OPERATORS) for number in (0, 1, 2, 5)})
    assert isinstance(known, ChainLatency)
    every = np.stack(np.unravel_index(np.arange(4**4), (4,) * 4), axis=1)
    assert known.least() == pytest.approx(known(every).min())
    assert known.least() < known(every[:1])[0]


def test_neighbors_are_no_sum_over_sites(table: LatencyTable) -> None:
    model = LatencyModel(table=table, sites=SITES, corrections={("pair", "drop", "conv3"): -3.0})
    with pytest.raises(DeviceError, match="knows neighbors"):
        model.option_ms({"blocks.0": (KEEP, "drop")})


def test_an_operator_that_the_device_refuses_takes_forever(table: LatencyTable) -> None:
    model = LatencyModel(table=table, sites=SITES, corrections={("offset",): 1.0})
    assert model.predict_ms([{"blocks.0": "odd"}, {}]).tolist() == [math.inf, 131.0]


def test_a_prediction_is_never_made_by_a_model_that_saw_the_network(table: LatencyTable) -> None:
    """One network of twelve is off by a factor: its own left-out prediction must not know."""
    networks = random_networks(12)
    measured = np.array([table.additive_ms(network) for network in networks])
    measured[3] *= 3
    predicted = left_out_ms(table, SITES, networks, measured.tolist())
    assert predicted[3] == pytest.approx(measured[3] / 3)
    assert len(left_out_ms(table, SITES, networks, measured.tolist(), folds=4)) == 12


def test_what_was_learned_survives_as_plain_data(table: LatencyTable) -> None:
    seen = random_networks(20)
    model = fit(table, SITES, seen, by_operator(table)(seen).tolist())
    assert LatencyModel.from_dict(model.as_dict(), table, SITES) == model
    with pytest.raises(StoreError, match="no latency corrections"):
        LatencyModel.from_dict({"corrections": [{"size": 1}]}, table, SITES)


def test_nonsense_measurements_are_refused(table: LatencyTable) -> None:
    with pytest.raises(DeviceError, match="3 networks need as many latencies"):
        fit(table, SITES, random_networks(3), [1.0, 2.0])
    with pytest.raises(DeviceError, match="above zero"):
        fit(table, SITES, random_networks(3), [1.0, 2.0, 0.0])
