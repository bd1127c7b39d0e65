"""A new device's table from few probes, against devices whose structure is known because the test made them."""

import dataclasses
import math

import numpy as np
import pytest

from netgraft.devices.device import Unsupported
from netgraft.devices.measure import Latency, MeasureProtocol
from netgraft.errors import DeviceError
from netgraft.latency import LatencyTable
from netgraft.latency_transfer import BlockFeatures, Entry, block_features, learn, spearman
from netgraft.nets.footprint import Footprint
from netgraft.sites import Site

SHAPES = {f"block:{16 * 2**level}@{2**level}": (16 * 2**level, 2**level) for level in range(5)}
OPERATORS = ("keep", "drop", "a", "b", "c", "d", "e", "f", "g", "h")
SIZE = (256, 256)


def entries() -> list[Entry]:
    return [(shape, operator) for shape in SHAPES for operator in OPERATORS]


def features() -> dict[Entry, BlockFeatures]:
    rows = {}
    for shape, operator in entries():
        channels, stride = SHAPES[shape]
        work, pixels = 1 + OPERATORS.index(operator), (SIZE[0] // stride) ** 2
        rows[shape, operator] = BlockFeatures(
            kind="block",
            operator=operator,
            macs=work * channels**2 * pixels,
            params=work * channels**2,
            bytes_moved=8 * channels * pixels,
            in_channels=channels,
            stride=stride,
        )
    return rows


def ms(median: float) -> Latency:
    return Latency(median_ms=median, q25_ms=median, q75_ms=median, cpu_median_ms=median, runs=1, contended=0.0)


def table(values: dict[Entry, float], **changes: object) -> LatencyTable:
    made = LatencyTable(
        device={"backend": "made up"},
        size=SIZE,
        protocol=MeasureProtocol().as_dict(),
        site_keys={shape: shape for shape in SHAPES},
        entries={key: ms(value) for key, value in values.items()},
        teacher=ms(1000.0),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def family(devices: int, seed: int = 0, noise: float = 0.02) -> list[dict[Entry, float]]:
    """Devices of two hidden traits: how fast they are and how much they mind every second operator."""
    rng = np.random.default_rng(seed)
    common = {key: rng.normal(0, 1.0) for key in entries()}
    trait = {key: rng.normal(0, 0.8) for key in entries()}
    found = []
    for _ in range(devices):
        speed, taste = rng.normal(0, 1.0), rng.normal(0, 1.0)
        found.append(
            {key: math.exp(speed + common[key] + taste * trait[key] + rng.normal(0, noise)) for key in entries()}
        )
    return found


def logs(values: dict[Entry, float]) -> np.ndarray:
    return np.log([values[key] for key in entries()])


def test_a_device_of_the_family_is_recovered_from_few_probes() -> None:
    *base, new = family(6)
    model = learn([table(values) for values in base], features())
    probes = model.choose_probes(6)
    found = model.predict({key: new[key] for key in probes})
    assert len(set(probes)) == 6
    assert spearman(logs(dict(found.median_ms)), logs(new)) > 0.99
    assert np.median(np.abs(np.expm1(logs(dict(found.median_ms)) - logs(new)))) < 0.1
    assert found.good_enough
    assert found.reason is None
    assert all(found.median_ms[key] == pytest.approx(new[key]) and found.log_sd[key] == 0 for key in probes)


def test_its_uncertainty_covers_what_it_gets_wrong() -> None:
    *base, new = family(6, seed=3)
    model = learn([table(values) for values in base], features())
    found = model.predict({key: new[key] for key in model.choose_probes(6)})
    rest = [key for key in entries() if found.log_sd[key] > 0]
    z = [math.log(found.median_ms[key] / new[key]) / found.log_sd[key] for key in rest]
    assert 0.2 < float(np.sqrt(np.mean(np.square(z)))) < 2


def test_chosen_probes_leave_less_open_than_random_ones_do_on_average() -> None:
    *base, new = family(6, seed=1)
    model = learn([table(values) for values in base], features())

    def doubt(probes: list[Entry]) -> float:
        found = model.predict({key: new[key] for key in probes})
        return sum(found.log_sd.values()) / found.misfit

    rng = np.random.default_rng(0)
    random = [doubt([entries()[i] for i in rng.choice(50, 6, replace=False)]) for _ in range(10)]
    assert doubt(list(model.choose_probes(6))) < np.mean(random)


def test_a_device_that_follows_nobody_is_told_apart() -> None:
    base = family(5)
    rng = np.random.default_rng(9)
    stranger = {key: math.exp(rng.normal(0, 1.5)) for key in entries()}
    model = learn([table(values) for values in base], features())
    found = model.predict({key: stranger[key] for key in model.choose_probes(10)})
    assert not found.good_enough
    assert found.reason is not None
    assert "Spearman" in found.reason
    assert found.misfit > 2


def test_few_probes_are_never_good_enough() -> None:
    *base, new = family(6)
    model = learn([table(values) for values in base], features())
    found = model.predict({key: new[key] for key in model.choose_probes(3)})
    assert found.reason == "3 probes are too few to judge a prediction by: at least 5 are needed"


def test_one_base_device_is_enough_to_begin_with() -> None:
    """A device that is the base one, three times as slow."""
    (only,) = family(1)
    model = learn([table(only)], features())
    found = model.predict({key: 3 * only[key] for key in model.choose_probes(5)})
    assert all(found.median_ms[key] == pytest.approx(3 * only[key], rel=0.05) for key in entries())
    assert found.good_enough


def test_features_alone_follow_the_work() -> None:
    """Latency in proportion to the MACs needs no mix of devices."""
    rows = features()
    base = [{key: speed * rows[key].macs / 1e6 for key in rows} for speed in (1.0, 2.0, 5.0)]
    model = learn([table(values) for values in base], rows, mix=False)
    found = model.predict({key: 7 * rows[key].macs / 1e6 for key in model.choose_probes(10)})
    assert spearman(logs(dict(found.median_ms)), logs(base[0])) > 0.95


def test_what_a_base_device_refuses_is_not_predicted() -> None:
    base = [table(values) for values in family(3)]
    odd = ("block:16@1", "a")
    base[1] = dataclasses.replace(base[1], entries={**base[1].entries, odd: Unsupported("no kernel")})
    free = ("block:16@1", "drop")
    base[2] = dataclasses.replace(base[2], entries={**base[2].entries, free: ms(0)})
    model = learn(base, features())
    assert set(model.left_out) == {odd, free}
    assert odd not in model.entries
    with pytest.raises(DeviceError, match="the probe a at block:16@1 is no entry"):
        model.predict({odd: 1.0})


def test_bad_inputs_are_refused_in_one_line() -> None:
    first, second = (table(values) for values in family(2))
    fewer = {key: entry for key, entry in second.entries.items() if key != ("block:16@1", "a")}
    with pytest.raises(DeviceError, match="no base table"):
        learn([], features())
    with pytest.raises(DeviceError, match="different entries: only the first one has a at block:16@1"):
        learn([first, dataclasses.replace(second, entries=fewer)], features())
    with pytest.raises(DeviceError, match="base table 2 is for images of"):
        learn([first, dataclasses.replace(second, size=(128, 128))], features())
    with pytest.raises(DeviceError, match="no features of keep at block:16@1"):
        learn([first, second], {})
    model = learn([first, second], features())
    with pytest.raises(DeviceError, match="no probe"):
        model.predict({})
    with pytest.raises(DeviceError, match="took 0 ms: it must be above zero"):
        model.predict({("block:16@1", "a"): 0.0})


def test_features_of_a_site_by_hand() -> None:
    """A down of 16 channels at full resolution of 32 x 64 pixels gives 32 at half of it."""
    site = Site(
        path="downs.0",
        kind="down",
        stride=1,
        out_stride=2,
        in_channels=16,
        out_channels=32,
        macs=0,
        macs_share=0.0,
        params=0,
    )
    found = block_features(site, "keep", Footprint(macs=5, params=7, size_bytes=28), (32, 64))
    assert found.bytes_moved == 4 * (16 * 32 * 64 + 32 * 16 * 32) + 28
    assert (found.macs, found.params, found.kind, found.in_channels, found.stride) == (5, 7, "down", 16, 1)
