"""A run that is over: its networks, for whatever comes after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netgraft.config import stored_config
from netgraft.errors import ConfigError
from netgraft.stages.folder import Progress, silent
from netgraft.stages.run import Run
from netgraft.store import ADAPTATION, RunStore

STUDENT_FILE = Path("export") / "student.onnx"


@contextmanager
def finished_run(folder: Path, progress: Progress = silent) -> Iterator[Run]:
    """The run of a folder that holds an exported student, locked meanwhile: nothing is trained for it.

    Raises:
        ConfigError: the folder holds no run, or one that has no student yet.
        StoreError: something else works in the folder.
    """
    if (folder / ADAPTATION).is_file():
        raise ConfigError(f"{folder}: holds an adaptation, not a run: name its student_tuned.safetensors")
    config = stored_config(folder)
    if config is None or not (folder / STUDENT_FILE).is_file():
        raise ConfigError(f"{folder}: holds no exported student yet: netgraft export --out {folder}")
    store = RunStore(folder)
    with store.lock():
        yield Run(config, store, progress)
