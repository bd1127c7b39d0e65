"""The pool: every operator fits where it says, and starts as it says."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from custom_network import restorer
from netgraft.devices import onnx_bytes
from netgraft.errors import ConfigError
from netgraft.nets.blocks import calibrating, deploy
from netgraft.nets.maxim import ConvAttentionBlock, Maxim, MaximShape
from netgraft.nets.maxim_axes import AxisGate, MultiAxisBlock, MutualGating
from netgraft.nets.maxim_blocks import AddedSignals, FrozenAttentionBlock, OneAxisBlock, one_axis_gating
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.nets.sited import AddedInputs, JoinedInputs
from netgraft.operators import OPERATORS, Operator, in_int8, in_single, operator_pool, options_for, with_int8
from netgraft.sites import KEEP, Site, find_sites


def network() -> NafNet:
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)))
    start_residuals(net, 0.3)
    return net.eval()


def maxim() -> Maxim:
    torch.manual_seed(0)
    return Maxim(MaximShape(width=4, stages=2, groups=1, bottlenecks=1, high_side=2, low_side=2)).eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "nafnet": (network, ()),
    "nafnet's stages": (network, ("encoders.*",)),
    "a user's": (restorer, ("upper",)),
    "maxim": (maxim, ()),
    "maxim's levels": (maxim, ("stages.*.encoders.*.blocks",)),
}


def cases() -> list[tuple[str, Site, str]]:
    """Every operator at every shape of site of every network."""
    found = {}
    for key, (make, named) in NETWORKS.items():
        for site in find_sites(make(), (32, 32), named=named):
            for name in options_for(site, OPERATORS)[1:]:
                found.setdefault((key, site.shape_key, name), (key, site, name))
    return list(found.values())


@pytest.mark.parametrize(
    ("key", "site", "name"), cases(), ids=lambda case: case if isinstance(case, str) else case.path
)
def test_every_operator_starts_with_the_shapes_of_its_site(key: str, site: Site, name: str) -> None:
    """Before and after deployment; the teacher's block shares no memory with it and stays as it was."""
    block = NETWORKS[key][0]().get_submodule(site.path)
    before = copy.deepcopy(block.state_dict())
    module, block = site.alone(OPERATORS[name].module_at(site, block)), site.alone(block)
    x = site.example((32, 32))
    with torch.no_grad():
        assert module(x).shape == block(x).shape
        torch.testing.assert_close(deploy(module)(x), module(x), rtol=1e-4, atol=1e-5)
        for parameter in module.parameters():
            parameter.fill_(7.0)
    own = block.block if site.more_channels else block
    for weight, value in own.state_dict().items():  # type: ignore[operator]
        assert torch.equal(value, before[weight])


def test_every_operator_fits_somewhere() -> None:
    assert {name for _, _, name in cases()} == set(OPERATORS)


def test_a_nafnet_has_the_options_that_it_had() -> None:
    """What is made for other networks does not widen its space."""
    for site in find_sites(network(), (32, 32)):
        others = {"naf", "naf_x2", "naf_frozen", "conv3_pair", "first_half", "grid_axis", "add", "concat"}
        assert not others & set(options_for(site, OPERATORS))


def test_one_axis_of_two_is_what_the_other_leaves() -> None:
    """Both branches add up to the block that they come from; the bias that both have counts once."""
    block = maxim().get_submodule("stages.0.encoders.0.blocks.0")
    assert isinstance(block, MultiAxisBlock)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    grid, local = OneAxisBlock(block, "grid"), OneAxisBlock(block, "block")
    with torch.no_grad():
        both = grid(x) + local(x) - x - block.project_out.bias[:, None, None]
        torch.testing.assert_close(both, block(x), rtol=1e-4, atol=1e-5)


def test_one_axis_of_a_gate_is_what_the_other_leaves() -> None:
    """Its value is the gate's own; what it gates the other signal with adds up, but for the bias that both have."""
    gating = maxim().get_submodule("stages.0.gates.0.gating")
    assert isinstance(gating, MutualGating)
    gate = gating.y_gate
    assert isinstance(gate, AxisGate)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        value, whole = gate(x)
        (grid_value, grid), (_, local) = (one_axis_gating(gating, axis).y_gate(x) for axis in ("grid", "block"))
    torch.testing.assert_close(grid_value, value)
    torch.testing.assert_close(grid + local - gate.project_out.bias, whole, rtol=1e-4, atol=1e-5)


def test_two_signals_side_by_side_are_added_by_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    target = torch.cat([x - 0.5 * y + 1, 2 * y - 0.25 * x], dim=1)
    added = AddedSignals(4)
    added.fit([torch.cat([x, y], dim=1)], target)
    torch.testing.assert_close(added(torch.cat([x, y], dim=1)), target, rtol=1e-4, atol=1e-4)


def test_a_frozen_attention_is_its_mean_over_what_passed() -> None:
    block = maxim().get_submodule("stages.0.encoders.0.blocks.1")
    assert isinstance(block, ConvAttentionBlock)
    frozen = FrozenAttentionBlock(block)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), calibrating(frozen):
        # Of one image the mean is the attention itself.
        torch.testing.assert_close(frozen(x), block(x))
    with torch.no_grad():
        torch.testing.assert_close(deploy(frozen)(x), block(x), rtol=1e-4, atol=1e-5)


def test_inputs_are_added_and_joined_by_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, channels, 8, 8, generator=generator) for channels in (4, 4, 3)]
    mixed = 0.5 * inputs[0] - 2 * inputs[1] + 0.25
    added, joined = AddedInputs((4, 4, 3)), JoinedInputs((4, 4, 3), 4)
    added.fit(inputs, mixed)
    torch.testing.assert_close(added(*inputs), mixed, rtol=1e-4, atol=1e-4)
    turned = mixed.flip(1) + inputs[2].sum(1, keepdim=True)
    joined.fit(inputs, turned)
    with torch.no_grad():
        torch.testing.assert_close(joined(*inputs), turned, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["naf_relu", "conv3_relu", "resize"])
def test_operators_for_npus_export_to_plain_graphs(name: str) -> None:
    """The file computes what torch does, by convolutions and what runs between them on any device."""
    net = network()
    site = next(site for site in find_sites(net, (32, 32)) if site.kind == OPERATORS[name].kind)
    module, x = deploy(OPERATORS[name].start(net.get_submodule(site.path), site)), site.example((32, 32))
    content = onnx_bytes(module, x)
    (found,) = onnxruntime.InferenceSession(content).run(None, {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, module(x).numpy(), atol=1e-5)
    assert {node.op_type for node in onnx.load_from_string(content).graph.node} <= {"Conv", "Relu", "Add", "Resize"}


@pytest.mark.parametrize("name", [name for name, op in OPERATORS.items() if op.learning == "exact"])
def test_exact_operators_equal_the_teachers_block(name: str) -> None:
    net = network()
    fitting = [site for site in find_sites(net, (32, 32)) if site.kind == OPERATORS[name].kind]
    assert len(fitting) == 2
    for site in fitting:
        block, x = net.get_submodule(site.path), site.example((32, 32))
        torch.testing.assert_close(OPERATORS[name].start(block, site)(x), block(x), rtol=1e-5, atol=1e-6)


def test_options_begin_with_keep_and_fit_the_kind_of_site() -> None:
    pool = operator_pool(["conv3", "strided3", "drop", "transposed"])
    options = {site.kind: options_for(site, pool) for site in find_sites(network(), (32, 32))}
    assert options == {
        "block": (KEEP, "conv3", "drop"),
        "down": (KEEP, "strided3"),
        "up": (KEEP, "transposed"),
    }


def own(name: str) -> Operator:
    return Operator(
        name=name,
        kind="block",
        start=lambda _, site: nn.Conv2d(site.in_channels, site.in_channels, 1),
        learning="distill",
        from_teacher=False,
        description="a pointwise convolution",
    )


@pytest.fixture
def custom(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("custom_operators")
    module.POINT, module.KEEP, module.DROP = own("point"), own(KEEP), own("drop")  # type: ignore[attr-defined]
    module.TEXT = "no operator"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "custom_operators", module)
    return module


@pytest.mark.usefixtures("custom")
def test_an_operator_of_ones_own_takes_one_line() -> None:
    pool = operator_pool([KEEP, "drop", "custom_operators:POINT", "drop"])
    assert list(pool) == ["drop", "point"]
    site = find_sites(network(), (32, 32))[0]
    assert pool["point"].start(nn.Identity(), site)(site.example((32, 32))).shape == (1, 4, 32, 32)


@pytest.mark.usefixtures("custom")
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["conv3_re"], "did you mean 'conv3_res'"),
        (["no_such_module:POINT"], "cannot be imported"),
        (["custom_operators:NOTHING"], "cannot be imported"),
        ([":POINT"], "cannot be imported"),
        ([".relative:POINT"], "cannot be imported"),
        (["custom_operators:TEXT"], "is a str"),
        (["custom_operators:KEEP"], "'keep' exists already"),
        (["drop", "custom_operators:DROP"], "'drop' exists already"),
    ],
)
def test_wrong_names_are_refused_in_one_line(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        operator_pool(names)
    assert "\n" not in str(caught.value)


def test_a_pool_in_8_bits_has_a_twin_of_each_operator_that_convolves() -> None:
    pool = with_int8(operator_pool(["drop", "conv3", "transposed"]))
    assert list(pool) == ["drop", "conv3", "transposed", "keep@int8", "keep_up@int8", "conv3@int8", "transposed@int8"]
    sites = {site.kind: site for site in find_sites(network(), (64, 64))}
    assert options_for(sites["block"], pool) == ("keep", "drop", "conv3", "keep@int8", "conv3@int8")
    assert options_for(sites["up"], pool) == ("keep", "transposed", "keep_up@int8", "transposed@int8")
    assert [in_single(name) for name in pool if in_int8(name)] == ["keep", "keep", "conv3", "transposed"]
    assert [in_single(name) for name in pool if not in_int8(name)] == ["drop", "conv3", "transposed"]


@pytest.mark.parametrize("name", ["keep@int8", "keep_up@int8", "conv3@int8", "transposed@int8"])
def test_a_twin_computes_about_what_its_operator_does(name: str) -> None:
    """Of the same weights: a twin is made from the trained operator, and takes its ranges from what passes."""
    pool = with_int8(operator_pool(["drop", "conv3", "transposed"]))
    net = network()
    site = next(site for site in find_sites(net, (64, 64)) if site.kind == pool[name].kind)
    block, x = net.get_submodule(site.path), site.example((64, 64))
    torch.manual_seed(0)
    twin = pool[name].start(block, site).eval()
    torch.manual_seed(0)
    single = block if in_single(name) == KEEP else pool[in_single(name)].start(block, site)
    with torch.no_grad(), calibrating(twin):
        twin(x)
    with torch.no_grad():
        difference, signal = twin(x) - single.eval()(x), single(x)
    assert 0 < float(difference.square().mean()) < 3e-3 * float(signal.square().mean())
