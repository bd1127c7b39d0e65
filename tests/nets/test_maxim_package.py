"""Reading MAXIM's packages: a small one in their form, whole, and damaged in every way that was thought of."""

import json
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maxim_package import NAME, PREFIX, SHARD_BYTES, Package, as_folder, as_tarball, package_of
from netgraft.entrants import open_entrants
from netgraft.errors import CheckpointError, ConfigError
from netgraft.nets import maxim_package
from netgraft.nets.checkpoint import read_metadata, save_weights
from netgraft.nets.maxim import Maxim, MaximShape
from netgraft.nets.maxim_checkpoint import MaximNetwork, load_maxim, save_maxim
from netgraft.nets.maxim_names import published_name
from netgraft.nets.maxim_package import import_maxim
from netgraft.restore import restore
from terminal import Netgraft

SMALL = MaximShape(width=4, stages=2, groups=1, bottlenecks=1, high_side=4, low_side=2)


@pytest.fixture(scope="module")
def net() -> Maxim:
    torch.manual_seed(0)
    return Maxim(SMALL).eval()


@pytest.fixture
def package(net: Maxim) -> Package:
    return package_of(net)


@pytest.fixture
def checkpoint(net: Maxim, tmp_path: Path) -> Path:
    path = tmp_path / "maxim.safetensors"
    save_maxim(MaximNetwork(module=net, task="deblurring", source="a test"), path)
    return path


@pytest.mark.parametrize("form", ["folder", "unpacked", "tarball"])
def test_every_weight_comes_to_its_place(net: Maxim, package: Package, form: str, tmp_path: Path) -> None:
    files = package.files()
    if form == "tarball":
        path = as_tarball(files, tmp_path / "package.tgz")
    else:
        as_folder(files, tmp_path / "package")
        path = tmp_path if form == "unpacked" else tmp_path / "package"
    found = import_maxim(path, package.known())
    assert found.network.module.shape == SMALL
    assert (found.network.task, found.network.source) == ("deblurring", f"{NAME} 0.1.0")
    state = found.network.module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert found.weights == len(state)
    assert found.weights + found.constants == len(package.weights)


@pytest.mark.parametrize(
    ("path", "published"),
    [
        # As they stand in the graphs of the packages.
        ("output", "stage_2_output_conv_0"),
        ("stages.0.encoders.0.merge", "stage_0_encoder_block_0/Conv_0"),
        ("stages.1.downs.2", "stage_1_encoder_block_2/Conv_1"),
        (
            "stages.0.encoders.0.blocks.2.grid.mix",
            "stage_0_encoder_block_0/SplitHeadMultiAxisGmlpLayer_1/GridGmlpLayer/GridGatingUnit/Dense_0",
        ),
        ("stages.0.encoders.0.blocks.3.conv1", "stage_0_encoder_block_0/channel_attention_block_11/conv1"),
        (
            "stages.2.bottlenecks.1.blocks.1.mlp2",
            "stage_2_global_block_1/channel_attention_block_1_0/channel_mixing/Dense_1",
        ),
        (
            "stages.1.encoders.0.cross.y_gate.mix_block",
            "stage_1_encoder_block_0/cross_gating_block/SplitHeadMultiAxisGating_y/Dense_1",
        ),
        ("stages.0.gate_ups.0", "stage_0_cross_gating_block_0/ConvTranspose_0"),
        ("stages.0.attention.1.image", "stage_0_supervised_attention_module_1/Conv_1"),
        # The first that runs, the last of the encoder's nine, and the first of the decoder's: the lowest level.
        ("stages.0.skips.2.convs.0", "UpSampleRatio_0/Conv_0"),
        ("stages.0.skips.0.convs.2", "UpSampleRatio_8/Conv_0"),
        ("stages.0.bridges.2.convs.2", "UpSampleRatio_9/Conv_0"),
        ("stages.2.bridges.0.convs.0", "UpSampleRatio_53/Conv_0"),
    ],
)
def test_names_are_the_authors(path: str, published: str) -> None:
    assert published_name(path, 3) == published


def refused(package: Package, path: Path, known: dict[str, Any] | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        import_maxim(path, known or package.known())
    told = str(caught.value)
    assert str(path) in told
    assert "\n" not in told
    return told


@pytest.mark.parametrize(("name", "version"), [(NAME, "0.2.0"), ("@upscalerjs/maxim-enhancement", "0.1.0")])
def test_another_version_or_task_is_refused(package: Package, name: str, version: str, tmp_path: Path) -> None:
    known = package.known()
    package.name, package.version = name, version
    told = refused(package, as_folder(package.files(), tmp_path), known)
    assert f"is {name} {version}" in told
    assert f"expected: {NAME} 0.1.0" in told


def test_a_path_without_a_package_is_refused(package: Package, tmp_path: Path) -> None:
    assert "no such file or folder" in refused(package, tmp_path / "none.tgz")
    assert "holds no package.json" in refused(package, tmp_path)
    (tmp_path / "text.tgz").write_text("nothing packed")
    assert "not a whole .tgz" in refused(package, tmp_path / "text.tgz")


def test_a_missing_shard_is_refused(package: Package, tmp_path: Path) -> None:
    files = package.files()
    shards = [path for path in files if path.endswith(".bin")]
    del files[shards[1]]
    told = refused(package, as_folder(files, tmp_path))
    assert f"{shards[1]} is missing, {len(shards) - 1} of {len(shards)} shards are there" in told


def test_swapped_shards_are_refused(package: Package, tmp_path: Path) -> None:
    """Of the same size, so that nothing but their content tells."""
    known, files = package.known(), package.files()
    first, second = (path for path in list(files)[2:4])
    assert len(files[first]) == len(files[second]) == SHARD_BYTES
    files[first], files[second] = files[second], files[first]
    assert "a shard is damaged or in another's place" in refused(package, as_folder(files, tmp_path), known)


def test_one_wrong_bit_is_refused(package: Package, tmp_path: Path) -> None:
    known, files = package.known(), package.files()
    shard = list(files)[2]
    files[shard] = bytes([files[shard][0] ^ 1]) + files[shard][1:]
    assert "a shard is damaged or in another's place" in refused(package, as_folder(files, tmp_path), known)


def test_a_shorter_shard_is_refused(package: Package, tmp_path: Path) -> None:
    files = package.files()
    shard = list(files)[2]
    files[shard] = files[shard][:-4]
    told = refused(package, as_folder(files, tmp_path))
    assert "bytes, but models/model.json names weights of" in told


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_a_truncated_tarball_is_refused(package: Package, part: float, tmp_path: Path) -> None:
    path = as_tarball(package.files(), tmp_path / "package.tgz")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert "not a whole .tgz" in refused(package, path)


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        _member("/etc/passwd"),
        _member("package/../../outside"),
        _member("package/models/link.bin", tarfile.SYMTYPE, "/etc/passwd"),
        _member("package/models/link.bin", tarfile.LNKTYPE, "package/package.json"),
        _member("package/models/pipe.bin", tarfile.FIFOTYPE),
        _member("package/package.json"),
    ],
    ids=["absolute", "above", "symbolic link", "hard link", "pipe", "twice"],
)
def test_a_tarball_that_leaves_its_folder_is_refused(package: Package, member: tarfile.TarInfo, tmp_path: Path) -> None:
    path = as_tarball(package.files(), tmp_path / "package.tgz", member)
    assert "refused" in refused(package, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["package.tgz"]


def test_a_tarball_that_unpacks_to_far_too_much_is_refused(package: Package, tmp_path: Path) -> None:
    path = tmp_path / "package.tgz"
    huge = _member("package/models/huge.bin")
    huge.size = 1 << 40
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(huge)
    assert "unpacked it has more than" in refused(package, path)


def test_a_linked_shard_of_a_folder_is_refused(package: Package, tmp_path: Path) -> None:
    folder = as_folder(package.files(), tmp_path / "package")
    shard = next((folder / "models").glob("*.bin"))
    shard.rename(tmp_path / "elsewhere.bin")
    shard.symlink_to(tmp_path / "elsewhere.bin")
    assert f"{shard.name} is a link" in refused(package, folder)


@pytest.mark.parametrize("shard", ["/etc/passwd", "../outside.bin", "C:\\outside.bin", ""])
def test_a_shard_outside_of_the_package_is_refused(package: Package, shard: str, tmp_path: Path) -> None:
    package.model = {"weightsManifest": [{"paths": [shard], "weights": []}]}
    assert "not a path inside of the package" in refused(package, as_folder(package.files(), tmp_path))


def _manifest(package: Package, **entries: object) -> None:
    model = json.loads(package.files()["models/model.json"])
    model["weightsManifest"][0]["weights"][0] |= entries
    package.model = {"weightsManifest": model["weightsManifest"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.model.update(format="layers-model"), "format: Input should be 'graph-model'"),
        (lambda p: p.model.update(modelTopology=7), "modelTopology"),
        (lambda p: _manifest(p, dtype="float16"), "dtype"),
        (lambda p: _manifest(p, quantization={"dtype": "uint8"}), "quantization"),
        (lambda p: _manifest(p, shape=[-1]), "is damaged"),
        (lambda p: _manifest(p, shape=[1 << 40, 1 << 40]), "names weights of"),
        (lambda p: p.nodes.append(dict(p.nodes[1])), "two nodes are called"),
        (lambda p: p.nodes.append({"name": "a", "op": "Neg", "input": ["b"]}), "takes b, which is not in the graph"),
    ],
)
def test_a_damaged_model_is_refused(
    package: Package, change: Callable[[Package], None], words: str, tmp_path: Path
) -> None:
    change(package)
    assert words in refused(package, as_folder(package.files(), tmp_path))


def test_a_model_that_is_no_json_is_refused(package: Package, tmp_path: Path) -> None:
    for number, text in enumerate((b"\xff\x00", b"[" * 100_000, b"{}")):
        files = package.files() | {"models/model.json": text}
        assert "is not a graph model of TensorFlow.js" in refused(package, as_folder(files, tmp_path / str(number)))


def _replace(package: Package, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    package.weights = [(n, np.ascontiguousarray(change(v)) if n == PREFIX + name else v) for n, v in package.weights]


def _rename(package: Package, old: str, new: str) -> None:
    for node in package.nodes:
        node["input"] = [PREFIX + new if name == PREFIX + old else name for name in node.get("input", [])]


CONV = "stage_1_encoder_block_1/Conv_1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: _replace(p, f"{CONV}/kernel", lambda v: v[:3]), f"the weight of {CONV} is (8, 8, 3, 4), but"),
        (lambda p: _replace(p, f"{CONV}/kernel", lambda v: v[0]), f"the kernel of {CONV} is (4, 8, 8)"),
        (lambda p: _replace(p, f"{CONV}/Reshape", lambda v: v[..., :7]), f"the bias of {CONV} is (7,), but"),
        (lambda p: _replace(p, f"{CONV}/kernel", lambda v: v * np.float32(np.nan)), "holds NaN or infinity"),
        (lambda p: _replace(p, f"{CONV}/kernel", lambda v: v.view(np.int32)), "holds int32, not float32"),
        (
            lambda p: _replace(
                p, "stage_0_encoder_block_0/channel_attention_block_10/LayerNorm/Const_eps", lambda v: 2 * v
            ),
            "the epsilon of stage_0_encoder_block_0/channel_attention_block_10/LayerNorm",
        ),
        (lambda p: _rename(p, f"{CONV}/Reshape", "stage_0_encoder_block_1/Conv_1/Reshape"), "is taken twice"),
        (
            lambda p: p.nodes.remove(next(n for n in p.nodes if n["name"] == f"{PREFIX}{CONV}/Conv2D")),
            "is not in the graph",
        ),
        (lambda p: p.weights.append(("spare", np.zeros(1, np.float32))), "spare [1] is used nowhere in the graph"),
        (
            lambda p: (
                p.weights.append(("spare", np.zeros((3, 3), np.float32))),
                p.nodes.append({"name": "spare", "op": "Const"}),
                p.nodes.append({"name": "more", "op": "Neg", "input": ["spare"]}),
            ),
            "it has no place for spare [3, 3]",
        ),
        (lambda p: p.nodes.clear(), "there is no stage_0_input_conv_0"),
    ],
)
def test_a_graph_of_another_form_is_refused(
    package: Package, change: Callable[[Package], None], words: str, tmp_path: Path
) -> None:
    change(package)
    assert words in refused(package, as_folder(package.files(), tmp_path))


def test_the_command_writes_a_checkpoint(
    net: Maxim, package: Package, netgraft: Netgraft, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(maxim_package, "import_maxim", partial(import_maxim, packages=package.known()))
    out = tmp_path / "made" / "maxim.safetensors"
    outcome = netgraft("import", "maxim", as_tarball(package.files(), tmp_path / "p.tgz"), "-o", out, "--json")
    assert outcome.returncode == 0
    told = json.loads(outcome.stdout.splitlines()[-1])
    assert told["architecture"] == "MAXIM-2, width 4, for deblurring"
    assert told["params"] == sum(p.numel() for p in net.parameters())
    assert read_metadata(out) == {"architecture": "MAXIM", "task": "deblurring", "source": f"{NAME} 0.1.0"}
    loaded = load_maxim(out).module
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), net(x))


def test_the_command_keeps_the_first_stages(
    net: Maxim, package: Package, netgraft: Netgraft, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The network gives what the whole one has after its first stage, where it was taught the clean image as well."""
    monkeypatch.setattr(maxim_package, "import_maxim", partial(import_maxim, packages=package.known()))
    path, out = as_tarball(package.files(), tmp_path / "p.tgz"), tmp_path / "first.safetensors"
    outcome = netgraft("import", "maxim", path, "-o", out, "--stages", "1", "--json")
    assert json.loads(outcome.stdout.splitlines()[-1])["architecture"] == "MAXIM-1, width 4, for deblurring"
    x, seen = torch.rand(1, 3, 32, 32), []
    attention = net.stages[0].attention[0]
    handle = attention.register_forward_hook(lambda part, inputs, _: seen.append(part.image(inputs[0]) + inputs[1]))
    with torch.no_grad():
        net(x)
        torch.testing.assert_close(load_maxim(out).module(x), seen[0])
    handle.remove()
    outcome = netgraft("import", "maxim", path, "-o", out, "--stages", "3")
    assert (outcome.returncode, "this MAXIM has 2" in outcome.stderr) == (2, True)


def test_the_command_leaves_nothing_half_written(netgraft: Netgraft, package: Package, tmp_path: Path) -> None:
    path = as_tarball(package.files(), tmp_path / "p.tgz")
    out = tmp_path / "maxim.safetensors"
    out.write_text("what was there")
    for target, words in ((out, "differs from"), (tmp_path / "maxim.pth", "change the suffix")):
        outcome = netgraft("import", "maxim", path, "-o", target)
        assert outcome.returncode == 2
        assert words in outcome.stderr
        assert len(outcome.stderr.splitlines()) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["maxim.safetensors", "p.tgz"]
    assert out.read_text() == "what was there"


def test_a_checkpoint_restores_and_takes_part(checkpoint: Path, net: Maxim) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert restore(image, checkpoint).shape == image.shape
    entrant = open_entrants([str(checkpoint)])["restored"]
    assert entrant.architecture == "MAXIM-2, width 4, for deblurring"
    assert entrant.restorer.multiple == net.size_multiple
    with pytest.raises(ConfigError, match="for NAFNets, this is a MAXIM"):
        open_entrants([str(checkpoint)], tlc=64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n: n.stages[1].downs.pop(2), "missing: stages.1.downs.2.weight"),
        (lambda n: n.add_module("more", nn.Linear(1, 1)), "unexpected: more.bias, more.weight"),
        (
            lambda n: n.output.register_parameter("weight", nn.Parameter(torch.zeros(3, 4, 1, 1))),
            "is (3, 4, 1, 1), but",
        ),
        (lambda n: n.stages[0].inputs.pop(0), "a MAXIM of width 8; missing: stages.0.inputs.2.weight"),
        (lambda n: n.stages.pop(0), "unexpected: stages.0.encoders.0.cross"),
        (lambda n: n.stages[0].encoders.pop(2), "there is no stages.0.encoders.2.blocks.0.grid.mix.weight"),
    ],
)
def test_a_damaged_checkpoint_is_refused(change: Callable[[Maxim], object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "maxim.safetensors"
    broken = Maxim(SMALL)
    change(broken)
    save_weights(broken, path, metadata={"architecture": "MAXIM"})
    with pytest.raises(CheckpointError) as caught:
        load_maxim(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
