"""Latency tables and their additivity, against numbers worked out by hand."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from netgraft.devices.device import DeviceDescription, Unsupported
from netgraft.devices.fake import FakeDevice
from netgraft.devices.measure import Latency, MeasureProtocol, measure_modules
from netgraft.errors import ConfigError, DeviceError, StoreError
from netgraft.latency import LatencyTable, additivity, agreement
from netgraft.nets.nafnet import NafNet, NafNetShape

DEVICE = DeviceDescription(
    backend="fake", backend_version="1", hardware="none", cores=1, precision="fp32", threads=1, system="none"
)
SIZE = (64, 96)
SITES = {"a.0": "block:4@1", "a.1": "block:4@1", "down": "down:4@1", "b.0": "block:8@2"}


def ms(median: float) -> Latency:
    return Latency(
        median_ms=median,
        q25_ms=median - 0.5,
        q75_ms=median + 0.5,
        cpu_median_ms=median,
        runs=10,
        contended=0.0,
    )


def table() -> LatencyTable:
    """Blocks of 5, 5, 2 and 3 ms in a teacher of 20: the rest costs 5."""
    return LatencyTable(
        device=DEVICE.as_dict(),
        size=SIZE,
        protocol=MeasureProtocol().as_dict(),
        site_keys=SITES,
        entries={
            ("block:4@1", "keep"): ms(5),
            ("block:4@1", "conv3"): ms(1),
            ("block:4@1", "odd"): Unsupported("no kernel for Odd"),
            ("down:4@1", "keep"): ms(2),
            ("block:8@2", "keep"): ms(3),
            ("block:8@2", "conv3"): ms(0.5),
        },
        teacher=ms(20),
    )


def test_the_rest_is_what_the_teacher_costs_outside_of_its_sites() -> None:
    assert table().rest_ms == pytest.approx(20 - 5 - 5 - 2 - 3)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ({}, 20),
        ({"a.1": "conv3"}, 16),
        ({"a.0": "conv3", "a.1": "conv3", "b.0": "conv3", "down": "keep"}, 9.5),
        ({"a.0": "odd"}, math.inf),
    ],
)
def test_the_prediction_adds_up_what_was_chosen(assignment: dict[str, str], expected: float) -> None:
    assert table().additive_ms(assignment) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ({"a.2": "conv3"}, "unknown site 'a.2'"),
        ({"down": "conv3"}, "unknown operator at down 'conv3'.* are keep"),
    ],
)
def test_what_was_not_measured_is_not_predicted(assignment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        table().additive_ms(assignment)


def test_options_become_a_matrix_for_the_search() -> None:
    options = {"a.1": ("keep", "conv3", "odd"), "b.0": ("keep", "conv3")}
    np.testing.assert_array_equal(table().option_ms(options), [[5, 1, math.inf], [3, 0.5, math.inf]])
    assert table().fixed_ms(tuple(options)) == pytest.approx(5 + 5 + 2)
    batch = table().additive_batch_ms(options, np.array([[0, 0], [1, 1], [2, 0]]))
    np.testing.assert_allclose(batch, [20, 13.5, math.inf])


def test_a_table_needs_the_teachers_own_blocks() -> None:
    entries = dict(table().entries)
    with pytest.raises(DeviceError, match=r"own block at b.0: no kernel"):
        dataclasses.replace(table(), entries=entries | {("block:8@2", "keep"): Unsupported("no kernel")})
    del entries["block:8@2", "keep"]
    with pytest.raises(ConfigError, match=r"unknown operator at b.0 'keep'"):
        dataclasses.replace(table(), entries=entries)


def test_a_table_survives_json() -> None:
    timed = dataclasses.replace(table(), reference_ms={"block:4@1": 5.0, "networks": 6.0})
    assert LatencyTable.from_json(timed.to_json()) == timed


def test_a_table_from_before_there_was_a_reference_is_read() -> None:
    assert LatencyTable.from_json(broken(reference_ms=None)) == table()


def broken(**changes: object) -> str:
    document = json.loads(table().to_json()) | changes
    return json.dumps({key: value for key, value in document.items() if value is not None})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no latency table"),
        ("[1, 2]", "no latency table"),
        ("{}", "no latency table .*schema"),
        (broken(schema=2), "schema 2, not 1"),
        (broken(teacher=None), "no latency table .*teacher"),
        (broken(size=[64]), "no latency table"),
        (broken(entries=[]), "no latency table .*keep"),
        (broken(entries=[{"shape_key": "block:4@1", "operator": "keep"}]), "no latency table .*latency"),
    ],
)
def test_text_that_is_no_table_is_refused(text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        LatencyTable.from_json(text)


@pytest.mark.parametrize(
    ("device", "size", "sites", "message"),
    [
        ({"backend_version": "2"}, SIZE, SITES, "backend_version '1', now it is '2'"),
        ({"threads": 4}, SIZE, SITES, "threads 1, now it is 4"),
        ({}, (96, 64), SITES, "at 64x96 pixels, now the size is 96x64"),
        ({}, SIZE, SITES | {"b.0": "block:16@2"}, "site b.0 as 'block:8@2', the network has 'block:16@2'"),
        ({}, SIZE, SITES | {"b.1": "block:8@2"}, "site b.1 as None"),
        ({}, SIZE, {"a.0": "block:4@1"}, "the network has no site a.1"),
    ],
)
def test_a_stale_table_is_refused_with_the_reason(
    device: dict[str, str | int], size: tuple[int, int], sites: dict[str, str], message: str
) -> None:
    now = dataclasses.replace(DEVICE, **device)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=rf"this latency table is stale: .*{message}.*; measure again"):
        table().check(now, size, sites)


def test_a_fresh_table_passes() -> None:
    read = LatencyTable.from_json(table().to_json())
    read.check(DEVICE, SIZE, SITES)
    assert read.stale(DEVICE, SIZE, SITES) is None


def test_predictions_hold_where_costs_really_add_up() -> None:
    """On the fake device they do, overhead aside, which every block and the whole network pay once."""
    net = NafNet(NafNetShape(width=4, encoder_blocks=(2,), middle_blocks=1, decoder_blocks=(1,))).eval()
    conv = nn.Conv2d(4, 4, 3, padding=1)
    student = copy.deepcopy(net)
    student.encoders[0][1] = conv  # type: ignore[index, operator]
    image, full, deep = (torch.zeros(1, *shape) for shape in ((3, 16, 16), (4, 16, 16), (8, 8, 8)))
    found = measure_modules(
        FakeDevice(ms_per_gmac=1e5, overhead_ms=0.3),
        {
            ("teacher", ""): (net, image),
            ("student", ""): (student, image),
            ("block:4@1", "keep"): (net.encoders[0][0], full),  # type: ignore[index]
            ("block:4@1", "conv3"): (conv, full),
            ("block:8@2", "keep"): (net.middle_blks[0], deep),
        },
        MeasureProtocol(samples=3),
    )
    teacher, student_ms = found.pop(("teacher", "")), found.pop(("student", ""))
    assert isinstance(teacher, Latency)
    assert isinstance(student_ms, Latency)
    measured = LatencyTable(
        device={},
        size=(16, 16),
        protocol={},
        site_keys={
            "encoders.0.0": "block:4@1",
            "encoders.0.1": "block:4@1",
            "middle_blks.0": "block:8@2",
            "decoders.0.0": "block:4@1",
        },
        entries=found,
        teacher=teacher,
    )
    assert measured.additive_ms({"encoders.0.1": "conv3"}) == pytest.approx(student_ms.median_ms)
    assert student_ms.median_ms < teacher.median_ms


def test_errors_are_shares_of_what_was_measured() -> None:
    """Sums of 1, 2 and 3 for 2, 4 and 4 ms are off by 50, 50 and 25 %; corrections to 2, 4 and 3 by 0, 0 and 25."""
    report = additivity([1, 2, 3], [2, 4, 4], [2, 4, 3])
    assert report.mape_percent == pytest.approx(125 / 3)
    assert report.corrected_mape_percent == pytest.approx(25 / 3)
    assert report.pairs == ((1, 2), (2, 4), (3, 4))
    assert report.corrected_ms == (2, 4, 3)


def test_intervals_hold_the_estimate_and_shrink_with_more_networks() -> None:
    """Errors of 1 to 5 % in turns: the mean is 3, its standard error sqrt(2 / n)."""
    widths = []
    for count in (10, 1000):
        measured = np.full(count, 100.0)
        found = agreement(measured + 1 + np.arange(count) % 5, measured)
        low, high = found.mape_interval
        assert found.mape_percent == pytest.approx(3)
        assert low < 3 < high
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(2 / count), rel=0.2)
        widths.append(high - low)
    assert widths[1] < widths[0] / 5


def test_equal_predictions_have_no_order() -> None:
    report = additivity([2, 2, 2], [3, 4, 5], [3, 4, 5])
    assert math.isnan(report.spearman)
    assert all(math.isnan(end) for end in report.spearman_interval)
    assert report.corrected_spearman == pytest.approx(1)


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=3, max_size=12).filter(
        lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True))
    )
)
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    """Ties included, as scipy computes it."""
    predicted, measured = zip(*pairs, strict=True)
    expected = scipy.stats.spearmanr(predicted, measured).statistic
    found = agreement(np.array(predicted, float), np.array(measured, float), resamples=1)
    assert found.spearman == pytest.approx(expected, abs=1e-9)


def test_too_few_networks_say_nothing_about_additivity() -> None:
    with pytest.raises(DeviceError, match=r"at least 3 networks: it got 2, 2 corrected, and 2 measured"):
        additivity([1, 2], [1, 2], [1, 2])
