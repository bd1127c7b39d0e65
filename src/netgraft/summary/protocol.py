"""How each figure of a run came about."""

from __future__ import annotations

from typing import Any

from netgraft.delivered import form_names, judged_form, precision_protocol
from netgraft.evaluate import PROTOCOL
from netgraft.generalization import MATTERS_DB
from netgraft.restore import OVERLAP
from netgraft.stages import Run

JOINT = {
    "slowest": "the largest of the devices' latencies, each as a share of the teacher's there, is the objective",
    "each": "each device's latency is an objective; the student is chosen by the slowest's share of the teacher's",
}
"""What several devices have minimized, by the setting."""


def protocol(run: Run) -> dict[str, Any]:
    """How each figure came about."""
    config, data, first = run.config, run.config.data, run.measured[0]
    drift = first.drift_percent.values()
    h, w = config.size
    return {
        "quality": {
            **PROTOCOL,
            "images": f"{len(run.test_images)} test images of source {data.source}, whole",
            "degradation": data.degradation_in_words,
            "network": f"{judged_form(first)}, in tiles of {h}x{w} with an overlap of {OVERLAP}",
            "statistics": "local (TLC)" if config.teacher.tlc else "global over each tile",
        },
        "search": {
            "quality loss": f"PSNR lost against the teacher on {config.search.crops} validation crops of {h}x{w}, "
            f"before fine-tuning; more than {run.cap_db:g} dB counts as that"
            + (f"; of networks in fp32, whose latencies are {first.device_precision}" if first.judged else ""),
            "limits": ", ".join(map(str, run.limits)) or "none",
            "latency": "sum of block medians from the latency table, corrected by "
            f"{first.bench.latency_model.networks} networks measured whole"
            if first.bench.latency_model.corrections
            else "sum of block medians from the latency table",
            **({"devices": JOINT[config.search.joint]} if run.several else {}),
            "method": config.search.method,
            "evaluations": len(run.search.costs),
        },
        "latency": {
            "input": f"1x3x{h}x{w}",
            "form": "deployed, exported to ONNX"
            + (f"; teacher and student in {form_names(first)}" if first.judged else ""),
            "blocks": f"median of {config.device.samples} samples, operators of one shape in turns",
            "drift": f"one block timed in each of {len(drift)} sessions: "
            f"{min(drift):+.1f} to {max(drift):+.1f} % from the middle one",
            "teacher, student and front": f"median and quartiles of {config.device.final_samples} samples each, "
            "whole networks, in turns in one session; the front's before fine-tuning",
        },
        **({"precision": precision_protocol(first)} if first.judged else {}),
        **({"other conditions": conditions_protocol(run)} if run.generalization is not None else {}),
        "counts": {"macs": f"convolutions and linear layers, batch 1, {h}x{w}", "params": "of the deployed form"},
        "seed": config.seed,
    }


def conditions_protocol(run: Run) -> dict[str, Any]:
    """How the figures under other conditions came about."""
    assert run.generalization is not None, "asked where there are some"
    h, w = run.generalization.size
    return {
        "images": f"center crops of {len(run.generalization.images)} test images, at most {h}x{w}; "
        f"{judged_form(run.measured[0])}",
        "psnr": "8-bit rounded RGB, per crop, then averaged",
        "blurs": "made anew from the clean image, in linear light, with the training's sensor noise; "
        "the bins of a shake's length are the same motion, scaled",
        "noise, JPEG, exposure": "on top of the test image's own degradation: Gaussian in sRGB; libjpeg, chroma at "
        "half resolution; linear light, clipped at white, the clean image alike",
        "randomness": f"seed {run.config.data.seed} and the image's name",
        "intervals": "95 % bootstrap over images, differences in pairs; too narrow for fewer than about ten images, "
        "and not corrected for the number of conditions",
        "breaks sooner": "the student falls further behind the teacher than on the test images as they are: by more "
        f"than {MATTERS_DB:g} dB, the interval below 0",
    }
