"""A student is a new network: what it is made of stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from netgraft.assemble import assemble, named_assignment
from netgraft.distill import SurrogateKey, start_surrogates
from netgraft.nets.blocks import Calibrated, FittedAffine, StaticNorm
from netgraft.nets.nafnet import NafBlock, NafNet, NafNetShape, start_residuals
from netgraft.operators import OPERATORS, options_for
from netgraft.sites import KEEP, find_sites

ASSIGNMENT = {
    "encoders.0.0": "naf_static",
    "encoders.0.1": KEEP,
    "downs.0": "strided3",
    "middle_blks.0": "drop",
    "decoders.0.0": "naf_static",
}


@pytest.fixture
def teacher() -> NafNet:
    torch.manual_seed(0)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(2,), middle_blocks=1, decoder_blocks=(1,)))
    start_residuals(net, 0.5)
    return net.eval()


@pytest.fixture
def surrogates(teacher: NafNet) -> dict[SurrogateKey, nn.Module]:
    return start_surrogates(teacher, find_sites(teacher, (16, 16)), OPERATORS, seed=0)


def test_a_student_is_the_network_with_its_blocks_exchanged(
    teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]
) -> None:
    """It computes what the teacher does when the same modules are put in by hand."""
    student = assemble(teacher, ASSIGNMENT, surrogates)
    by_hand = copy.deepcopy(teacher)
    by_hand.encoders[0][0] = surrogates["encoders.0.0", "naf_static"]  # type: ignore[index]
    by_hand.downs[0] = surrogates["downs.0", "strided3"]
    by_hand.middle_blks[0] = surrogates["middle_blks.0", "drop"]
    by_hand.decoders[0][0] = surrogates["decoders.0.0", "naf_static"]  # type: ignore[index]
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(student(x), by_hand(x))
    assert isinstance(student.get_submodule("encoders.0.1"), NafBlock)
    assert isinstance(student.get_submodule("middle_blks.0"), FittedAffine)
    assert not torch.allclose(student(x), teacher(x))


def test_keeping_everything_gives_the_teacher_again(teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]) -> None:
    x = torch.rand(1, 3, 16, 16)
    for assignment in ({}, {"middle_blks.0": KEEP}):
        student = assemble(teacher, assignment, surrogates)
        assert student is not teacher
        assert torch.equal(student(x), teacher(x))


def test_neither_teacher_nor_surrogates_change(teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]) -> None:
    """Calibration and training of the student touch nothing that it was made from."""
    teacher.train()
    for surrogate in surrogates.values():
        surrogate.train()
    sources: list[nn.Module] = [teacher, *surrogates.values()]
    before = [copy.deepcopy(module.state_dict()) for module in sources]
    types = [type(part) for part in teacher.modules()]
    student = assemble(teacher, ASSIGNMENT, surrogates, calibration=torch.rand(2, 3, 16, 16))
    assert not any(part.training for part in student.modules())
    with torch.no_grad():
        for tensor in (*student.parameters(), *student.buffers()):
            tensor.fill_(5.0)
    for module, was in zip(sources, before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in module.state_dict().items())
        assert all(part.training for part in module.modules())
    assert [type(part) for part in teacher.modules()] == types


def test_calibration_follows_what_the_student_produces(
    teacher: NafNet, surrogates: dict[SurrogateKey, nn.Module]
) -> None:
    """The norm behind a dropped block fits its real input, not the teacher's; nothing is left calibrating."""
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        affine = surrogates["middle_blks.0", "drop"]
        assert isinstance(affine, FittedAffine)
        affine.scale.fill_(-2.0)
    student = assemble(teacher, ASSIGNMENT, surrogates, calibration=images)
    seen: list[Tensor] = []
    norm = student.get_submodule("decoders.0.0.norm1")
    assert isinstance(norm, StaticNorm)
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        student(images)
    handle.remove()
    block = teacher.get_submodule("decoders.0.0")
    assert isinstance(block, NafBlock)
    expected = StaticNorm(block.norm1)
    expected.calibrate(seen[0])
    torch.testing.assert_close(norm.scale, expected.scale)
    assert not torch.allclose(norm.scale, torch.ones(4), rtol=1e-2)
    # What attention was frozen to is learned in distillation, and stays.
    learned = surrogates["decoders.0.0", "naf_static"].get_parameter("sca.scale")
    assert torch.equal(student.get_parameter("decoders.0.0.sca.scale"), learned)
    assert not any(part.calibrating for part in student.modules() if isinstance(part, Calibrated))


def test_an_assignment_from_a_row_of_the_search(teacher: NafNet) -> None:
    sites = find_sites(teacher, (16, 16))
    assert [site.kind for site in sites] == ["block", "block", "down", "block", "up", "block"]
    options = [options_for(site, OPERATORS) for site in sites]
    named = named_assignment([0, 2, 1, 1, 0, 3], sites, options)
    assert named == {
        "encoders.0.0": KEEP,
        "encoders.0.1": "naf_static",
        "downs.0": "strided3",
        "middle_blks.0": "drop",
        "ups.0": KEEP,
        "decoders.0.0": "naf_no_attention",
    }
    with pytest.raises(ValueError, match="shorter"):
        named_assignment([0, 1], sites, options)
