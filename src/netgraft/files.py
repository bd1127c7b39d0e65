"""Files that are written whole or not at all: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from netgraft.errors import StoreError


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be made a folder: {error.strerror or error}; choose another") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path; when the block ends well, what was written there becomes ``path``.

    Raises:
        StoreError: the file cannot be written; what stood there before is untouched.
    """
    part = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError.
        reason = getattr(error, "strerror", None) or (str(error) or type(error).__name__).splitlines()[0]
        raise StoreError(f"{path}: cannot be written: {reason}; what was done before is kept") from error
    finally:
        # Where the folder itself cannot be, there is nothing to take away, and the error above is the news.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    with replacing(path) as part:
        part.write_bytes(content)
