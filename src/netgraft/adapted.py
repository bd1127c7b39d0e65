"""What an adaptation reached: student and teacher, tuned and not, side by side, and how each figure came about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import onnx

from netgraft.devices import Latency, Unsupported
from netgraft.evaluate import PROTOCOL, Evaluation
from netgraft.export import Export
from netgraft.restore import OVERLAP
from netgraft.stages.adaptation import AFTER, BEFORE, AdaptStages, Tuned

SCHEMA = 1
FIGURES = ("psnr_db", "ssim", "ssim_matlab")


def adapted(work: AdaptStages) -> dict[str, Any]:
    """The document of ``result.json``."""
    scores = work.evaluations
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "degraded": _quality(scores["degraded", ""]),
        **{name: {form: _network(work, name, form) for form in (BEFORE, AFTER)} for name in work.before},
        "differences_db": differences_db(work),
        "architecture": {name: architecture(work, name) for name in work.before},
        "adaptation": {name: _course(tuned) for name, tuned in work.tuned.items()},
        "images": {
            "train": work.images_used,
            "validation_crops": work.config.validation_crops,
            "test": len(work.test_images),
        },
        "device": work.device.description.as_dict(),
        "assignment": dict(work.start.student.assignment),
        "weights": {name: path.name for name, path in work.weights.items()},
        "config": work.config.model_dump(mode="json"),
        "protocol": protocol(work),
        "seconds": work.seconds,
    }
    return document


def _network(work: AdaptStages, name: str, form: str) -> dict[str, Any]:
    done, latency = work.exports[name, form], work.latencies[name, form]
    return {
        **_quality(work.evaluations[name, form]),
        "latency_ms": None if isinstance(latency, Unsupported) else _latency(latency),
        "refused": latency.reason if isinstance(latency, Unsupported) else None,
        "parity_max_abs": done.parity_max_abs,
        "size_bytes": done.size_bytes,
        "files": [f"export/{path.name}" for path in (done.fixed, done.dynamic)],
    }


def _quality(evaluation: Evaluation) -> dict[str, Any]:
    """Means over the images, and the interval of the PSNR and the SSIM."""
    found = {figure: evaluation.estimate(figure) for figure in FIGURES}
    return {figure: estimate.mean for figure, estimate in found.items()} | {
        f"{figure}_interval": [found[figure].low, found[figure].high] for figure in FIGURES[:2]
    }


def differences_db(work: AdaptStages) -> dict[str, dict[str, Any]]:
    """Mean PSNR differences over the images in pairs, each with its 95 % interval, by what is compared."""
    pairs = {"student tuned - untuned": (("student", AFTER), ("student", BEFORE))}
    if "teacher" in work.before:
        pairs |= {
            "teacher tuned - untuned": (("teacher", AFTER), ("teacher", BEFORE)),
            "student tuned - teacher untuned": (("student", AFTER), ("teacher", BEFORE)),
            "student tuned - teacher tuned": (("student", AFTER), ("teacher", AFTER)),
        }
    found = {}
    for label, (first, second) in pairs.items():
        gap = work.evaluations[first].less(work.evaluations[second])
        found[label] = {"mean": gap.mean, "interval": [gap.low, gap.high]}
    return found


def architecture(work: AdaptStages, name: str) -> dict[str, Any]:
    """Whether a network computes by the same graph as before, and of what the graph consists."""
    before, after = (graph_of(work.exports[name, form]) for form in (BEFORE, AFTER))
    kinds = sorted({kind for kind, *_ in after})
    return {
        "same_graph": before == after,
        "nodes": {kind: sum(kind == node[0] for node in after) for kind in kinds},
    }


def graph_of(exported: Export) -> list[tuple[Any, ...]]:
    """Every node of the file of fixed size in its order: its kind, its attributes, what it takes and gives by name, and
    the shapes of its weights; not the weights themselves."""
    graph = onnx.load(exported.fixed).graph
    shapes = {weight.name: (weight.data_type, tuple(weight.dims)) for weight in graph.initializer}
    return [
        (
            node.op_type,
            tuple(sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)),
            tuple(node.input),
            tuple(node.output),
            tuple(shapes[name] for name in node.input if name in shapes),
        )
        for node in graph.node
    ]


def _course(tuned: Tuned) -> dict[str, Any]:
    """How a network came to its weights."""
    return {
        "steps": tuned.steps,
        "best_step": tuned.best.step,
        "validation_psnr_db": {"before": tuned.looks[0].psnr_db, "best": tuned.best.psnr_db},
        "curve": [{"step": look.step, "psnr_db": look.psnr_db} for look in tuned.looks],
    }


def _latency(latency: Latency) -> dict[str, float]:
    return {"median": latency.median_ms, "q25": latency.q25_ms, "q75": latency.q75_ms}


def protocol(work: AdaptStages) -> dict[str, Any]:
    """How each figure came about."""
    config, data = work.config, work.config.data
    h, w = work.start.student.size
    return {
        "quality": {
            **PROTOCOL,
            "images": f"{len(work.test_images)} test images of source {data.source}, whole",
            "degradation": data.degradation_in_words,
            "network": f"the exported ONNX files, in tiles of {h}x{w} with an overlap of {OVERLAP}",
            "interval": f"95 % bootstrap {work.evaluations['degraded', ''].resampled}; of differences, in pairs",
        },
        "training": {
            "images": f"{work.images_used} training images, drawn by seed {config.seed}",
            "loss": "PSNR against the clean image",
            "steps": f"at most {config.steps} of {config.batch} crops of {config.crop}x{config.crop}",
            "chosen by": f"{config.validation_crops} validation crops of {config.validation_crop}x"
            f"{config.validation_crop}, every {config.check_every} steps, step 0 among them; stopped after "
            f"{config.patience} steps without a better one",
        },
        "latency": {
            "input": f"1x3x{h}x{w}",
            "form": "deployed, exported to ONNX",
            "statistics": f"median and quartiles of {config.samples} samples, all networks in turns in one session",
        },
        "seed": config.seed,
    }
