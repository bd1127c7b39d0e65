"""The figures' numbers are the run's numbers: read back from the page and compared with what went in."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy.stats import rankdata

from netgraft.report import EvaluationRow, FinetuneRow, ReportData, render
from netgraft.report.figures import ranks

NAMES = [
    "front",
    "site-latency",
    "conditions",
    "saliency",
    "foreseen",
    "distillation",
    "additivity",
    "hypervolume",
    "finetuning",
]


class _Data(HTMLParser):
    """The JSON beside each figure."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.figures: dict[str, Any] = {}
        self.plots: list[str] = []
        self._current: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if attributes.get("class") == "plot":
            self.plots.append(str(attributes["id"]))
        self._current = attributes.get("data-for") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._current is not None:
            self.figures[self._current] = json.loads(data)
            self._current = None


def figures_of(data: ReportData) -> dict[str, Any]:
    parsed = _Data(render(data))
    assert parsed.plots == list(parsed.figures)
    return {name.removeprefix("plot-"): spec for name, spec in parsed.figures.items()}


@pytest.fixture(scope="module")
def figures(report_data: ReportData) -> dict[str, Any]:
    return figures_of(report_data)


def trace(spec: Any, name: str) -> Any:
    (found,) = [part for part in spec["data"] if part.get("name") == name]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_plotly_knows_every_property(figures: dict[str, Any], name: str) -> None:
    """Plotly's own schema rejects misspelled properties and values, which the browser would ignore."""
    assert set(figures) == set(NAMES)
    figure = go.Figure(figures[name])
    assert len(figure.data) == len(figures[name]["data"]) > 0


def test_front_shows_every_evaluation(report_data: ReportData, figures: dict[str, Any]) -> None:
    rows, spec = report_data.evaluations, figures["front"]
    everything = trace(spec, "evaluated (predicted latency)")
    assert everything["x"] == [row.latency_ms for row in rows]
    assert everything["y"] == [row.quality_loss_db for row in rows]
    timed = [row for row in rows if row.measured_latency_ms is not None]
    assert trace(spec, "measured end to end")["x"] == [row.measured_latency_ms for row in timed]
    assert trace(spec, "measured end to end")["y"] == [row.quality_loss_db for row in timed]
    for i, names in report_data.named_points().items():
        mark = trace(spec, ", ".join(names))
        shown = rows[i].latency_ms if rows[i].measured_latency_ms is None else rows[i].measured_latency_ms
        assert (mark["x"], mark["y"]) == ([shown], [rows[i].quality_loss_db])
    assert trace(spec, "teacher")["y"] == [0.0]


def test_front_line_joins_what_nothing_beats(report_data: ReportData, figures: dict[str, Any]) -> None:
    """Against a comparison of all pairs; of those that were measured, as there are some."""
    timed = [row for row in report_data.evaluations if row.measured_latency_ms is not None]
    points = [(row.measured_latency_ms, row.quality_loss_db) for row in timed]
    best = sorted(p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points))
    line = trace(figures["front"], "front")
    assert list(zip(line["x"], line["y"], strict=True)) == best
    assert len(best) > 3
    predicted = [replace(row, measured_latency_ms=None) for row in report_data.evaluations]
    line = trace(figures_of(replace(report_data, evaluations=predicted))["front"], "front")
    assert set(line["x"]) < {row.latency_ms for row in predicted}


def test_measured_points_have_their_quartiles(report_data: ReportData) -> None:
    row = replace(report_data.evaluations[0], measured_latency_ms=40.0, measured_quartiles_ms=(39.0, 42.5))
    bars = trace(figures_of(replace(report_data, evaluations=[row], chosen={}))["front"], "measured end to end")[
        "error_x"
    ]
    assert (bars["arrayminus"], bars["array"]) == ([1.0], [2.5])


def test_hover_says_what_is_replaced(report_data: ReportData) -> None:
    picks = {"encoders.0.0": 4, "encoders.3.5": 2}
    changed = tuple(picks.get(site.path, 0) for site in report_data.sites)
    row = EvaluationRow(assignment=changed, quality_loss_db=0.1234, latency_ms=40.0, source="bayes")
    data = replace(report_data, evaluations=[row], chosen={})
    (text,) = trace(figures_of(data)["front"], "evaluated (predicted latency)")["text"]
    assert text == (
        "<b>0.123 dB lost, 40.00 ms predicted</b><br>bayes<br>1 × drop, 1 × conv3_res"
        "<br>encoders.0.0: drop<br>encoders.3.5: conv3_res"
    )


def test_a_long_hover_text_is_cut(report_data: ReportData) -> None:
    """28 of the 31 free blocks dropped: ten lines and the rest as a number."""
    free = [i for i, names in enumerate(report_data.options) if "drop" in names][:28]
    picks = tuple(4 if i in free else 0 for i in range(len(report_data.sites)))
    row = EvaluationRow(assignment=picks, quality_loss_db=3.0, latency_ms=9.0, source="x")
    data = replace(report_data, evaluations=[row], chosen={})
    (text,) = trace(figures_of(data)["front"], "evaluated (predicted latency)")["text"]
    assert text.count("<br>") == 2 + 10 + 1
    assert text.endswith("… and 18 more")


def test_saliency_map(report_data: ReportData, figures: dict[str, Any]) -> None:
    heat, stars = figures["saliency"]["data"]
    assert heat["x"] == [site.path for site in report_data.sites]
    assert heat["y"] == list(report_data.saliency)
    assert heat["customdata"] == [list(values) for values in report_data.saliency.values()]
    for row, values in zip(heat["z"], report_data.saliency.values(), strict=True):
        np.testing.assert_allclose(row, (rankdata(values) - 1) / (len(values) - 1))
    assert stars["x"] == ["encoders.3.0", "middle_blks.0"]


def test_ranks_by_hand() -> None:
    """0 for the least, 1 for the most, equal values share the place between."""
    assert ranks([3.0, -1.0, 3.0, 10.0, 0.0]) == [0.625, 0.0, 0.625, 1.0, 0.25]
    assert ranks([5.0]) == [1.0]
    assert ranks([2.0, 2.0]) == [0.5, 0.5]


def test_latency_per_site_before_and_after(report_data: ReportData, figures: dict[str, Any]) -> None:
    before, after = figures["site-latency"]["data"]
    picks = report_data.evaluations[report_data.chosen["chosen"]].assignment
    for bars, chosen in ((before, [0] * len(picks)), (after, picks)):
        assert bars["x"] == [site.path for site in report_data.sites]
        for i, site in enumerate(report_data.sites):
            operator = report_data.options[i][chosen[i]]
            (row,) = [r for r in report_data.latency_table if (r.site, r.operator) == (site.path, operator)]
            assert bars["y"][i] == row.median_ms
            assert bars["y"][i] + bars["error_y"]["array"][i] == pytest.approx(row.q75_ms)
            assert bars["y"][i] - bars["error_y"]["arrayminus"][i] == pytest.approx(row.q25_ms)
            assert bars["customdata"][i] == operator
    assert before["y"] != after["y"]


def test_a_site_without_a_measurement_leaves_a_gap(report_data: ReportData) -> None:
    path = report_data.sites[3].path
    table = [row for row in report_data.latency_table if row.site != path]
    before, after = figures_of(replace(report_data, latency_table=table))["site-latency"]["data"]
    assert before["y"][3] is None
    assert after["y"][3] is None
    assert sum(value is None for value in before["y"]) == 1


def test_additivity(report_data: ReportData, figures: dict[str, Any]) -> None:
    check = report_data.additivity
    assert check is not None
    same, networks, corrected = figures["additivity"]["data"]
    assert corrected["x"] == list(check.corrected_ms)
    assert corrected["y"] == list(check.measured_ms)
    assert networks["x"] == list(check.predicted_ms)
    assert networks["y"] == list(check.measured_ms)
    assert same["x"] == same["y"]


def test_distillation_has_a_group_per_site_and_shows_the_first(
    report_data: ReportData, figures: dict[str, Any]
) -> None:
    expected = [
        (site, name, list(curve["step"]), list(curve["loss"]))
        for site, by_operator in report_data.distillation.items()
        for name, curve in by_operator.items()
    ]
    lines = figures["distillation"]["data"]
    assert [(line["meta"], line["name"], line["x"], line["y"]) for line in lines] == expected
    first = next(iter(report_data.distillation))
    assert [line["visible"] for line in lines] == [line["meta"] == first for line in lines]
    # An operator keeps its color from site to site.
    assert len({(line["name"], line["line"]["color"]) for line in lines}) == len({line["name"] for line in lines})


def test_hypervolume_and_finetuning(report_data: ReportData, figures: dict[str, Any]) -> None:
    for name, values in report_data.hypervolume.items():
        assert trace(figures["hypervolume"], name)["y"] == list(values)
        assert trace(figures["hypervolume"], name)["x"] == list(range(1, len(values) + 1))
    loss = trace(figures["finetuning"], "training loss")
    assert loss["x"] == [row.step for row in report_data.finetune]
    assert loss["y"] == [row.loss for row in report_data.finetune]
    psnr = trace(figures["finetuning"], "validation PSNR")
    assert psnr["x"] == [0, 500, 1000, 1500, 2000]
    assert psnr["yaxis"] == "y2"


def test_training_without_validation_has_one_axis(report_data: ReportData) -> None:
    rows = [FinetuneRow(step=step, loss=1.0 / (1 + step)) for step in range(3)]
    spec = figures_of(replace(report_data, finetune=rows))["finetuning"]
    assert [line["name"] for line in spec["data"]] == ["training loss"]
    assert "yaxis2" not in spec["layout"]


def test_values_that_json_lacks_become_gaps(report_data: ReportData) -> None:
    """A diverged loss or a NumPy number must not break the page."""
    curve = {"step": np.arange(3), "loss": np.array([1.0, np.nan, np.inf], dtype=np.float32)}
    data = replace(report_data, distillation={"encoders.0.0": {"conv3": curve}})
    (line,) = figures_of(data)["distillation"]["data"]
    assert line["x"] == [0, 1, 2]
    assert line["y"] == [1.0, None, None]


def test_foreseen_losses_by_operator(figures: dict[str, Any]) -> None:
    """What costs nothing stands at the lowest loss that is shown; what is in the student is filled."""
    dropped, convolution = (trace(figures["foreseen"], name) for name in ("drop", "conv3_res"))
    assert dropped["x"] == [4.2, 0.4]
    assert dropped["y"] == [1.3, 1e-4]
    assert dropped["marker"]["symbol"] == ["circle-open", "circle-open"]
    assert convolution["marker"]["symbol"] == ["circle"]
    assert figures["foreseen"]["layout"]["yaxis"]["type"] == "log"


def test_gains_under_other_conditions_have_their_intervals(figures: dict[str, Any]) -> None:
    """The student's 23.9 dB under the second noise are 0.3 less than the degraded crops have, give or take 0.05."""
    student = trace(figures["conditions"], "student")
    assert student["x"] == [["as trained", "noise", "noise"], ["test images", "2–5 of 255", "5–10 of 255"]]
    assert student["y"] == pytest.approx([2.5, 1.22, -0.3])
    for side in ("array", "arrayminus"):
        assert student["error_y"][side] == pytest.approx([0.05] * 3)
    less = trace(figures["conditions"], "student − teacher")
    assert less["y"] == pytest.approx([-0.1, -0.08, -0.6])
    # One of them breaks.
    first, second, broken = less["marker"]["color"]
    assert first == second != broken
