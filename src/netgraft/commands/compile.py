"""A network's files for a device, which may not be here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import typer

from netgraft.commands.console import Json, finish, out_console, progress_bars
from netgraft.devices import open_compiler
from netgraft.devices.compiler import Compilation, Compiler, FormCompiler, GraphCompiler
from netgraft.devices.device import Array, Unsupported
from netgraft.errors import ConfigError, ExportError, ImageError
from netgraft.files import make_folder, write_atomically
from netgraft.imaging import image_paths, read_image

MOST_IMAGES = 16
"""Images that a quantization is calibrated on."""
STUDENT = "student"


def compile_model(
    model: Annotated[Path, typer.Argument(help="A run folder, or an exported .onnx of fixed size.")],
    device: Annotated[str, typer.Option(help="Such as qnn:s24-ultra:int8, coreml, executorch or ncnn.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the compiled files.")],
    calibration: Annotated[
        Path | None,
        typer.Option(help="Folder of images such as it will restore; 8 bits of an .onnx need it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the files of a run's student, or of an .onnx, for a device, and say what its compiler tells."""
    compiler = open_compiler(device)
    stem = STUDENT if model.is_dir() else model.stem
    if not isinstance(compiler, FormCompiler):
        # The endings of forms tell already what they are of.
        stem = "_".join([stem, *device.split(":")[1:]])
    if model.is_dir():
        compiled = _of_run(model, compiler, calibration, stem)
    elif isinstance(compiler, GraphCompiler):
        compiled = _of_file(model, compiler, device, calibration, stem)
    else:
        raise ConfigError(f"{model}: {device} is made from PyTorch, not from ONNX: name the run folder")
    make_folder(out)
    for name, part in compiled.files.items():
        write_atomically(out / name, part, ExportError)
        out_console.print(str(out / name), soft_wrap=True)
    out_console.print(f"{compiler.target}, {compiler.precision}: {compiled}", soft_wrap=True)
    finish({**compiled.facts, "files": [str(out / name) for name in compiled.files]}, as_json)


def _of_run(folder: Path, compiler: Compiler, calibration: Path | None, stem: str) -> Compilation:
    """A run's student, which must be there already: nothing is trained for it."""
    from netgraft.nets.blocks import deploy
    from netgraft.stages import finished_run

    with progress_bars() as progress, finished_run(folder, progress) as run:
        module, crops = deploy(run.finetuned[0]), run.quantization_crops
    example = crops[:1]
    if calibration is not None:
        crops = torch.from_numpy(_crops(calibration, *example.shape[2:]))
    compiled = compiler.compile(module, example, crops, stem)
    if isinstance(compiled, Unsupported):
        raise ExportError(f"{folder}: {compiled.reason}")
    return compiled


def _of_file(path: Path, compiler: GraphCompiler, device: str, calibration: Path | None, stem: str) -> Compilation:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    sides, inputs = _sides(path, content), None
    if compiler.precision == "int8" and calibration is None:
        raise ConfigError(f"{device} quantizes: name a folder of images with --calibration")
    if calibration is not None:
        inputs = _crops(calibration, *sides)
    try:
        return compiler.compile_graph(content, inputs, stem)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error


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
