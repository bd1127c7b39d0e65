"""Photographs in, restored photographs out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgraft.commands.console import Json, finish, out_console, progress_bars
from netgraft.errors import ImageError
from netgraft.imaging import image_paths, read_image, write_image


def restore(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Photographs, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A file for one photograph, otherwise a folder.")],
    model: Annotated[
        Path | None, typer.Option(help="An .onnx, .pth or .safetensors file; by default the embedded network.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Restore photographs with the embedded network or one of your own."""
    from netgraft.files import make_folder
    from netgraft.restore import open_restorer

    jobs = _restore_jobs(inputs, out)
    for folder in {target.parent for _, target in jobs}:
        make_folder(folder)
    restorer = open_restorer(model)
    done, failures = [], []
    with progress_bars() as progress:
        for number, (source, target) in enumerate(jobs):
            progress("restore", number, len(jobs))
            try:
                write_image(target, restorer(read_image(source)))
            except ImageError as error:
                # One bad photograph must not cost the others of a folder.
                failures.append(str(error))
                continue
            done.append(str(target))
    for written in done:
        out_console.print(written, soft_wrap=True)
    if failures:
        more = f" (and {len(failures) - 1} more of {len(jobs)} failed)" if len(failures) > 1 else ""
        raise ImageError(failures[0] + more)
    finish({"restored": done}, as_json)


def _restore_jobs(inputs: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """Every photograph with the file that its restored version goes to."""
    sources: list[tuple[Path, Path]] = []
    for given in inputs:
        if given.is_dir():
            found = image_paths(given)
            if not found:
                raise ImageError(f"{given}: no images in this folder; name one with photographs in it")
            sources += [(path, out / path.name) for path in found]
        else:
            sources.append((given, out / given.name))
    if len(inputs) == 1 and not inputs[0].is_dir() and out.suffix and not out.is_dir():
        sources = [(inputs[0], out)]
    targets: dict[Path, Path] = {}
    for source, target in sources:
        if source.resolve() == target.resolve():
            raise ImageError(f"{source}: would be overwritten; choose another --out")
        if target in targets:
            raise ImageError(f"{source} and {targets[target]} would both become {target}; restore them apart")
        targets[target] = source
    return sources
