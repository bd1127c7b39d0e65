"""Restoring images of any size, type and network. Expectations come from the network run by hand."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from netgraft.devices import to_onnx
from netgraft.errors import CheckpointError, ImageError
from netgraft.imaging import RgbImage, run_tiled
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.restore import Restorer, open_restorer, restore

torch.set_num_threads(1)


def picture(h: int, w: int, dtype: type = np.uint8, seed: int = 0) -> RgbImage:
    """Noise over the whole range of the type."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (h, w, 3)).astype(dtype)


def by_hand(module: nn.Module, image: RgbImage) -> RgbImage:
    """The whole image through the network at once."""
    white = np.iinfo(image.dtype).max
    x = torch.from_numpy(image.astype(np.float64) / white).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        y = module(x)[0].permute(1, 2, 0).double().numpy()
    return np.rint(np.clip(y, 0, 1) * white).astype(image.dtype)


def levels_apart(first: RgbImage, second: RgbImage) -> int:
    assert first.shape == second.shape
    assert first.dtype == second.dtype
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def near_sighted() -> nn.Module:
    """A residual network that sees two pixels far, less than what neighboring tiles leave out."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(6, 3, 3, padding=1))
    for param in net.parameters():
        nn.init.normal_(param, std=0.15, generator=generator)
    return net


def nafnet() -> NafNet:
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)))
    start_residuals(net, 0.3)
    return net.eval()


class Times(nn.Module):
    """Multiplies one pixel of the image by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[..., 0, 0] = 1.0 * self.factor
        return y


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Path]:
    """A network of free size (multiples of 4), and its exports at 32x32 and at any size."""
    folder, net = tmp_path_factory.mktemp("files"), nafnet()
    example = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    to_onnx(net, example, folder / "fixed.onnx")
    to_onnx(net, example, folder / "free.onnx", dynamic=True)
    return net, folder / "fixed.onnx", folder / "free.onnx"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (257, 5), (300, 280)])
def test_any_size_and_type_comes_back_as_it_went_in(size: tuple[int, int], dtype: type) -> None:
    image = picture(*size, dtype)
    before = image.copy()
    restored = restore(image, nn.Identity())
    np.testing.assert_array_equal(restored, image)
    assert restored.dtype == dtype
    np.testing.assert_array_equal(image, before)
    through = restore(image, nafnet())
    assert through.shape == image.shape
    assert through.dtype == dtype


def test_every_16_bit_value_survives() -> None:
    image = np.repeat(np.arange(1 << 16, dtype=np.uint16).reshape(256, 256, 1), 3, axis=2)
    np.testing.assert_array_equal(restore(image, nn.Identity()), image)


def test_tiles_show_no_seams() -> None:
    """A network that sees less far than the tiles overlap gives what it gives on the whole image."""
    image, net = picture(300, 530, np.uint16), near_sighted()
    # Ten of 65535 levels: the blend adds rounding of float32 to that of the convolutions.
    assert levels_apart(restore(image, net), by_hand(net, image)) <= 10
    small = Restorer(run=net.forward, tile=64)
    assert levels_apart(small(image), by_hand(net, image)) <= 10


def test_a_deep_network_gets_tiles_that_it_can_halve() -> None:
    """A network that needs multiples of 512 is given them, although a tile has 256 pixels otherwise."""
    seen = []

    def run(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape[2:]))
        return x

    image = picture(40, 1100)
    np.testing.assert_array_equal(Restorer(run=run, multiple=512)(image), image)
    assert all(side % 512 == 0 for size in seen for side in size)


@pytest.mark.parametrize("size", [(32, 32), (29, 32), (50, 71), (3, 9), (300, 270)])
def test_a_file_of_free_size_gives_what_the_module_gives(
    files: tuple[nn.Module, Path, Path], size: tuple[int, int]
) -> None:
    net, _, free = files
    image = picture(*size)
    assert levels_apart(restore(image, free), restore(image, net)) <= 1


@pytest.mark.parametrize("size", [(32, 32), (50, 71), (3, 9)])
def test_a_file_of_fixed_size_gives_what_the_module_gives_on_its_tiles(
    files: tuple[nn.Module, Path, Path], size: tuple[int, int]
) -> None:
    net, fixed, _ = files
    image = picture(*size)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    tiled = run_tiled(net, x, tile=32, overlap=8, fixed=(32, 32))[0].permute(1, 2, 0)
    expected = (tiled.clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    assert levels_apart(restore(image, str(fixed)), expected) <= 1
    if size == (32, 32):
        assert levels_apart(expected, by_hand(net, image)) <= 1


def test_a_file_of_free_size_says_its_multiple(files: tuple[nn.Module, Path, Path]) -> None:
    _, fixed, free = files
    assert open_restorer(free).multiple == 4
    assert open_restorer(free).fixed is None
    assert open_restorer(fixed).fixed == (32, 32)


def test_the_callers_module_is_left_as_it_is() -> None:
    net = nafnet().train()
    strides = [param.stride() for param in net.parameters()]
    restore(picture(8, 8), net)
    assert all(part.training for part in net.modules())
    assert [param.stride() for param in net.parameters()] == strides
    assert all(param.requires_grad for param in net.parameters())


def test_a_restorer_passes_as_a_model() -> None:
    image, opened = picture(5, 5), open_restorer(nn.Identity())
    assert open_restorer(opened) is opened
    np.testing.assert_array_equal(restore(image, opened), image)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_written_as_black_or_white(factor: float) -> None:
    with pytest.raises(ImageError, match="not finite") as caught:
        restore(picture(6, 6), Times(factor))
    assert "\n" not in str(caught.value)


def test_values_beyond_the_range_are_clipped() -> None:
    assert restore(picture(4, 4), Times(7.0))[0, 0].tolist() == [255, 255, 255]
    assert restore(picture(4, 4), Times(-7.0))[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.zeros((4, 4, 3), np.float32), "not float32"),
        (np.zeros((4, 4, 3), np.int16), "not int16"),
        (np.zeros((4, 4), np.uint8), r"not \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"not \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not \(0, 4, 3\)"),
        ([[1, 2, 3]], "not list"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(image: object, why: str) -> None:
    with pytest.raises(ImageError, match=why) as caught:
        restore(image, nn.Identity())  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def plain_file(
    path: Path,
    shape: tuple[int | str, ...],
    *,
    kind: int = TensorProto.FLOAT,
    inputs: int = 1,
    noted: str | None = None,
) -> Path:
    """An ONNX file that gives its (first) input back, as somebody else's tool might write it."""
    values = [helper.make_tensor_value_info(f"in{i}", kind, shape) for i in range(inputs)]
    output = helper.make_tensor_value_info("out", kind, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["in0"], ["out"])], "g", values, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if noted is not None:
        helper.set_model_props(model, {"size_multiple": noted})
    onnx.save(model, path)
    return path


def test_somebody_elses_file_of_free_size_is_padded_to_64(tmp_path: Path) -> None:
    restorer = open_restorer(plain_file(tmp_path / "n.onnx", (1, 3, "h", "w")))
    assert restorer.multiple == 64
    image = picture(70, 5)
    np.testing.assert_array_equal(restorer(image), image)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"shape": (1, 4, 8, 8)}, "needs one input"),
        ({"shape": (2, 3, 8, 8)}, "needs one input"),
        ({"shape": (1, 3, 8)}, "needs one input"),
        ({"shape": (1, 3, 8, 8), "inputs": 2}, "needs one input"),
        ({"shape": (1, 3, 8, 8), "kind": TensorProto.DOUBLE}, "32-bit floats"),
        ({"shape": (1, 3, "h", "w"), "noted": "many"}, "'many'"),
        ({"shape": (1, 3, "h", "w"), "noted": "0"}, "'0'"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(options: dict[str, object], why: str, tmp_path: Path) -> None:
    path = plain_file(tmp_path / "n.onnx", **options)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=why) as caught:
        open_restorer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"no network", "half"])
def test_missing_and_damaged_files_are_refused_in_one_line(
    content: bytes | str | None, files: tuple[nn.Module, Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "n.onnx"
    if content == "half":
        whole = files[1].read_bytes()
        content = whole[: len(whole) // 2]
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        restore(picture(4, 4), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_fails_on_an_image_says_so(tmp_path: Path) -> None:
    """A file whose free sides are not really free: its height must be that of a constant of 7 rows."""
    constant = helper.make_tensor("c", TensorProto.FLOAT, (1, 3, 7, 1), [0.0] * 21)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, "h", "w"))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, "h", "w"))
    node = helper.make_node("Add", ["x", "c"], ["y"])
    graph = helper.make_graph([node], "g", [value], [output], [constant])
    path = tmp_path / "n.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(CheckpointError, match="failed on") as caught:
        restore(picture(64, 64), path)
    assert "\n" not in str(caught.value)
