"""Networks that are judged or timed side by side, in whatever form they come, each with a short name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from netgraft.config import stored_config
from netgraft.errors import CheckpointError, ConfigError
from netgraft.nets.checkpoint import read_metadata
from netgraft.nets.foreign import open_foreign
from netgraft.nets.load import Teacher, load_teacher
from netgraft.portable import HEADER, load_student
from netgraft.restore import Restorer, open_restorer
from netgraft.store import ADAPTATION

EMBEDDED = "embedded"
DEGRADED = "degraded"
"""The images as they are, which every table begins with."""
EXPORTED = ("teacher", "student")
"""What a run's folder holds."""
ADAPTED = ("student untuned", "student", "teacher untuned", "teacher")
"""What the folder of an adaptation holds."""


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
    trained: Callable[[], nn.Module] | None = None
    """What the network was exported from; None where only the file is known."""

    @property
    def module(self) -> nn.Module:
        """The network with its gradients.

        Raises:
            ConfigError: only an exported file is known, which has none.
        """
        if isinstance(self.network, nn.Module):
            return self.network
        if self.trained is None:
            raise ConfigError(f"{self.source}: an exported file has no gradients: name a checkpoint or a run's folder")
        return self.trained()


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
    for model in models:
        # A path may have the sign, too.
        name, _, file = ("", "", model) if Path(model).exists() or "=" not in model else model.partition("=")
        path = None if file == EMBEDDED else Path(file)
        if name == DEGRADED:
            raise ConfigError(f"{model}: {DEGRADED} is what the images are called as they are: give another name")
        if path is not None and path.is_dir():
            entries = {f"{name} {kind}".strip(): one for kind, one in _of_folder(path, tlc).items()}
        elif path is None:
            entries = {name or EMBEDDED: _opened(None, tlc, compute)}
        else:
            entries = {name or ("restored" if len(models) == 1 else path.stem): _opened(path, tlc, compute)}
        twice = [entry for entry in entries if entry in found]
        if twice:
            raise ConfigError(f"two networks are called {twice[0]}: rename one, or give NAME=FILE")
        found |= entries
    return found


def _of_folder(folder: Path, tlc: int | None) -> dict[str, Entrant]:
    """What a run, or an adaptation, exported."""
    if tlc is not None:
        raise ConfigError(f"{folder}: --tlc is for checkpoints, a folder's networks are as they were exported")
    if (folder / ADAPTATION).is_file():
        files = {name: folder / "export" / f"{name.replace(' ', '_')}_dynamic.onnx" for name in ADAPTED}
        found = {name: _opened(path, None, "cpu") for name, path in files.items() if path.is_file()}
        if not found:
            raise ConfigError(f"{folder}: holds no finished adaptation yet: repeat its netgraft adapt")
        return found
    return _of_run(folder)


def _of_run(folder: Path) -> dict[str, Entrant]:
    """Teacher and student of a run, as exported."""
    config = stored_config(folder)
    files = {kind: folder / "export" / f"{kind}_dynamic.onnx" for kind in EXPORTED}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if config is None or missing:
        lacks = missing[0] if missing else folder / "config.json"
        raise ConfigError(f"{folder}: holds no finished run, {lacks} is missing: netgraft run --out {folder}")
    trained = {
        "teacher": lambda: config.teacher.load().module,
        "student": lambda: _portable(folder, config.teacher.factory),
    }
    return {kind: replace(_opened(path, None, "cpu"), trained=trained[kind]) for kind, path in files.items()}


def _portable(folder: Path, factory: str | None) -> nn.Module:
    """A run's student as PyTorch goes on from it."""
    path = folder / "export" / "student.safetensors"
    if not path.is_file():
        raise ConfigError(f"{folder}: its student has no gradients without {path}: netgraft export --out {folder}")
    return load_student(path, factory=factory).module


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
    if path is not None and path.suffix == ".safetensors" and HEADER in read_metadata(path):
        if tlc is not None:
            raise ConfigError(
                f"{path}: --tlc is for teachers, a student keeps the statistics that it was refitted with"
            )
        return student_entrant(path, compute)
    try:
        opened = load_teacher(path, tlc=None if tlc is None else (tlc, tlc))
    except CheckpointError as error:
        return _foreign(path, error, tlc, compute)
    return network_entrant(opened, compute)


def network_entrant(opened: Teacher, compute: str = "cpu") -> Entrant:
    """A network that is loaded."""
    return Entrant(
        restorer=open_restorer(opened.module, compute=compute),
        source=opened.source,
        architecture=opened.description,
        statistics=opened.design.statistics,
        network=opened.module,
    )


def student_entrant(path: Path, compute: str = "cpu") -> Entrant:
    """A refitted network in one file.

    Raises:
        CheckpointError: it cannot be read.
    """
    student = load_student(path)
    return Entrant(
        restorer=open_restorer(student.module, compute=compute),
        source=str(path),
        architecture=f"student of a {student.design.description}",
        statistics=student.design.statistics,
        network=student.module,
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
