"""Files that are written whole or not at all: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from netgraft.errors import NetgraftError, StoreError


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
def replacing(path: Path, error: type[NetgraftError] = StoreError) -> Iterator[Path]:
    """Give a temporary path; when the block ends well, what was written there becomes ``path``.

    Raises:
        error: the file cannot be written; what stood there before is untouched.
    """
    # Beside the target, so that renaming is atomic; with a short name, so that long targets work too.
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except (OSError, RuntimeError) as cause:
        # torch.save reports a full disk as a RuntimeError.
        reason = getattr(cause, "strerror", None) or (str(cause) or type(cause).__name__).splitlines()[0]
        raise error(f"{path}: cannot be written: {reason}; what was done before is kept") from cause
    finally:
        # Where the folder itself cannot be, there is nothing to take away, and the error above is the news.
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes, error: type[NetgraftError] = StoreError) -> None:
    """Write a file, whole or not at all.

    Raises:
        error: it cannot be written.
    """
    with replacing(path, error) as part:
        part.write_bytes(content)
