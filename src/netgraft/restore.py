"""Restoring one image, of any size, with a network in any of its forms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netgraft.compute import check_compute
from netgraft.errors import CheckpointError, ConfigError, ImageError, first_line
from netgraft.imaging import RgbImage, run_tiled
from netgraft.nets.load import Teacher, load_teacher

TILE = 256
"""Side of a tile, in pixels, for networks that take any size; near what they were trained on."""
WHOLE = 2**20
"""Side of a tile that no image reaches."""
OVERLAP = 32
"""Pixels that neighboring tiles share at least."""
SIZE_MULTIPLE = "size_multiple"
"""Where the metadata of an ONNX file of free size note what its sides must be multiples of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restorer:
    """A network that is ready to restore images; whatever it runs on, images go through it in the same tiles."""

    run: Callable[[Tensor], Tensor]
    """(1, 3, h, w), RGB in [0, 1] -> the same; of two views (1, 6, h, w) -> (1, 3, h, w)."""
    multiple: int = 1
    """Sides must be multiples of this."""
    fixed: tuple[int, int] | None = None
    """(h, w) of every input, for a network with a fixed size."""
    tile: int = TILE
    """Side of a tile, in pixels, for a network without a fixed size; a deep one gets what it needs at least."""
    channels: int = 3
    """Of the input: 3, or 6 for the two views of a dual-pixel sensor."""
    pads_itself: bool = False
    """Whether it takes whole images of any size, and pads them as its authors do."""

    @property
    def sides(self) -> tuple[int, int]:
        """(h, w) of a tile, in pixels."""
        # Two steps of a deep network at least: one is shared with the next tile.
        tile = max(self.tile, 2 * self.multiple)
        tile += -tile % self.multiple
        return self.fixed or (tile, tile)

    @property
    def overlap(self) -> int:
        """Pixels that neighboring tiles share at least."""
        return min(OVERLAP, min(self.sides) // 4)

    @property
    def pieces(self) -> str:
        """In which pieces images go through the network, in words."""
        h, w = self.sides
        return "whole" if self.tile == WHOLE else f"tiles of {h}x{w} with an overlap of {self.overlap}"

    def in_tiles(self, side: int | None) -> Restorer:
        """The same network, run on tiles of ``side`` pixels, or on whole images where it is None.

        Raises:
            ConfigError: the network has a fixed size.
        """
        if self.fixed is not None:
            h, w = self.fixed
            raise ConfigError(
                f"a network with the fixed input {w}x{h} runs in tiles of that size alone: name its *_dynamic.onnx "
                "file, or a checkpoint"
            )
        if side is None:
            return replace(self, tile=WHOLE, multiple=1 if self.pads_itself else self.multiple)
        return replace(self, tile=side)

    def __call__(self, image: RgbImage) -> RgbImage:
        """Restore an (h, w, 3) uint8 or uint16 image, of two views (h, w, 6); one (h, w, 3) of its type comes back."""
        _check_image(image, self.channels)
        white = np.iinfo(image.dtype).max
        x = torch.from_numpy(image.astype(np.float32) / white).permute(2, 0, 1)[None].contiguous()
        tile = self.sides[0]
        y = run_tiled(self.run, x, tile=tile, overlap=self.overlap, multiple=self.multiple, fixed=self.fixed)
        # Before clamping, which would turn infinity into white.
        if not bool(torch.isfinite(y).all()):
            raise ImageError("the network gave values that are not finite: it does not fit images like this one")
        out = y[0].permute(1, 2, 0).clamp(0, 1).mul(white).round().numpy()
        return out.astype(np.uint8) if image.dtype == np.uint8 else out.astype(np.uint16)


Model = Restorer | Teacher | nn.Module | str | Path | None
"""Whatever can be made a :class:`Restorer`; None is the embedded network."""


def restore(image: RgbImage, model: Model = None) -> RgbImage:
    """Restore an image; large ones go through the network in overlapping tiles.

    image: (h, w, 3) RGB, uint8 or uint16, of any size -> the same shape and type. model: a Teacher, a module, the
    path of an ``.onnx``, ``.pth`` or ``.safetensors`` file, or None for the embedded network. A path is opened at
    each call: for many images, open it once with :func:`open_restorer`.

    Raises:
        ImageError: not such an array.
        CheckpointError: the model cannot be read.
    """
    return open_restorer(model)(image)


def open_restorer(model: Model = None, *, threads: int = 0, compute: str = "cpu") -> Restorer:
    """Make a network ready to restore images.

    threads: of ONNX Runtime; 0 for all cores. PyTorch keeps its own setting.
    compute: where PyTorch computes, e.g. ``cuda``; ONNX Runtime computes on the processor.

    Raises:
        CheckpointError: the model cannot be read.
        ConfigError: PyTorch cannot compute there.
    """
    if isinstance(model, Restorer):
        return model
    check_compute(compute)
    if model is None:
        return _embedded(compute)
    if isinstance(model, Teacher):
        return _of_module(model.module, compute)
    if isinstance(model, nn.Module):
        return _of_module(model, compute)
    path = Path(model)
    if path.suffix == ".onnx":
        return _of_onnx(path, threads)
    return _of_module(load_teacher(path).module, compute)


@cache
def _embedded(compute: str) -> Restorer:
    return _of_module(load_teacher().module, compute)


def _of_module(module: nn.Module, compute: str) -> Restorer:
    # A copy: the caller's may be in training, and keeps its memory layout.
    network = copy.deepcopy(module).eval().to(compute, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            y: Tensor = network(x.to(compute, memory_format=torch.channels_last))
        return y.clone()

    multiple = getattr(module, "size_multiple", None)
    return Restorer(run=run, multiple=int(multiple or 1), pads_itself=multiple is not None)


def _of_onnx(path: Path, threads: int) -> Restorer:
    session = _session(path, threads)
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (3, 6) or (isinstance(shape[0], int) and shape[0] != 1):
        raise CheckpointError(
            f"{path}: needs one input of (1, 3, h, w), or (1, 6, h, w) for two views, "
            f"but it takes {[i.shape for i in inputs]}"
        )
    if inputs[0].type != "tensor(float)":
        raise CheckpointError(f"{path}: needs an input of 32-bit floats, but it takes {inputs[0].type}")
    name = inputs[0].name

    def run(x: Tensor) -> Tensor:
        try:
            y = session.run(None, {name: x.contiguous().numpy()})[0]
        except Exception as error:
            # As in _session: one class for each kind of failure, without a common base.
            raise CheckpointError(f"{path}: failed on {tuple(x.shape)}: {first_line(error)}") from error
        return torch.from_numpy(y)

    h, w = shape[2:]
    if isinstance(h, int) and isinstance(w, int):
        return Restorer(run=run, fixed=(h, w), channels=shape[1])
    return Restorer(run=run, multiple=_multiple_of(session, path), channels=shape[1])


def _session(path: Path, threads: int) -> Any:
    import onnxruntime as ort

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; name an .onnx file that netgraft exported")
    options = ort.SessionOptions()  # type: ignore[attr-defined]
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # Fatal only: what it refuses arrives as an exception.
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])  # type: ignore[attr-defined]
    except Exception as error:
        # ONNX Runtime raises classes of its own, without a common base, for damaged and for unsupported files.
        raise CheckpointError(f"{path}: not a network that ONNX Runtime can open ({first_line(error)})") from error


def _multiple_of(session: Any, path: Path) -> int:
    """What the sides of a network of free size must be multiples of, as its export noted it; 64 if unknown."""
    noted: str = session.get_modelmeta().custom_metadata_map.get(SIZE_MULTIPLE, "64")
    if not noted.isdecimal() or int(noted) < 1:
        raise CheckpointError(f"{path}: notes a {SIZE_MULTIPLE} of {noted!r}; it must be a number from 1 up")
    return int(noted)


def _check_image(image: object, channels: int) -> None:
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16):
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"an image must be a uint8 or uint16 array, not {kind}")
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        views = " for this network" if channels == 3 else ", two views in RGB, for this network"
        raise ImageError(f"an image must have the shape (h, w, {channels}){views}, not {image.shape}")
