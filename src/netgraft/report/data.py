"""What a report shows, as plain data.

A run fills in what it has; an empty field leaves its section out. Everything is in the units of the run's
artifacts, and nothing here depends on the other stages, so that a report can be made from a stored run alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(h, w, 3) RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """A place where a block may be replaced."""

    path: str
    """Dotted module path."""
    kind: str
    """``block``, ``down`` or ``up``."""
    stride: int
    """Input pixels of the network per pixel of the site's input, along one axis."""
    in_channels: int
    """Channels of the site's input."""
    out_channels: int
    """Channels of the site's output."""
    macs: int
    """Multiply-accumulates of the teacher's block."""
    macs_share: float
    """Share of the whole network's, 0 to 1."""
    params: int
    """Parameters of the teacher's block."""
    protected: bool = False
    """Whether the site keeps the teacher's block by decision, before any search."""
    alternatives: bool = True
    """Whether the pool offers anything else there, where the site was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """One assignment whose quality was evaluated."""

    assignment: tuple[int, ...]
    """Option index per site; 0 keeps the teacher's block."""
    quality_loss_db: float
    """PSNR lost against the teacher on the validation images."""
    latency_ms: float
    """Predicted from the latency table."""
    measured_latency_ms: float | None = None
    """Median of the assembled network on the device, where it was measured."""
    measured_quartiles_ms: tuple[float, float] | None = None
    """Its first and third quartile."""
    source: str
    """Who proposed it, e.g. the search method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One measured entry of the latency table."""

    site: str
    """Path of the site."""
    operator: str
    """Name of the operator."""
    median_ms: float
    """Median over the repeats."""
    q25_ms: float
    """First quartile."""
    q75_ms: float
    """Third quartile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdditivityCheck:
    """Whole networks' measured latency against the sum of their blocks'."""

    predicted_ms: Sequence[float]
    """From the latency table, one per network."""
    measured_ms: Sequence[float]
    """On the device, end to end."""
    mape_percent: float
    """Mean absolute error in percent of the measured value."""
    spearman: float
    """Rank correlation, -1 to 1."""
    corrected_ms: Sequence[float] = ()
    """Corrected predictions, each by a correction that never saw the network, if one was fitted."""
    corrected_mape_percent: float | None = None
    """Their mean absolute error in percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRow:
    """One logged step of fine-tuning."""

    step: int
    """Optimizer steps so far."""
    loss: float
    """Training loss."""
    psnr_db: float | None = None
    """Validation PSNR, where it was evaluated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """One test image's scores."""

    name: str
    """File name."""
    degraded_psnr_db: float
    """Of the input."""
    teacher_psnr_db: float
    """Of the teacher's output."""
    student_psnr_db: float
    """Of the student's output."""
    degraded_ssim: float
    """Of the input."""
    teacher_ssim: float
    """Of the teacher's output."""
    student_ssim: float
    """Of the student's output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """One crop of a test image, in four versions of one size."""

    name: str
    """File name, and where the crop was taken if that matters."""
    degraded: Picture
    """The input."""
    teacher: Picture
    """The teacher's output."""
    student: Picture
    """The student's output."""
    clean: Picture
    """The ground truth."""
    psnr_db: Mapping[str, float] = field(default_factory=dict)
    """PSNR of the crop by version: ``degraded``, ``teacher``, ``student``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """An option that left the space before the search."""

    site: str
    """Path of the site."""
    operator: str
    """Name of the operator."""
    reason: str
    """Why: what the device said, or which option is better in every respect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeseenRow:
    """One replacement alone, as it was expected before the search."""

    site: str
    """Path of the site."""
    operator: str
    """Name of the operator."""
    saved_ms: float
    """Predicted latency that it saves in the whole network."""
    loss_db: float
    """PSNR that it is expected to cost."""
    chosen: bool = False
    """Whether it is in the student."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """A whole run, as its report shows it."""

    title: str
    """Headline of the page."""
    created: str
    """ISO 8601 time."""
    result: Mapping[str, Any]
    """The run's ``result.json``: teacher, student, degraded, front, device, protocol, seconds."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Version by package."""
    warnings: Sequence[str] = ()
    """What a reader must know before trusting the figures, a sentence or two each."""
    device: Mapping[str, Any] = field(default_factory=dict)
    """What ran: backend, hardware, precision, threads, ..."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """How each figure came about; a value may be a mapping, shown as a group."""
    sites: Sequence[SiteRow] = ()
    """In data-flow order; other fields index it."""
    saliency: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Metric -> one value per site."""
    options: Sequence[Sequence[str]] = ()
    """Operator names per site; the first keeps the teacher's block."""
    evaluations: Sequence[EvaluationRow] = ()
    """Every assignment that was evaluated, in order; with several devices as the first of them sees it."""
    devices: Mapping[str, Sequence[EvaluationRow]] = field(default_factory=dict)
    """With several devices: the same by device."""
    joint: Sequence[EvaluationRow] = ()
    """With several devices: the same with the slowest's latency, in percent of the teacher's there, for ms."""
    chosen: Mapping[str, int] = field(default_factory=dict)
    """Index into evaluations of ``knee``, ``fastest``, ``fastest_within`` the allowed loss, and ``chosen``."""
    hypervolume: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Search method -> hypervolume after each evaluation."""
    latency_table: Sequence[LatencyRow] = ()
    """What each operator costs at each site."""
    additivity: AdditivityCheck | None = None
    """How well the table adds up."""
    distillation: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]] = field(default_factory=dict)
    """Site path -> operator -> ``step`` and ``loss``."""
    finetune: Sequence[FinetuneRow] = ()
    """In order of the steps."""
    images: Sequence[ImageRow] = ()
    """Every test image."""
    crops: Sequence[Crop] = ()
    """A few crops to look at."""
    refused: Sequence[RefusedRow] = ()
    """Options that left the space."""
    foreseen: Sequence[ForeseenRow] = ()
    """Every replacement in the space, where the search started from foreseen losses."""
    ceiling: Mapping[str, float] = field(default_factory=dict)
    """Largest share that the space could save at all, 0 to 1, by quantity: ``macs``, ``latency``."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by stage."""

    def named_points(self) -> dict[int, list[str]]:
        """The names of each evaluation that was chosen as something; the student's come last."""
        points: dict[int, list[str]] = {}
        for name, index in sorted(self.chosen.items(), key=lambda item: item[1] == self.chosen.get("chosen")):
            points.setdefault(index, []).append(name)
        return points
