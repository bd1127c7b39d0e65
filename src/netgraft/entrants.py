"""Networks that are judged or timed side by side, in whatever form they come, each with a short name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from netgraft.errors import CheckpointError, ConfigError
from netgraft.nets.foreign import open_foreign
from netgraft.nets.load import load_teacher
from netgraft.restore import Restorer, open_restorer

EXPORTED = ("teacher", "student")
"""What a run's folder holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """A network that takes part."""

    restorer: Restorer
    source: str
    """Where it comes from: a path, or ``embedded``."""
    architecture: str
    """e.g. ``NAFNet``; ``ONNX`` of an exported file."""
    statistics: str
    """``global``, ``local (TLC 256x256)``, or ``as exported``; it belongs to the network, not to the protocol."""
    network: nn.Module | Path
    """What is timed: the module, or the exported file."""


def open_entrants(models: Sequence[str], *, tlc: int | None = None, compute: str = "cpu") -> dict[str, Entrant]:
    """The networks by name, in order.

    models: each a ``.onnx``, ``.pth`` or ``.safetensors`` file, ``embedded``, or a run's folder, which gives its
    teacher and its student; ``NAME=FILE`` names it. tlc: side of the training crops, in pixels, for local statistics.
    compute: where checkpoints compute.

    Raises:
        ConfigError: two have one name, a folder holds no run, or ``tlc`` is asked of a network without it.
        CheckpointError: one cannot be read.
    """
    found: dict[str, Entrant] = {}
    for name, path in _named(models):
        if name in found:
            raise ConfigError(f"two networks are called {name}: rename one, or give NAME=FILE")
        found[name] = _opened(path, tlc, compute)
    return found


def _named(models: Sequence[str]) -> list[tuple[str, Path | None]]:
    """Name and file of every network; None is the embedded one."""
    named: list[tuple[str, Path | None]] = []
    for model in models:
        name, equals, file = model.rpartition("=")
        path = Path(file)
        if file == "embedded":
            named.append((name or file, None))
        elif path.is_dir():
            files = [(kind, path / "export" / f"{kind}_dynamic.onnx") for kind in EXPORTED]
            missing = [str(exported) for _, exported in files if not exported.is_file()]
            if missing:
                raise ConfigError(f"{path}: holds no finished run, {missing[0]} is missing: netgraft run --out {path}")
            named += [(f"{name} {kind}" if equals else kind, exported) for kind, exported in files]
        else:
            named.append((name or ("restored" if len(models) == 1 else path.stem), path))
    return named


def _opened(path: Path | None, tlc: int | None, compute: str) -> Entrant:
    if path is not None and path.suffix == ".onnx":
        if tlc is not None:
            raise ConfigError(f"{path}: --tlc needs a checkpoint, local statistics are built in before export")
        return Entrant(
            restorer=open_restorer(path),
            source=str(path),
            architecture="ONNX",
            statistics="as exported",
            network=path,
        )
    try:
        teacher = load_teacher(path, tlc=None if tlc is None else (tlc, tlc))
    except CheckpointError as error:
        return _foreign(path, error, tlc, compute)
    return Entrant(
        restorer=open_restorer(teacher, compute=compute),
        source=teacher.source,
        architecture=f"NAFNet, width {teacher.shape.width}",
        statistics="global" if tlc is None else f"local (TLC {tlc}x{tlc})",
        network=teacher.module,
    )


def _foreign(path: Path | None, error: CheckpointError, tlc: int | None, compute: str) -> Entrant:
    """A network of another architecture, in place of the NAFNet that a file does not hold."""
    if path is None or not path.is_file():
        raise error
    foreign = open_foreign(path)
    if foreign is None:
        raise CheckpointError(f"{error}; for other architectures: pip install 'netgraft[compare]'") from error
    if tlc is not None:
        raise ConfigError(f"{path}: --tlc is for NAFNets, this is {foreign.architecture}")
    return Entrant(
        restorer=open_restorer(foreign.module, compute=compute),
        source=str(path),
        architecture=foreign.architecture,
        statistics="its own",
        network=foreign.module,
    )
