"""What Qualcomm AI Hub tells of a network that it ran on a phone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from netgraft.devices.measure import Latency
from netgraft.errors import DeviceError

NPU = "NPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One network on one phone."""

    times_us: tuple[float, ...]
    """Every timed run; where the answer has but the hub's estimate, which is the fastest run, that alone."""
    layers: Mapping[str, int]
    """How many layers ran on each unit: NPU, GPU or CPU."""
    fallbacks: tuple[str, ...]
    """Layers that did not run on the NPU, as ``name (type, unit)``."""

    @property
    def latency(self) -> Latency:
        """Median and quartiles of the phone's own times; nothing is known of its processor time."""
        q25, median, q75 = (float(value) / 1e3 for value in np.quantile(self.times_us, [0.25, 0.5, 0.75]))
        return Latency(
            median_ms=median,
            q25_ms=q25,
            q75_ms=q75,
            cpu_median_ms=median,
            runs=len(self.times_us),
            contended=0.0,
        )

    def __str__(self) -> str:
        placed = ", ".join(f"{count} {unit}" for unit, count in self.layers.items())
        if not self.fallbacks:
            return f"layers: {placed}"
        shown = ", ".join(self.fallbacks[:5]) + (", ..." if len(self.fallbacks) > 5 else "")
        return f"layers: {placed}; {len(self.fallbacks)} fall back from the NPU: {shown}"


def read_profile(answer: Mapping[str, Any]) -> Profile:
    """The profile in an answer, as ``qai_hub.InferenceJob.download_profile`` gives it; times are microseconds.

    Raises:
        DeviceError: it holds no time, or one that can be none.
    """
    try:
        summary, details = answer["execution_summary"], answer.get("execution_detail") or []
        times = tuple(float(us) for us in summary.get("all_inference_times") or [summary["estimated_inference_time"]])
        layers = Counter(str(layer["compute_unit"]) for layer in details)
        fallbacks = tuple(
            f"{layer['name']} ({layer['type']}, {layer['compute_unit']})"
            for layer in details
            if layer["compute_unit"] != NPU
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DeviceError(f"Qualcomm AI Hub's answer has no profile ({type(error).__name__} {error})") from error
    # Written so that NaN counts as none.
    if not all(0 < us < float("inf") for us in times):
        raise DeviceError(f"Qualcomm AI Hub's answer has impossible times: {min(times):g} to {max(times):g} us")
    return Profile(times_us=times, layers=dict(layers.most_common()), fallbacks=fallbacks)
