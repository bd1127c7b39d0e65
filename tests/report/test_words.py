"""Numbers and sentences of the report, by hand."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from netgraft.report import ImageRow, ReportData
from netgraft.report.markup import duration, number, plain, scaled, significant, table, typeset
from netgraft.report.verdict import cards, loss_db, speedup, verdict

NBSP = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(3.14159, 2, "dB"), f"3.14{NBSP}dB"),
        (number(-0.5, 1), "−0.5"),
        (number(0.5, 1, signed=True), "+0.5"),
        (number(-0.001, 2, signed=True), "0.00"),
        (number(12345.6, 1), "12,345.6"),
        (number(None), "–"),
        (typeset("5-10 px"), "5–10 px"),
        (typeset("-1 stop"), "−1 stop"),
        (typeset("x-ray"), "x-ray"),
        (number(math.nan), "–"),
        (number(np.float32(1.5), 1), "1.5"),
        (number(True), "–"),
        (significant(177.36, "ms"), f"177{NBSP}ms"),
        (significant(1.2345), "1.23"),
        (significant(0.0123), "0.0123"),
        (significant(-0.0123), "−0.0123"),
        (significant(3.4e-6), "3.4·10⁻⁶"),
        (significant(0), "0"),
        (significant(123456), "123,456"),
        (scaled(4_085_148_160, "MACs"), f"4.09{NBSP}GMACs"),
        (scaled(512, "B"), f"512{NBSP}B"),
        (scaled(np.int64(4_347_827), ""), f"4.35{NBSP}M"),
        (scaled(None, "B"), "–"),
        (duration(31.24), f"31.2{NBSP}s"),
        (duration(119.6), "2 min 00 s"),
        (duration(7384), "2 h 03 min"),
        (plain([256, 128]), "256 × 128"),
        (plain(["a<b", 3, None]), "a&lt;b, 3, –"),
        (plain(False), "no"),
        (plain(1234567), "1,234,567"),
    ],
)
def test_numbers_as_people_write_them(text: str, expected: str) -> None:
    assert text == expected


def test_a_table_marks_numbers_and_rows() -> None:
    assert table(["a", "b"], [["x", "1"], ["y", "2"]], marked=[False, True]) == (
        '<div class="scroll"><table><thead><tr><th>a</th><th class="n">b</th></tr></thead><tbody>'
        '<tr><td>x</td><td class="n">1</td></tr>'
        '<tr class="marked"><td>y</td><td class="n">2</td></tr></tbody></table></div>'
    )


def timed(q25: float, median: float, q75: float) -> dict[str, Any]:
    return {"latency_ms": {"q25": q25, "median": median, "q75": q75}}


def test_speedup_sets_opposite_quartiles_against_each_other() -> None:
    speed = speedup(timed(90, 100, 120), timed(40, 50, 60))
    assert speed is not None
    assert (speed.low, speed.value, speed.high) == (90 / 60, 2.0, 120 / 40)
    assert speedup(timed(90, 100, 120), {}) is None
    assert speedup(timed(90, 100, 120), timed(0, 0, 0)) is None


def image(lost: float) -> ImageRow:
    return ImageRow(
        name="x",
        degraded_psnr_db=20,
        teacher_psnr_db=30,
        student_psnr_db=30 - lost,
        degraded_ssim=0,
        teacher_ssim=0,
        student_ssim=0,
    )


def test_interval_of_the_loss_is_that_of_a_mean() -> None:
    """For 200 normal losses, the bootstrap agrees with mean +- 1.96 standard errors."""
    losses = np.random.default_rng(1).normal(0.4, 0.2, 200)
    interval = loss_db([image(loss) for loss in losses])
    assert interval is not None
    error = losses.std(ddof=1) / math.sqrt(200)
    assert interval.value == pytest.approx(losses.mean())
    assert interval.low == pytest.approx(losses.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(losses.mean() + 1.96 * error, abs=0.15 * error)
    assert loss_db([image(0.4)]) is None
    assert loss_db([image(0.4), image(math.inf)]) is None


def outcome(bare: ReportData, teacher: dict[str, Any], student: dict[str, Any], degraded: float) -> str:
    result = {"teacher": teacher, "student": student, "degraded": {"psnr_db": degraded}}
    return verdict(replace(bare, result=result)).replace(NBSP, " ").replace("&nbsp;", " ")


def test_verdict_of_a_good_run(bare_data: ReportData) -> None:
    text = outcome(
        bare_data,
        {**timed(98, 100, 102), "psnr_db": 30.0},
        {**timed(48, 50, 52), "psnr_db": 29.5},
        28.0,
    )
    assert text == (
        "The student is <b>2.00 times as fast</b> as the teacher (100 ms → 50.0 ms; quartiles 1.88–2.12). "
        "It loses <b>0.50 dB</b> of quality (30.00 → 29.50 dB PSNR). "
        "Against the degraded images it still gains 1.50 dB, 75 % of what the teacher gains."
    )


def test_verdict_does_not_flatter(bare_data: ReportData) -> None:
    """Slower students, worse-than-nothing students and idle teachers are called that."""
    slow = outcome(
        bare_data,
        {**timed(99, 100, 101), "psnr_db": 30.0},
        {**timed(124, 125, 126), "psnr_db": 30.1},
        31.0,
    )
    assert "1.25 times slower" in slow
    assert "It even gains <b>0.10 dB</b>" in slow
    assert "the teacher itself does not improve these images" in slow
    worse = outcome(bare_data, {"psnr_db": 30.0}, {"psnr_db": 27.0}, 28.0)
    assert "speed was not measured" in worse
    assert "It is 1.00 dB below the degraded images: do not use it." in worse


def test_cards_show_what_is_known(bare_data: ReportData) -> None:
    html = cards(
        replace(
            bare_data,
            result={
                "teacher": {"macs": 4_000_000, "psnr_db": 30.0, "params": 0},
                "student": {"macs": 3_000_000, "psnr_db": 29.0, "params": 5},
            },
        )
    ).replace(NBSP, " ")
    assert html.count('class="card"') == 2
    assert "<strong>−25 %</strong><small>to 3.00 MMACs</small>" in html
    assert "<strong>−1.00 dB</strong>" in html
    assert cards(bare_data) == ""
