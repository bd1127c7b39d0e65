"""A network as files that ship: deployed form, ONNX at a fixed and at any size, parity checked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.devices import OnnxRuntimeDevice, onnx_bytes, to_onnx
from netgraft.errors import DeviceError, ExportError
from netgraft.files import write_atomically
from netgraft.nets.blocks import deploy

PARITY = 1e-3
"""Largest difference to PyTorch, anywhere in an image in [0, 1], that an fp32 export may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written, and how well it agrees with the network that it came from."""

    fixed: Path
    """ONNX at the profiled size."""
    dynamic: Path
    """ONNX for any size that is a multiple of the network's."""
    size_bytes: int
    """Of the file at the profiled size."""
    parity_max_abs: float
    """Largest absolute difference to PyTorch on the examples, at both sizes."""


def export(
    module: nn.Module,
    folder: Path,
    name: str,
    examples: Sequence[Tensor],
    fixed_content: Callable[[nn.Module], bytes] | None = None,
) -> Export:
    """Write ``module`` in its deployed form as ``name.onnx`` and ``name_dynamic.onnx``, and check both.

    examples: images (1, 3, h, w) in [0, 1], all of the profiled size; the first also sets it. ``fixed_content``
    gives the file at that size for the deployed form, in place of the exporter, for who knows a shorter way.

    Raises:
        ExportError: the module cannot be exported, or an export differs by more than :data:`PARITY`; the files
            are then removed again.
    """
    deployed = deploy(module)
    fixed, dynamic = folder / f"{name}.onnx", folder / f"{name}_dynamic.onnx"
    try:
        content = onnx_bytes(deployed, examples[0]) if fixed_content is None else fixed_content(deployed)
        write_atomically(fixed, content, ExportError)
        to_onnx(deployed, examples[0], dynamic, dynamic=True)
        worst = float(
            np.max(
                [
                    _difference(module, fixed, examples),
                    _difference(module, dynamic, [_other_size(examples[0], module)]),
                ]
            )
        )
        # Written so that NaN counts as disagreement.
        if not worst <= PARITY:
            raise ExportError(
                f"{name}: the export differs from PyTorch by {worst:.2g}, more than {PARITY:g}; "
                "its activations are too large for the folded form: fine-tune it longer"
            )
    except BaseException as error:
        # Whatever stopped it, a kill included: a file that was not checked must not be taken for a good one.
        for path in (fixed, dynamic):
            # Where the folder itself cannot be, there is nothing to take away.
            with suppress(OSError):
                path.unlink()
        if isinstance(error, DeviceError):
            raise ExportError(f"{name}: ONNX Runtime does not run the export: {error}") from error
        raise
    return Export(fixed=fixed, dynamic=dynamic, size_bytes=fixed.stat().st_size, parity_max_abs=worst)


def _other_size(image: Tensor, module: nn.Module) -> Tensor:
    """About three quarters of the image's height, so that a size other than the exported one is tried."""
    multiple = int(getattr(module, "size_multiple", 1))
    return image[..., : max(multiple, image.shape[-2] * 3 // 4 // multiple * multiple), :]


def _difference(module: nn.Module, path: Path, images: Sequence[Tensor]) -> float:
    """Largest absolute difference between the file's output and the module's; NaN if there is one."""
    reference = copy.deepcopy(module).eval()
    runnable = OnnxRuntimeDevice(threads=torch.get_num_threads()).load(path)
    gaps = []
    try:
        for image in images:
            with torch.inference_mode():
                expected = reference(image).numpy()
            restored = runnable.run(image.contiguous().numpy())
            if restored.shape != expected.shape:
                raise ExportError(f"{path}: gives {restored.shape} where PyTorch gives {expected.shape}")
            gaps.append(np.abs(restored - expected).max())
    finally:
        runnable.close()
    # Not Python's max, which passes over NaN.
    return float(np.max(gaps))
