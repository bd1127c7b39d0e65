"""The frames that netgraft and its worker exchange."""

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from netgraft.devices.far.frames import FrameReader, FrameWriter

Pipe = tuple[FrameReader, FrameWriter, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    source, target = os.pipe()
    yield FrameReader(source), FrameWriter(target, timeout_s=0.1), target
    os.close(source)
    with contextlib.suppress(OSError):
        os.close(target)


def test_what_is_written_is_read(pipe: Pipe) -> None:
    reader, writer, _ = pipe
    writer.write({"do": "run", "shape": [1, 2]}, b"netgraft {}\n\0")
    writer.write({"do": "ping"})
    assert reader.next(1) == ({"do": "run", "shape": [1, 2]}, b"netgraft {}\n\0")
    assert reader.next(1) == ({"do": "ping"}, b"")


def test_more_than_a_pipe_holds_goes_through(pipe: Pipe) -> None:
    reader, _, target = pipe
    content = os.urandom(300_000)
    sending = threading.Thread(target=FrameWriter(target, timeout_s=5).write, args=({"n": 1}, content))
    sending.start()
    assert reader.next(5) == ({"n": 1}, content)
    sending.join()


def test_a_greeting_is_no_frame(pipe: Pipe) -> None:
    reader, writer, target = pipe
    os.write(target, b"Welcome to board!\r\n{}\n\n")
    writer.write({"n": 1})
    assert reader.next(1) == ({"n": 1}, b"")


def test_silence_and_the_end_are_told_apart(pipe: Pipe) -> None:
    reader, _, target = pipe
    os.write(target, b'netgraft {"bytes"')
    with pytest.raises(TimeoutError):
        reader.next(0.01)
    os.close(target)
    with pytest.raises(EOFError):
        reader.next(1)


def test_who_takes_nothing_is_not_waited_for(pipe: Pipe) -> None:
    _, writer, _ = pipe
    with pytest.raises(TimeoutError):
        writer.write({"n": 1}, bytes(1 << 20))


def test_nothing_is_written_after_the_end(pipe: Pipe) -> None:
    _, writer, _ = pipe
    writer.close()
    with pytest.raises(BrokenPipeError):
        writer.write({"n": 1})
