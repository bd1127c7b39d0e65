"""Loading checkpoints: the official form, our own form, and everything that is neither."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netgraft.errors import CheckpointError, ConfigError
from netgraft.nets import load
from netgraft.nets.checkpoint import read_metadata, save_weights
from netgraft.nets.load import infer_shape, load_teacher
from netgraft.nets.nafnet import NafNet, NafNetShape

VECTORS = Path(__file__).parent.parent / "vectors"
OFFICIAL = VECTORS / "nafnet_w8_official.pth"
SMALL = NafNetShape(width=2, encoder_blocks=(1, 2), middle_blocks=3, decoder_blocks=(1, 0))


@pytest.fixture
def small() -> NafNet:
    torch.manual_seed(0)
    return NafNet(SMALL)


def saved(tmp_path: Path, content: object, name: str = "net.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(("tlc", "entry"), [(None, "plain"), ((64, 64), "local")])
def test_official_weights_give_what_the_official_code_gives(tlc: tuple[int, int] | None, entry: str) -> None:
    reference = np.load(VECTORS / "nafnet_w8_official.npz")
    teacher = load_teacher(OFFICIAL, tlc=tlc)
    with torch.no_grad():
        y = teacher.module(torch.from_numpy(reference["x"]))
    np.testing.assert_allclose(y.numpy(), reference[entry], atol=1e-4)


def test_hyper_parameters_come_from_the_weights() -> None:
    teacher = load_teacher(OFFICIAL)
    assert teacher.design.shape == NafNetShape(
        width=8, encoder_blocks=(1, 1, 1, 3), middle_blocks=2, decoder_blocks=(1, 1, 1, 1)
    )
    assert teacher.size_multiple == 16
    state = torch.load(OFFICIAL, weights_only=True)["params"]
    assert teacher.params == sum(tensor.numel() for tensor in state.values())
    assert not teacher.module.training


@given(
    width=st.integers(1, 3),
    levels=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=3),
    middle=st.integers(0, 2),
)
def test_any_shape_is_inferred(width: int, levels: list[tuple[int, int]], middle: int) -> None:
    shape = NafNetShape(
        width=width,
        encoder_blocks=tuple(down for down, _ in levels),
        middle_blocks=middle,
        decoder_blocks=tuple(up for _, up in levels),
    )
    with torch.device("meta"):
        net = NafNet(shape)
    assert infer_shape(net.state_dict()) == shape


def test_macs_are_counted_after_padding() -> None:
    """A 17 x 30 image is computed as 32 x 32, by the network itself."""
    teacher = load_teacher(OFFICIAL)
    assert teacher.macs(17, 30) == teacher.macs(32, 32)
    assert teacher.macs(32, 32) < teacher.macs(33, 32)


@pytest.mark.parametrize("wrapper", ["params", "params_ema", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_usual_wrapping_is_read(tmp_path: Path, small: NafNet, wrapper: str | None, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in small.state_dict().items()}
    teacher = load_teacher(saved(tmp_path, {wrapper: state} if wrapper else state))
    assert teacher.design.shape == SMALL
    assert torch.equal(teacher.module.intro.weight, small.intro.weight)


def test_averaged_weights_are_preferred(tmp_path: Path, small: NafNet) -> None:
    averaged = NafNet(SMALL)
    path = saved(tmp_path, {"params": small.state_dict(), "params_ema": averaged.state_dict()})
    assert torch.equal(load_teacher(path).module.intro.weight, averaged.intro.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_of_any_precision_become_float32(tmp_path: Path, small: NafNet, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in small.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    teacher = load_teacher(str(tmp_path / "net.safetensors"))
    for name, tensor in teacher.module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].float())


def test_half_precision_round_trip_with_metadata(tmp_path: Path, small: NafNet) -> None:
    path = tmp_path / "new" / "net.safetensors"
    save_weights(small, path, metadata={"license": "MIT"})
    teacher = load_teacher(path)
    assert teacher.metadata == {"license": "MIT"}
    assert torch.equal(teacher.module.intro.weight, small.intro.weight.half().float())
    save_weights(small, path, half=False)
    assert torch.equal(load_teacher(path).module.intro.weight, small.intro.weight)
    assert read_metadata(path) == {}
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]


def test_weights_that_halves_cannot_hold_are_not_written(tmp_path: Path, small: NafNet) -> None:
    with torch.no_grad():
        small.intro.weight[0, 0, 0, 0] = -70000
    with pytest.raises(CheckpointError, match=r"intro\.weight exceeds 65504; save with half=False"):
        save_weights(small, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, small: NafNet, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(small, path)
    before = path.read_bytes()

    def full(file: Path, content: bytes) -> None:
        file.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_weights(small, path, half=False)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_are_only_written_as_safetensors(tmp_path: Path, small: NafNet) -> None:
    with pytest.raises(CheckpointError, match="change the suffix"):
        save_weights(small, tmp_path / "net.pth")


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def rejected(path: Path) -> str:
    """The one line that a broken checkpoint is refused with."""
    with pytest.raises(CheckpointError) as caught:
        load_teacher(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert len(message) < len(str(path)) + 330
    return message


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    assert "nothing in it was run" in rejected(saved(tmp_path, {"params": {"intro.weight": Payload(trap)}}))
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Payload(trap)))
    rejected(tmp_path / "bare.pth")
    assert not trap.exists()


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in rejected(tmp_path / "net.pth")
    (tmp_path / "dir.pth").mkdir()
    assert "is a folder" in rejected(tmp_path / "dir.pth")


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated_files(tmp_path: Path, small: NafNet, suffix: str, keep: int) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        torch.save(small.state_dict(), whole)
    else:
        save_weights(small, whole)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:keep])
    rejected(cut)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".pth", ".safetensors"]))
def test_no_bytes_at_all_crash_the_loader(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(content)
    rejected(path)


def test_other_networks_are_named_by_their_keys(tmp_path: Path, small: NafNet) -> None:
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False))
    assert "0.weight, 0.bias, 1.weight and 1 more" in rejected(saved(tmp_path, other.state_dict()))
    state = small.state_dict()
    state["extra.weight"] = state.pop("ending.bias")
    message = rejected(saved(tmp_path, state))
    assert "missing: ending.bias; unexpected: extra.weight" in message


def test_wrong_shapes_and_values(tmp_path: Path, small: NafNet) -> None:
    def with_entry(name: str, tensor: Tensor) -> Path:
        return saved(tmp_path, {**small.state_dict(), name: tensor})

    message = rejected(with_entry("downs.0.bias", torch.zeros(7)))
    assert "downs.0.bias is (7,), but a NAFNet of width 2 has (4,) there" in message
    assert "NaN" in rejected(with_entry("ending.bias", torch.tensor([0.0, float("nan"), 0.0])))
    assert "NaN or infinity" in rejected(with_entry("ending.bias", torch.full((3,), float("inf"))))
    assert "torch.int64" in rejected(with_entry("ending.bias", torch.zeros(3, dtype=torch.int64)))
    assert "(2, 1, 3, 3)" in rejected(with_entry("intro.weight", torch.zeros(2, 1, 3, 3)))
    assert "(0, 3, 3, 3)" in rejected(with_entry("intro.weight", torch.zeros(0, 3, 3, 3)))
    assert "entry 'epoch' is an int" in rejected(saved(tmp_path, {"epoch": 3}))
    assert "a list" in rejected(saved(tmp_path, [1, 2]))
    assert "an empty table" in rejected(saved(tmp_path, {}))


def test_downs_and_ups_come_in_pairs(tmp_path: Path, small: NafNet) -> None:
    """Without this check, such weights would load and fail at the first image."""
    state = {n: t for n, t in small.state_dict().items() if not n.startswith(("ups.1.", "decoders.1."))}
    assert "2 downs and 1 ups" in rejected(saved(tmp_path, state))
    deep = {
        **small.state_dict(),
        **{f"{g}.{i}.x": torch.zeros(1) for g in ("downs", "ups") for i in range(70)},
    }
    assert "at most 10" in rejected(saved(tmp_path, deep))


def test_the_embedded_network_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "EMBEDDED", "nowhere.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks the embedded network nowhere\.safetensors"):
        load_teacher()


@pytest.mark.parametrize("tlc", [(0, 64), (64,), (64.0, 64)])
def test_local_statistics_need_a_size(tlc: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="two positive whole numbers"):
        load_teacher(OFFICIAL, tlc=tlc)
