"""The run folder: nothing half-written, nothing made twice, and one line about whatever is wrong."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from netgraft.errors import StoreError
from netgraft.files import write_atomically
from netgraft.store import RunStore, digest


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "deep" / "run")


def files(store: RunStore) -> dict[str, bytes]:
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for path in store.root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def one_line(error: pytest.ExceptionInfo[StoreError], *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


class Made:
    """Counts how often a value is made."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.times = 0

    def __call__(self) -> Any:
        self.times += 1
        return self.value


def test_an_artifact_is_made_once_for_a_key(store: RunStore) -> None:
    make = Made({"losses": (1.5, 2)})
    first = store.json("stage/a", {"seed": 0, "size": (64, 64)}, make)
    # The order of the key's entries, and tuple or list, do not matter.
    again = RunStore(store.root).json("stage/a", {"size": [64, 64], "seed": 0}, make)
    assert make.times == 1
    assert first == again == {"losses": [1.5, 2]}


@pytest.mark.parametrize(("name", "key"), [("stage/a", {"seed": 1}), ("stage/b", {"seed": 0})])
def test_another_name_or_key_is_another_artifact(store: RunStore, name: str, key: object) -> None:
    assert store.json("stage/a", {"seed": 0}, Made(1)) == 1
    assert store.json(name, key, Made(2)) == 2
    assert store.json("stage/a", {"seed": 0}, Made(3)) == 1


def test_digests_tell_values_apart() -> None:
    values: list[object] = [None, 0, "0", 0.5, [], {}, [0], {"a": 0}, {"a": 1}, {"b": 0}, [[0]], "a", ["a", "b"]]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(Path("/data")) != digest(Path("/other"))


def test_tensors_come_back_exactly(store: RunStore) -> None:
    value = {"x": torch.tensor([0.1, float("nan"), -0.0]), "steps": [1, 2], "loss": 0.1}
    path = store.path("t", 0, ".pt")
    store.save_tensors(path, value)
    found = store.load_tensors(path)
    assert found["x"].view(torch.int32).tolist() == value["x"].view(torch.int32).tolist()  # type: ignore[union-attr, attr-defined]
    assert (found["steps"], found["loss"]) == ([1, 2], 0.1)


def fails_half_way(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """From now on, writing a file stops in its middle."""

    def write_bytes(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise error

    def save(value: Any, path: Path) -> None:
        write_bytes(path, b"half of an archive")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    monkeypatch.setattr(torch, "save", save)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "shown", "says"),
    [
        (FULL, StoreError, "No space left on device"),
        (RuntimeError("PytorchStreamWriter failed\nat line 3"), StoreError, "PytorchStreamWriter failed"),
        (RuntimeError(), StoreError, "RuntimeError"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_a_write_that_fails_half_way_leaves_what_was_there(
    error: BaseException, shown: type[BaseException], says: str, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.json("a", 0, Made("before"))
    store.write(store.root / "result.json", b"the result before")
    before = files(store)
    with monkeypatch.context() as patched:
        fails_half_way(patched, error)
        with pytest.raises(shown, match=says) as caught:
            store.json("a", 1, Made("after"))
        assert "\n" not in str(caught.value)
        with pytest.raises(shown, match=says):
            store.save_tensors(store.path("t", 1, ".pt"), {"x": torch.zeros(3)})
        with pytest.raises(shown, match=says):
            store.write(store.root / "result.json", b"the result after")
    assert files(store) == before
    # With room again, the same calls go through.
    assert store.json("a", 1, Made("after")) == "after"
    assert store.json("a", 0, Made("never")) == "before"


def test_what_fails_while_it_is_made_leaves_nothing(store: RunStore) -> None:
    def make() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.json("a", 0, make)
    assert files(store) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"a": 1'])
def test_a_damaged_document_is_named(content: bytes, store: RunStore) -> None:
    store.json("a", 0, Made(1))
    path = store.path("a", 0, ".json")
    path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        store.json("a", 0, Made(2))
    one_line(caught, path, "delete it")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_archive_is_named(share: float, store: RunStore) -> None:
    path = store.path("t", 0, ".pt")
    store.save_tensors(path, {"x": torch.arange(100)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StoreError) as caught:
        store.load_tensors(path)
    one_line(caught, path, "delete it")


def test_an_archive_with_code_in_it_is_not_run(store: RunStore, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    path = store.path("t", 0, ".pt")
    path.parent.mkdir(parents=True)
    torch.save(Harmful(), path)
    with pytest.raises(StoreError):
        store.load_tensors(path)
    assert not (tmp_path / "harm").exists()


def test_only_one_holds_the_folder(store: RunStore) -> None:
    with store.lock():
        with pytest.raises(StoreError) as caught, RunStore(store.root).lock():
            pytest.fail("two held it")
        one_line(caught, store.root, "another netgraft")
    with pytest.raises(ZeroDivisionError), store.lock():
        raise ZeroDivisionError
    with RunStore(store.root).lock():
        pass


def test_a_folder_without_locks_is_an_error_in_one_line(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(StoreError) as caught, store.lock():
        pytest.fail("held without a lock")
    one_line(caught, store.root, "No locks available")


def test_a_file_cannot_be_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError) as caught:
            RunStore(root)
        one_line(caught, root)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_an_error_in_one_line(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.root / "artifacts").write_text("a file where a folder should be")
    with pytest.raises(StoreError) as caught:
        store.json("a", 0, Made(1))
    one_line(caught, "artifacts", "kept")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(StoreError, match="Permission denied"):
        RunStore(store.root / "new")
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(StoreError, match="Permission denied"), store.lock():
        pytest.fail("held a folder that cannot be written to")


def test_long_names_have_room_for_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    write_atomically(path, b"content")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [(path.name, b"content")]
