"""Networks of one's own: what a factory makes, and how it is told that it cannot serve."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from custom_network import Restorer
from netgraft.errors import CheckpointError, ConfigError
from netgraft.features import site_features
from netgraft.nets.checkpoint import save_weights
from netgraft.nets.designs import made_by
from netgraft.nets.load import load_teacher
from netgraft.sites import find_sites, select_sites

OWN = "custom_network:restorer"


def test_what_a_factory_makes_is_a_teacher() -> None:
    teacher = load_teacher(factory=OWN)
    assert (teacher.source, teacher.factory, teacher.description) == (OWN, OWN, OWN)
    assert (teacher.size_multiple, type(teacher.module).__name__) == (2, "Restorer")
    assert teacher.params == sum(p.numel() for p in Restorer().parameters())
    assert teacher.macs(64, 64) > 0
    assert {"upper.0.spread", "lower.2"} <= dict(teacher.module.named_modules()).keys(), "its own paths"


@torch.no_grad()
def test_sides_that_it_cannot_take_are_padded() -> None:
    network, own = made_by(OWN), Restorer().eval()
    own.load_state_dict(network.state_dict())
    x: Tensor = torch.rand(1, 3, 33, 47, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError):
        own(x)
    padded = torch.cat([x, x[:, :, -1:]], dim=2)
    padded = torch.cat([padded, padded[..., -1:]], dim=3)
    torch.testing.assert_close(network(x), own(padded)[..., :33, :47])
    torch.testing.assert_close(network(padded), own(padded))


@torch.no_grad()
def test_what_a_layer_gives_is_not_changed_behind_it() -> None:
    """By an activation that works in place: its input is what the layer before it is to be replaced for."""
    network = made_by(OWN)
    site = select_sites(find_sites(network, named=["tail.0"]), ["tail.0"])
    features = site_features(network, torch.rand(1, 3, 32, 32), [*site, *find_sites(network)[-1:]])
    torch.testing.assert_close(features["tail.0"].y, network.get_submodule("tail.0")(features["tail.0"].x))
    assert (features["tail.0"].y < 0).any()


def test_it_takes_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = Restorer()
    save_weights(other, tmp_path / "own.safetensors", half=False)
    teacher = load_teacher(tmp_path / "own.safetensors", factory=OWN)
    assert teacher.source == str(tmp_path / "own.safetensors")
    for name, tensor in other.state_dict().items():
        assert torch.equal(teacher.module.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("custom_network", "package.module:NAME"),
        ("no_such_module:net", "cannot be imported"),
        ("custom_network:nothing", "cannot be imported"),
        ("custom_network:number", "makes a int"),
        ("custom_network:failing", "cannot be made: no weights here"),
        ("custom_network:shrinking", r"gives \(1, 3, 126, 126\)"),
        ("custom_network:of_one_channel", r"does not take an image of \(1, 3, 128, 128\)"),
    ],
)
def test_what_is_no_restoration_network_is_refused(reference: str, message: str) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=message) as caught:
        load_teacher(factory=reference)
    assert "\n" not in str(caught.value)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    save_weights(nn.Conv2d(3, 3, 3), tmp_path / "conv.safetensors", half=False)
    with pytest.raises(
        CheckpointError,
        match=f"not the weights of {OWN}; missing: intro.weight, intro.bias, upper.0.spread.weight and 32 more",
    ):
        load_teacher(tmp_path / "conv.safetensors", factory=OWN)
    save_weights(Restorer(4), tmp_path / "narrow.safetensors", half=False)
    with pytest.raises(
        CheckpointError, match=r"intro.weight is \(4, 3, 3, 3\), but custom_network:restorer has \(8, 3, 3, 3\)"
    ):
        load_teacher(tmp_path / "narrow.safetensors", factory=OWN)
    with pytest.raises(ConfigError, match="for NAFNets"):
        load_teacher(factory=OWN, tlc=(64, 64))
