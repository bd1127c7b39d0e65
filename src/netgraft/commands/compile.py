"""An exported network, compiled for a phone that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import typer

from netgraft.commands.console import Json, finish, out_console
from netgraft.devices import open_compiler
from netgraft.devices.device import Array
from netgraft.errors import ConfigError, ExportError, ImageError
from netgraft.files import make_folder, write_atomically
from netgraft.imaging import image_paths, read_image

MOST_IMAGES = 16
"""Images that a quantization is calibrated on."""


def compile_model(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An exported network of fixed size.")],
    device: Annotated[str, typer.Option(help="Such as qnn:s24-ultra or qnn:s24-ultra:int8.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the compiled files.")],
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of images such as it will restore; 8 bits need it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile a network for a phone's NPU: what falls back, and the file for the phone; no latency comes of it."""
    compiler = open_compiler(device)
    try:
        content = model.read_bytes()
    except OSError as error:
        raise ConfigError(f"{model}: cannot be read: {error.strerror or error}") from error
    sides, inputs = _sides(model, content), None
    if compiler.precision == "int8":
        if calibration is None:
            raise ConfigError(f"{device} quantizes: name a folder of images with --calibration")
        inputs = _crops(calibration, *sides)
    try:
        placement = compiler.compile_graph(content, inputs, stem=f"{model.stem}_{'_'.join(device.split(':')[1:])}")
    except ExportError as error:
        raise ExportError(f"{model}: {error}") from error
    make_folder(out)
    for name, part in placement.files.items():
        write_atomically(out / name, part, ExportError)
        out_console.print(str(out / name), soft_wrap=True)
    out_console.print(f"{compiler.phone.chip}, {compiler.precision}: {placement}", soft_wrap=True)
    document = {"whole": placement.whole, "operators": placement.operators, "fallbacks": dict(placement.fallbacks)}
    finish(document | {"files": [str(out / name) for name in placement.files]}, as_json)


def _sides(path: Path, content: bytes) -> tuple[int, int]:
    """Height and width that a network is made for."""
    try:
        shape = onnx.load_from_string(content).graph.input[0].type.tensor_type.shape.dim
        height, width = (int(shape[axis].dim_value) for axis in (2, 3))
    except Exception as error:  # The parser raises a class of its own build.
        raise ConfigError(f"{path}: is no network of ours ({type(error).__name__})") from error
    if height < 1 or width < 1:
        raise ConfigError(f"{path}: is made for any size: name the file of fixed size")
    return height, width


def _crops(folder: Path, height: int, width: int) -> Array:
    """(n, 3, h, w) in [0, 1], the middles of the images in a folder that are large enough."""
    crops: list[Array] = []
    for path in image_paths(folder):
        image = read_image(path)
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        if top >= 0 and left >= 0 and len(crops) < MOST_IMAGES:
            crop = image[top : top + height, left : left + width].astype(np.float32)
            crops.append(crop.transpose(2, 0, 1) / np.float32(np.iinfo(image.dtype).max))
    if not crops:
        raise ImageError(f"{folder}: no image of at least {width}x{height} pixels to calibrate on")
    return np.stack(crops)
