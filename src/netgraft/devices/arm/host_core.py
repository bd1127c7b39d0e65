"""What it costs when an operator falls back from an NPU to the processor beside it: a stated rule, not a measurement.

The host is taken to be an Arm Cortex-M55 at the NPU's clock, the core that Arm pairs with the Ethos-U in its
Corstone-300 reference design. Its vector unit (Helium) works on 64 bits a cycle: at most 8 multiply-accumulates of
8 bits, or 8 bytes loaded or stored ("Arm's New Cortex-M55 Breathes Helium", WikiChip Fuse, 2020). An operator
then takes

    max(work / 8, bytes / 8) / EFFICIENCY + HANDOVER    cycles

where *work* is its multiply-accumulates, or for others the elements of its largest tensor. The efficiency is an
assumption: kernels of rare operators are plain code, which uses a fraction of the vector unit. So is the hand-over:
the NPU stops and interrupts, the host cleans its cache and starts it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NAME = "Cortex-M55"
WORK_PER_CYCLE = 8
BYTES_PER_CYCLE = 8
EFFICIENCY = 0.25
HANDOVER_CYCLES = 10_000

WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "CONV_2D": (1, 2, 3),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1,),
}
"""Of operators with multiply-accumulates: the axes of the weights, the second input, that each output sums over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """An operator that runs on the host."""

    operator: str
    """Its type, e.g. ``SQRT``."""
    work: int
    """Multiply-accumulates, or elements of its largest tensor."""
    size_bytes: int
    """Its inputs, constants among them, and outputs together."""

    @property
    def cycles(self) -> float:
        """By the rule of this module."""
        busy = max(self.work / WORK_PER_CYCLE, self.size_bytes / BYTES_PER_CYCLE)
        return busy / EFFICIENCY + HANDOVER_CYCLES


def find_fallbacks(interpreter: Any, names: Sequence[str]) -> tuple[Fallback, ...]:
    """The operators of a TFLite file that give the tensors of these names, in the file's order.

    interpreter: LiteRT's, over the file that was compiled.
    """
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    wanted = set(names)
    found = []
    # The one place where LiteRT lists a network's operators; no public call does.
    for op in interpreter._get_ops_details():
        outputs = [tensors[index] for index in op["outputs"]]
        if wanted.isdisjoint(tensor["name"] for tensor in outputs):
            continue
        inputs = [tensors[index] for index in op["inputs"] if index >= 0]
        found.append(
            Fallback(
                operator=op["op_name"],
                work=_work(op["op_name"], inputs, outputs),
                size_bytes=sum(_elements(tensor) * np.dtype(tensor["dtype"]).itemsize for tensor in inputs + outputs),
            )
        )
    return tuple(found)


def _work(operator: str, inputs: list[Any], outputs: list[Any]) -> int:
    if operator in WEIGHTS:
        return _elements(outputs[0]) * int(np.prod([inputs[1]["shape"][axis] for axis in WEIGHTS[operator]]))
    return max(_elements(tensor) for tensor in inputs + outputs)


def _elements(tensor: Any) -> int:
    return int(np.prod(tensor["shape"]))
