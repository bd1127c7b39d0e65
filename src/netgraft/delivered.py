"""What a run says of precisions: which one is delivered, what every other achieves, and how that was judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netgraft.devices import FormDevice, Latency
from netgraft.devices.arm.ethos_u import EthosUDevice
from netgraft.evaluate import Evaluation
from netgraft.export import Export
from netgraft.precision import SINGLE, Comparison
from netgraft.stages.delivery import SHIPPED, Delivery
from netgraft.stages.forms import Form, NoForm
from netgraft.stages.surrogates import CALIBRATION_SEED


def precision(delivery: Delivery) -> dict[str, Any]:
    """In which precision teacher and student are delivered, and what every one that the device runs achieves."""
    found: dict[str, Any] = {
        "device": delivery.device_precision,
        "delivered": delivery.precision.form,
        "judged": delivery.judged,
    }
    if not delivery.judged:
        return found
    found |= {
        "as_asked": delivery.precision.as_asked,
        "reason": delivery.precision.reason,
        "max_loss_db": delivery.stages.config.device.max_precision_loss_db,
    }
    if isinstance(delivery.compared, Comparison):
        found |= {
            "student_loss_db": delivery.compared.loss_db,
            "student_loss_interval_db": list(delivery.compared.loss_interval_db),
            "student_speedup": delivery.compared.speedup,
        }
    for name in SHIPPED:
        found[name] = {
            form: _form(delivery, form, name)
            for form in (SINGLE, delivery.device_precision)
            if form == SINGLE or form in delivery.forms
        }
    return found


def _form(delivery: Delivery, precision: str, name: str) -> dict[str, Any]:
    """What the teacher or the student, by name, achieves in a precision."""
    form = delivery.forms.get(precision, {}).get(name, delivery.stages.exports[name])
    scores = delivery.stages.single_evaluations[name] if precision == SINGLE else delivery.reduced_evaluations[name]
    if isinstance(form, NoForm) or isinstance(scores, str):
        return {"refused": form.reason if isinstance(form, NoForm) else scores}
    latency = delivery.latencies.get(precision, {}).get(name)
    row = {
        **quality_of(scores),
        "latency_ms": None if latency is None else latency_of(latency),
        "size_bytes": form.size_bytes,
        "files": file_names(form),
    }
    if isinstance(form, Form):
        row |= {"difference_max_abs": form.difference_max_abs, "difference_rms": form.difference_rms}
    return row


def file_names(delivered: Form | Export) -> list[str]:
    """Names of the files in ``export/``, the one to open first."""
    paths = delivered.files if isinstance(delivered, Form) else (delivered.fixed, delivered.dynamic)
    return [path.name for path in paths]


def precision_warning(precision: Mapping[str, Any]) -> str | None:
    """What is wrong with the precision that is delivered; None if it is the device's, and was judged in it."""
    device = precision["device"]
    if device == SINGLE:
        return None
    if not precision["judged"]:
        return (
            f"Latencies are those of {device} networks. PSNR, SSIM, parity and the exported files are those of the "
            f"same networks in fp32: what {device} costs in quality was not evaluated."
        )
    if precision["as_asked"]:
        return None
    reason: str = precision["reason"]
    if precision["delivered"] == SINGLE:
        reason += f" The front's latencies, and those of the blocks, are of {device} networks."
    return reason


def judged_form(delivery: Delivery) -> str:
    """What it is that was scored as teacher and student."""
    if delivery.precision.form == SINGLE:
        return "the exported ONNX files"
    return (
        f"{form_names(delivery)}, as {delivery.device.description.backend} computes them in {delivery.precision.form}"
    )


def form_names(delivery: Delivery) -> str:
    """The files that are delivered, in words."""
    return " and ".join(f"export/{file_names(delivery.delivered(name))[0]}" for name in SHIPPED)


def precision_protocol(delivery: Delivery) -> dict[str, Any]:
    """How the figures in the device's own precision came about."""
    config, (h, w) = delivery.stages.config.device, delivery.stages.config.size
    return {
        "calibration": "none: the device computes the exported files in fewer bits"
        if not isinstance(delivery.device, FormDevice)
        else f"{config.calibration} degraded training crops of {h}x{w}, spread evenly over the images, "
        f"seed {CALIBRATION_SEED}; the first once more, stretched from black to white",
        "computed by": "the runtime on this machine, not the NPU: its 8-bit arithmetic is the same up to rounding"
        if isinstance(delivery.device, EthosUDevice)
        else "the device's own runtime",
        "delivered": f"fewer bits, if they cost at most {config.max_precision_loss_db:g} dB on the test images "
        f"and are measurably faster (upper quartile below the lower one in {SINGLE}); else {SINGLE} where the device "
        "runs it",
        "loss": "mean over the images against the same network in fp32, 95 % bootstrap interval over images in pairs",
    }


def quality_of(evaluation: Evaluation) -> dict[str, float]:
    """Mean scores, as in ``result.json``."""
    return {figure: evaluation.mean(figure) for figure in ("psnr_db", "ssim", "ssim_matlab")}


def latency_of(latency: Latency) -> dict[str, float]:
    """Median and quartiles in ms, as in ``result.json``."""
    return {"median": latency.median_ms, "q25": latency.q25_ms, "q75": latency.q75_ms}
