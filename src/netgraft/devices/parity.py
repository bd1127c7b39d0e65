"""Whether a compiled network is the network that was asked for, by what it computes.

In single precision the outputs agree up to rounding, and anything else is a fault of an exporter or a compiler. In
fewer bits a network is *meant* to compute something else, and how much quality that costs is for the evaluation
on images to say; the check only refuses what has lost the signal. The rules, on one input:

========= ===========================================================================================
precision refused when
========= ===========================================================================================
fp32      the largest error exceeds 1e-3 of the largest output
bf16      the largest error exceeds 5e-2 of the largest output: 8 significant bits, 2^-8, a few times over
int8      the error's root mean square exceeds 0.3 of the output's, a signal 10 dB above the noise; single
          values may be off by any amount, as what the calibration never reached is cut off
others    as int8
========= ===========================================================================================

A NAF block with random weights lies at 3e-7, 5e-3 and 0.025.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.devices.device import Array


def torch_output(module: nn.Module, example: Tensor) -> Array:
    """What torch computes for (1, c, h, w), in evaluation mode."""
    with torch.no_grad():
        return cast(Array, copy.deepcopy(module).eval()(example).numpy())


def disagreement(restored: Array, reference: Array, precision: str) -> str | None:
    """Why an output of a device in this precision cannot be of torch's network; None if it can."""
    if restored.shape != reference.shape:
        return f"gives {restored.shape} where torch gives {reference.shape}"
    return RULES.get(precision, RULES["int8"])(restored - reference, reference)


def _largest(share: float) -> Callable[[Array, Array], str | None]:
    def rule(error: Array, reference: Array) -> str | None:
        off = float(np.abs(error).max(initial=0.0))
        largest = float(np.abs(reference).max(initial=0.0))
        # Written so that NaN counts as disagreement.
        if not off <= share * max(largest, 1e-6):
            return f"differs from torch by up to {off:.3g}, where outputs reach {largest:.3g}"
        return None

    return rule


def _mean_square(share: float) -> Callable[[Array, Array], str | None]:
    def rule(error: Array, reference: Array) -> str | None:
        off, signal = (float(np.sqrt(np.square(values, dtype=np.float64).mean())) for values in (error, reference))
        if not off <= share * max(signal, 1e-6):
            return f"differs from torch by {off:.3g} root mean square, where outputs have {signal:.3g}"
        return None

    return rule


RULES: Mapping[str, Callable[[Array, Array], str | None]] = MappingProxyType(
    {"fp32": _largest(1e-3), "bf16": _largest(5e-2), "int8": _mean_square(0.3)}
)
"""By precision: what is wrong with an error, given the reference; None if nothing is."""
