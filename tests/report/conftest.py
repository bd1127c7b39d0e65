"""A run that could have happened: NAFNet (1,1,1,28 | 1 | 1,1,1,1), 44 sites, 140 evaluations; all made up."""

import numpy as np
import pytest
from numpy.typing import NDArray

from netgraft.report import (
    AdditivityCheck,
    Crop,
    EvaluationRow,
    FinetuneRow,
    ForeseenRow,
    ImageRow,
    LatencyRow,
    RefusedRow,
    ReportData,
    SiteRow,
)

BLOCK_OPERATORS = ("keep", "naf_static", "conv3_res", "partial_conv", "drop")
SPEED = {
    "keep": 1.0,
    "naf_static": 0.62,
    "conv3_res": 0.41,
    "partial_conv": 0.3,
    "drop": 0.04,
    "resize_conv": 0.7,
}


def _sites() -> list[SiteRow]:
    plan = []
    for level, blocks in enumerate((1, 1, 1, 28)):
        plan += [(f"encoders.{level}.{i}", "block", 2**level) for i in range(blocks)]
        plan.append((f"downs.{level}", "down", 2**level))
    plan.append(("middle_blks.0", "block", 16))
    for level in range(4):
        plan.append((f"ups.{level}", "up", 16 // 2**level))
        plan.append((f"decoders.{level}.0", "block", 8 // 2**level))
    rows = []
    for path, kind, stride in plan:
        channels = 16 * stride
        macs = {"block": 7 * channels**2, "down": 2 * channels**2, "up": 2 * channels**2}[kind]
        macs *= (256 // stride) ** 2
        out = {"block": channels, "down": 2 * channels, "up": channels // 2}[kind]
        rows.append(
            SiteRow(
                path=path,
                kind=kind,
                stride=stride,
                in_channels=channels,
                out_channels=out,
                macs=macs,
                macs_share=macs / 4.085e9,
                params=7 * channels**2 + 30 * channels,
                protected=path in ("encoders.3.0", "middle_blks.0"),
            )
        )
    return rows


def _picture(rng: np.random.Generator, blur: int, noise: float) -> NDArray[np.uint8]:
    y, x = np.mgrid[:128, :192] / 128
    rings = np.sin(24 * np.hypot(x - 0.6, y - 0.5) ** 1.5)[..., None] * np.array([0.4, 0.3, 0.2])
    image = 0.5 + rings + 0.2 * (np.floor(8 * x) % 2)[..., None] * np.array([0.0, 0.5, 1.0])
    for _ in range(blur):
        image = (image + np.roll(image, 1, 1) + np.roll(image, -1, 1)) / 3
    return np.clip(255 * image + noise * rng.standard_normal(image.shape), 0, 255).astype(np.uint8)


def _generalization() -> dict[str, object]:
    """As trained, and two bins of noise; the student breaks at the second."""

    def near(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}

    rows = []
    for number, (kind, name, degraded, teacher, student) in enumerate(
        (
            ("as trained", "test images", 25.3, 27.9, 27.8),
            ("noise", "2-5 of 255", 25.1, 26.4, 26.32),
            ("noise", "5-10 of 255", 24.2, 24.5, 23.9),
        )
    ):
        rows.append(
            {
                "kind": kind,
                "name": name,
                "difficulty": max(0, number - 1),
                "trained_on": not number,
                "degraded_db": near(degraded),
                "teacher_db": near(teacher),
                "student_db": near(student),
                "teacher_gain_db": near(teacher - degraded),
                "student_gain_db": near(student - degraded),
                "difference_db": near(student - teacher),
                "difference_to_trained_db": near(student - teacher + 0.1),
                "breaks_sooner": number == 2,
            }
        )
    return {"images": ["a", "b", "c"], "size": [256, 256], "matters_db": 0.05, "conditions": rows}


def sample() -> ReportData:
    """The run, always the same one."""
    rng = np.random.default_rng(7)
    sites = _sites()
    options = [
        ["keep"]
        if site.protected
        else list(BLOCK_OPERATORS)
        if site.kind == "block"
        else ["keep", "resize_conv"]
        if site.kind == "up"
        else ["keep"]
        for site in sites
    ]
    times = {site.path: 2.4 * (1.0 if site.kind == "block" else 0.5) / site.stride**0.45 for site in sites}
    latency = [
        LatencyRow(site=site.path, operator=name, median_ms=t, q25_ms=0.97 * t, q75_ms=1.06 * t)
        for site, names in zip(sites, options, strict=True)
        for name in names
        for t in [times[site.path] * SPEED[name]]
    ]
    table = {(row.site, row.operator): row.median_ms for row in latency}
    harm = [[0.0, *np.sort(rng.gamma(1.2, 0.03, len(names) - 1))] if len(names) > 1 else [0.0] for names in options]

    def evaluation(assignment: tuple[int, ...], source: str, measured: bool) -> EvaluationRow:
        loss = sum(harm[s][o] for s, o in enumerate(assignment)) * (1 + 0.01 * sum(o > 0 for o in assignment))
        ms = 3.1 + sum(table[site.path, options[s][assignment[s]]] for s, site in enumerate(sites))
        return EvaluationRow(
            assignment=assignment,
            quality_loss_db=float(loss),
            latency_ms=float(ms),
            measured_latency_ms=float(ms * rng.normal(0.97, 0.015)) if measured else None,
            source=source,
        )

    evaluations = [evaluation((0,) * len(sites), "teacher", True)]
    for i in range(139):
        share = rng.uniform(0.03, 0.8)
        picks = tuple(int(rng.integers(len(names))) if rng.random() < share else 0 for names in options)
        source = "design" if i < 24 else ("additive", "bayes", "bayes")[i % 3]
        evaluations.append(evaluation(picks, source, i % 17 == 0))

    def best(ms_per_db: float) -> int:
        return min(range(140), key=lambda i: evaluations[i].quality_loss_db * ms_per_db + evaluations[i].latency_ms)

    chosen, knee, fastest = best(16), best(30), best(0)
    student = evaluations[chosen]
    before, after = evaluations[0].latency_ms, student.latency_ms
    images = []
    for i in range(29):
        degraded = rng.normal(25.3, 2.0)
        teacher = degraded + rng.normal(2.6, 0.5)
        lost = student.quality_loss_db + rng.normal(0, 0.08)
        images.append(
            ImageRow(
                name=f"photo_{i:02d}.png",
                degraded_psnr_db=degraded,
                teacher_psnr_db=teacher,
                student_psnr_db=teacher - lost,
                degraded_ssim=0.74 + degraded / 1000,
                teacher_ssim=0.80 + teacher / 1000,
                student_ssim=0.795 + teacher / 1000,
            )
        )
    means = {
        who: float(np.mean([getattr(row, f"{who}_psnr_db") for row in images]))
        for who in ("degraded", "teacher", "student")
    }
    steps = list(range(0, 2001, 100))
    result = {
        "schema": 1,
        "teacher": {
            "psnr_db": means["teacher"],
            "ssim": 0.8274,
            "latency_ms": {"median": before, "q25": 0.985 * before, "q75": 1.02 * before},
            "macs": 4_085_148_160,
            "params": 4_347_827,
            "size_bytes": 17_391_308,
        },
        "student": {
            "psnr_db": means["student"],
            "ssim": 0.8219,
            "latency_ms": {"median": after, "q25": 0.985 * after, "q75": 1.02 * after},
            "macs": 2_513_000_000,
            "params": 3_010_000,
            "size_bytes": 12_040_000,
            "assignment": {s.path: options[i][student.assignment[i]] for i, s in enumerate(sites)},
            "parity_max_abs": 3.4e-6,
        },
        "degraded": {"psnr_db": means["degraded"], "ssim": 0.7653},
        "front": [],
        "generalization": _generalization(),
    }
    predicted = [float(v) for v in np.linspace(28, before, 12)]
    volume = np.maximum.accumulate(rng.uniform(0.2, 0.9, 139) ** 0.3)
    return ReportData(
        title="NAFNet-16 for camera shake on a two-core CPU",
        created="2026-03-04T15:16:17+00:00",
        result=result,
        versions={"netgraft": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.0"},
        device={"backend": "onnxruntime", "hardware": "x86-64, 2 cores", "precision": "fp32", "threads": 2},
        protocol={
            "latency": {"size": [256, 256], "batch": 1, "warm_up": 10, "repeats": 60, "statistic": "median"},
            "quality": {
                "dataset": "photos/test",
                "images": 29,
                "area": "full image",
                "tlc": False,
                "ssim": "matlab",
                "rounding": "8 bits",
            },
            "saliency": {"images": 16, "loss": "mse", "protects": "the 2 most salient by snip"},
            "seed": 7,
        },
        sites=sites,
        saliency={
            metric: [float(v) for v in rng.lognormal(0, 2, len(sites)) * sign]
            for metric, sign in (
                ("grad_norm", 1),
                ("snip", 1),
                ("grasp", -1),
                ("fisher", 1),
                ("plain", 1),
                ("synflow", 1e12),
            )
        },
        options=options,
        evaluations=evaluations,
        chosen={"fastest": fastest, "knee": knee, "chosen": chosen},
        hypervolume={"auto": [float(v) for v in volume], "random": [float(v) * 0.8 for v in volume]},
        latency_table=latency,
        additivity=AdditivityCheck(
            predicted_ms=predicted,
            measured_ms=[v * float(rng.normal(0.97, 0.02)) for v in predicted],
            mape_percent=3.4,
            spearman=0.993,
            corrected_ms=[0.97 * v for v in predicted],
            corrected_mape_percent=1.9,
        ),
        distillation={
            site.path: {
                name: {
                    "step": steps,
                    "loss": [float(np.exp(-s / 500) / site.stride + 0.02 + 0.01 * k) for s in steps],
                }
                for k, name in enumerate(options[i][1:4])
            }
            for i, site in enumerate(sites)
            if len(options[i]) > 1
        },
        finetune=[
            FinetuneRow(
                step=s,
                loss=-27.5 - 0.4 * (1 - np.exp(-s / 600)) + float(rng.normal(0, 0.05)),
                psnr_db=means["student"] - 0.3 * float(np.exp(-s / 600)) if s % 500 == 0 else None,
            )
            for s in steps
        ],
        images=images,
        crops=[
            Crop(
                name=f"photo_{i:02d}.png, 192 × 128 at (310, 208)",
                degraded=_picture(rng, 9, 5),
                teacher=_picture(rng, 2, 2),
                student=_picture(rng, 3, 2),
                clean=_picture(rng, 0, 0),
                psnr_db={"degraded": 21.3 + i, "teacher": 27.4 + i, "student": 27.1 + i},
            )
            for i in range(3)
        ],
        refused=[
            RefusedRow(site="downs.0", operator="strided_conv3", reason="slower and worse than keep"),
            RefusedRow(site="encoders.0.0", operator="half_res", reason="the device refuses SpaceToDepth"),
        ],
        foreseen=[
            ForeseenRow(site="encoders.0.0", operator="drop", saved_ms=4.2, loss_db=1.3),
            ForeseenRow(site="encoders.0.0", operator="conv3_res", saved_ms=2.9, loss_db=0.12, chosen=True),
            ForeseenRow(site="downs.0", operator="drop", saved_ms=0.4, loss_db=0.0),
        ],
        ceiling={"macs": 0.71, "latency": 0.64},
        seconds={"saliency": 31.2, "distill": 2874.0, "profile": 412.5, "search": 1630.0, "finetune": 5421.0},
    )


@pytest.fixture(scope="session")
def report_data() -> ReportData:
    return sample()


@pytest.fixture(scope="session")
def bare_data() -> ReportData:
    """A run that has only begun."""
    return ReportData(title="begun", created="2026-03-04T15:16:17+00:00", result={})
