"""The page as a browser reads it: what it holds, what it must not hold, what goes when data are missing."""

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from netgraft.report import ForeseenRow, ImageRow, RefusedRow, ReportData, render

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Elements with their attributes, the text outside of scripts and styles, and the tags left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.code: dict[str, str] = {"script": "", "style": ""}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.code:
            self.code[self.open[-1]] += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def sections(self) -> list[str]:
        return [attributes["id"] for attributes in self.all("section")]


@pytest.fixture(scope="module")
def page(report_data: ReportData) -> Page:
    return Page(render(report_data))


ALL_SECTIONS = [
    "crops", "numbers", "front", "student", "images", "conditions", "sites",
    "space", "distillation", "additivity", "search", "finetuning", "protocol",
]  # fmt: skip


def test_every_section_is_there_once_and_linked(page: Page) -> None:
    assert page.sections() == ALL_SECTIONS
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in ALL_SECTIONS]


def test_tags_are_balanced(page: Page) -> None:
    assert page.open == []


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    """References stay inside the page, the stylesheet has none, and the browser is told to refuse others."""
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), (tag, name)
    assert not page.all("link")
    for loader in ("url(", "@import", "@font-face"):
        assert loader not in page.code["style"]
    policies = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]
    assert "http" not in policies[0]


def test_the_plotting_library_is_there_exactly_when_something_is_plotted(
    report_data: ReportData, bare_data: ReportData
) -> None:
    assert render(report_data).count("* plotly.js v") == 1
    assert len(render(bare_data)) < 50_000


def test_headline_numbers_stand_in_the_text(page: Page) -> None:
    """The made-up run's results, rounded by hand."""
    words = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "4.09 GMACs" in words
    assert "2.51 GMACs" in words
    assert "−38 %" in words  # 2.513 of 4.085
    assert "4.35 M" in words
    assert "3.4·10⁻⁶" in words
    assert "0.8274" in words
    assert "off by 3.4 % on average" in words
    assert "brings the error to 1.9 %." in words
    assert "about 1025 assignments" in words  # 31 blocks with 5 options and 4 ups with 2


def test_protocol_is_printed_in_full(page: Page) -> None:
    for value in ("256 × 256", "photos/test", "full image", "matlab", "onnxruntime", "2.13.0", "47 min 54 s"):
        assert value in page.text


def test_pictures_are_lossless(report_data: ReportData, page: Page) -> None:
    """Each crop's four versions decode to the pixels that went in."""
    strips = [image for image in page.all("img") if "data-version" in image]
    assert len(strips) == 4 * len(report_data.crops)
    for i, image in enumerate(strips):
        content = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        expected = getattr(report_data.crops[i // 4], image["data-version"])
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), expected)
    slider = {image["data-layer"]: image["alt"] for image in page.all("img") if "data-layer" in image}
    assert slider == {"left": "degraded", "right": "student"}


HOSTILE = '"><img src=x onerror=alert(1)></script><script>alert(2)</script><!--'


def test_text_from_outside_cannot_become_markup(report_data: ReportData) -> None:
    """Hostile names everywhere change the text of the page, and not one element of it."""
    first, *rest = report_data.sites
    sites = [replace(first, path=HOSTILE, kind=HOSTILE), *rest]
    conditions = report_data.result["generalization"]["conditions"]
    result = {
        **report_data.result,
        "student": {**report_data.result["student"], "assignment": {HOSTILE: HOSTILE}},
        "generalization": {
            **report_data.result["generalization"],
            "conditions": [row | {"kind": HOSTILE, "name": HOSTILE} for row in conditions],
        },
    }
    hostile = replace(
        report_data,
        title=HOSTILE,
        created=HOSTILE,
        result=result,
        sites=sites,
        options=[[HOSTILE] * 5, *report_data.options[1:]],
        saliency={HOSTILE: report_data.saliency["snip"]},
        evaluations=[replace(row, source=HOSTILE) for row in report_data.evaluations],
        chosen={HOSTILE: 0, "chosen": 1},
        hypervolume={HOSTILE: [1.0]},
        distillation={HOSTILE: {HOSTILE: {"step": [0, 1], "loss": [1.0, 0.5]}}},
        refused=[RefusedRow(site=HOSTILE, operator=HOSTILE, reason=HOSTILE)],
        foreseen=[ForeseenRow(site=HOSTILE, operator=HOSTILE, saved_ms=1.0, loss_db=1.0, chosen=True)],
        ceiling={HOSTILE: 0.5},
        protocol={HOSTILE: {HOSTILE: HOSTILE}},
        device={HOSTILE: [HOSTILE, HOSTILE]},
        versions={HOSTILE: HOSTILE},
        seconds={HOSTILE: 1.0},
        images=[replace(row, name=HOSTILE) for row in report_data.images],
        crops=[replace(crop, name=HOSTILE) for crop in report_data.crops],
    )
    page = Page(render(hostile))
    assert page.open == []
    assert page.sections() == ALL_SECTIONS
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert len(page.all("script")) == 11  # 9 figures' data, the plotting library, the page's own
    assert "alert(1)" in page.text
    assert page.text.count(HOSTILE) > 10


def test_plotly_texts_are_escaped_too(report_data: ReportData) -> None:
    """Plotly would show <b> or a link in a label as such."""
    html = render(replace(report_data, hypervolume={"<b>bold</b>": [1.0]}))
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "\\u003cb>bold" not in html


@pytest.mark.parametrize(
    ("field", "empty", "gone"),
    [
        ("crops", (), "crops"),
        ("evaluations", (), "front"),
        ("images", (), "images"),
        ("sites", (), "sites"),
        ("distillation", {}, "distillation"),
        ("additivity", None, "additivity"),
        ("hypervolume", {}, "search"),
        ("finetune", (), "finetuning"),
    ],
)
def test_a_missing_part_takes_its_section_along_and_no_other(
    report_data: ReportData, field: str, empty: object, gone: str
) -> None:
    changes: dict[str, object] = {field: empty}
    if field == "evaluations":
        changes["chosen"] = {}
    page = Page(render(replace(report_data, **changes)))
    assert page.sections() == [name for name in ALL_SECTIONS if name != gone]
    assert page.open == []


def test_a_run_that_has_only_begun(bare_data: ReportData) -> None:
    page = Page(render(bare_data))
    assert page.sections() == []
    assert not page.all("nav")
    assert "has not chosen a student yet" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text


def test_each_section_has_a_sentence_on_how_to_read_it(page: Page) -> None:
    leads = [a for tag, a in page.elements if tag == "p" and a.get("class") == "lead"]
    assert len(leads) == len(ALL_SECTIONS)


def test_images_that_lose_most_are_named(report_data: ReportData) -> None:
    def row(name: str, teacher: float, student: float) -> ImageRow:
        return ImageRow(
            name=name,
            degraded_psnr_db=20,
            teacher_psnr_db=teacher,
            student_psnr_db=student,
            degraded_ssim=0.5,
            teacher_ssim=0.8,
            student_ssim=0.7,
        )

    images = [row("a.png", 30, 29.5), row("b.png", 28, 26.75), row("c.png", 31, 31.2)]
    text = Page(render(replace(report_data, images=images))).text
    assert "the largest loss on a single image is 1.25\N{NO-BREAK SPACE}dB, on b.png." in text


def test_the_space_names_the_sites_that_no_operator_fits(report_data: ReportData) -> None:
    sites = [replace(site, alternatives=site.path != "downs.2") for site in report_data.sites]
    text = Page(render(replace(report_data, sites=sites))).text
    assert "No operator of the pool fits downs.2: the teacher's block stays there." in text
    assert "No operator of the pool" not in Page(render(report_data)).text


def test_only_sites_with_a_choice_count_as_those_that_can_change(report_data: ReportData) -> None:
    """Three and two options make six assignments, whatever else keeps its block."""
    options = [("keep", "drop", "conv3"), ("keep", "drop"), *[("keep",)] * 42]
    text = Page(render(replace(report_data, options=options, evaluations=[], chosen={}))).text
    assert "2 of 44 sites can change, with 5 options in all: 6 assignments." in text


def test_warnings_stand_at_the_top(report_data: ReportData) -> None:
    html = render(replace(report_data, warnings=["a < b"]))
    assert '<p class="warning">a &lt; b</p>' in html
    assert html.index('class="warning"') < html.index("<main>")


def test_a_point_of_several_names_is_one_row(report_data: ReportData) -> None:
    data = replace(report_data, chosen={"knee": 3, "fastest": 2, "fastest_within": 3, "chosen": 3})
    assert data.named_points() == {2: ["fastest"], 3: ["knee", "fastest_within", "chosen"]}
    assert "knee, fastest within, chosen" in Page(render(data)).text


def test_a_correction_that_does_not_help_is_not_praised(report_data: ReportData) -> None:
    assert report_data.additivity is not None
    check = replace(report_data.additivity, mape_percent=7.2, corrected_mape_percent=7.2)
    text = Page(render(replace(report_data, additivity=check))).text
    assert "does not lower that error" in text
    assert "brings the error to" not in text


def test_several_devices_have_a_table_a_figure_each_and_one_for_all(report_data: ReportData) -> None:
    """Names come from outside; the section stands behind the numbers, and is missing where there is one device."""
    teacher, student = report_data.result["teacher"], report_data.result["student"]
    names = ("onnxruntime", "adb:<b>&1/litert")
    rows = [
        {
            "name": name,
            "description": {"hardware": "<i>phone</i>"},
            "teacher": teacher | {"latency_ms": {"median": 30.0, "q25": 29.0, "q75": 31.0}},
            "student": student
            | {"latency_ms": {"median": 10.0 + number, "q25": 10.0, "q75": 12.0}}
            | {"difference_max_abs": None, "precision": "fp32", "files": ["student.onnx"]},
            "speedup": 30.0 / (10.0 + number),
            "precision": {"device": "int8" if number else "fp32"},
        }
        for number, name in enumerate(names)
    ]
    several = replace(
        report_data,
        result=report_data.result | {"devices": rows},
        devices=dict.fromkeys(names, report_data.evaluations),
        joint=report_data.evaluations,
    )
    page = Page(render(several))
    assert not page.open
    sections = page.sections()
    assert sections == [*ALL_SECTIONS[:2], "devices", *ALL_SECTIONS[2:]]
    assert "<i>phone</i>" in page.text
    assert "adb:<b>&1/litert" in page.text
    assert "On onnxruntime the student is 3.00 times as fast" in page.text
    assert "On adb:<b>&1/litert the student is 2.73 times as fast" in page.text
    assert "Latencies here are those on onnxruntime." in page.text
    assert "as int8 networks" in page.text
    plots = {attributes["id"] for attributes in page.all("div") if attributes.get("class") == "plot"}
    assert {"plot-front", "plot-front-1", "plot-front-2"} <= plots
    alone = Page(render(replace(report_data, result=report_data.result | {"devices": rows[:1]})))
    assert alone.sections() == ALL_SECTIONS


def test_a_student_that_breaks_sooner_is_said_to(report_data: ReportData) -> None:
    """0.6 dB behind at the second noise, 0.1 as trained; its gain there is 24.5 - 24.2 against -0.3 of its own."""
    text = Page(render(report_data)).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "The student breaks sooner than its teacher under 1 of 2 conditions" in text
    assert "most under noise, 5–10 of 255, where it falls 0.50 dB further behind" in text
    assert "It alone does harm under noise, 5–10 of 255." in text
    assert "of so few images" in text.lower()
    found = report_data.result["generalization"]
    sound = found | {"conditions": found["conditions"][:2], "images": ["a"] * 12}
    text = Page(render(replace(report_data, result=report_data.result | {"generalization": sound}))).text
    assert "Nowhere does the student fall further behind" in text
    assert "of so few images" not in text.lower()
    none = replace(report_data, result=report_data.result | {"generalization": None})
    assert "conditions" not in Page(render(none)).sections()
