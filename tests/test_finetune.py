"""Fine-tuning: neither network that is handed in changes, it resumes exactly, and the student gets better."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import Tensor, nn

from netgraft.finetune import FinetuneConfig, Finetuning
from netgraft.nets.losses import fourier_loss
from netgraft.nets.nafnet import NafNet, NafNetShape, start_residuals
from netgraft.train import learning_rate, psnr_loss

CONFIG = FinetuneConfig(steps=6, average=0.5, precision="fp32")


def network(seed: int) -> NafNet:
    torch.manual_seed(seed)
    net = NafNet(NafNetShape(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)))
    start_residuals(net, 0.2)
    return net.eval()


def batches(count: int = 6, first: int = 0) -> list[tuple[Tensor, Tensor]]:
    clean = [torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(first, count)]
    return [(image / 3, image) for image in clean]


class Watched(nn.Module):
    """A teacher that counts its calls and notes whether gradients would flow through it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.calls: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(torch.is_grad_enabled())
        y: Tensor = self.net(x)
        return y


def test_neither_student_nor_teacher_changes() -> None:
    student, teacher = network(0), network(1)
    student.requires_grad_(False)
    before = [copy.deepcopy(net.state_dict()) for net in (student, teacher)]
    work = Finetuning(student, teacher, CONFIG)
    work.run(batches())
    for net, was in zip((student, teacher), before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in net.state_dict().items())
        assert not any(part.training or part._forward_hooks for part in net.modules())
        assert all(p.grad is None for p in net.parameters())
    assert not any(p.requires_grad for p in student.parameters())
    assert all(p.requires_grad for p in teacher.parameters())
    assert not work.average.training
    assert not any(p.requires_grad for p in work.average.parameters())
    moved = [not torch.equal(value, before[0][name]) for name, value in work.average.state_dict().items()]
    assert all(moved), "frozen or not before, everything learns"


def test_it_resumes_to_the_last_bit() -> None:
    """Two steps, a file, and four more by a new object equal six in one go."""
    whole = Finetuning(network(0), network(1), CONFIG)
    whole.run(batches())
    half = Finetuning(network(0), network(1), CONFIG)
    half.run(batches(2))
    file = io.BytesIO()
    torch.save(half.state(), file)
    file.seek(0)
    resumed = Finetuning(network(2), network(1), CONFIG)
    resumed.load_state(torch.load(file, weights_only=True))
    assert resumed.step == 2
    resumed.run(batches(first=2))
    assert resumed.losses == whole.losses
    assert len(whole.losses) == 6
    for one, other in ((resumed.student, whole.student), (resumed.average, whole.average)):
        for name, value in other.state_dict().items():
            assert torch.equal(one.state_dict()[name], value), name


def test_the_student_gets_better_on_a_trivial_task() -> None:
    config = FinetuneConfig(steps=80, average=0.9, learning_rate=2e-3, distillation=0, precision="fp32")
    work = Finetuning(network(0), network(1), config)
    task = batches(1) * 80
    work.run(task)
    degraded, clean = task[0]
    with torch.no_grad():
        start = psnr_loss(network(0)(degraded), clean).item()
        after = psnr_loss(work.average(degraded), clean).item()
    assert work.losses[0] == pytest.approx(start, abs=1e-4), "what is noted is the loss against the clean image"
    assert after < start - 2


def test_distillation_pulls_to_the_teacher() -> None:
    """With a large weight the student ends nearer to the teacher than without, and the teacher gets no gradients."""
    gaps, calls = {}, {}
    degraded = batches(1)[0][0]
    for weight in (0.0, 50.0):
        teacher = Watched(network(1))
        config = FinetuneConfig(steps=40, average=0.5, learning_rate=2e-3, distillation=weight, precision="fp32")
        work = Finetuning(network(0), teacher, config)
        work.run(batches(1) * 40)
        calls[weight] = list(teacher.calls)
        with torch.no_grad():
            gaps[weight] = (work.average(degraded) - teacher(degraded)).square().mean().item()
    assert gaps[50.0] < 0.5 * gaps[0.0]
    assert calls == {0.0: [], 50.0: [False] * 40}, "a teacher without weight is not even asked"


def test_the_first_step_is_adams() -> None:
    """Every weight moves by the warm-up's learning rate against its gradient, whatever the gradient's size."""
    work = Finetuning(network(0), network(1), CONFIG)
    before = [p.detach().clone() for p in work.student.parameters()]
    work.run(batches(1))
    rate = learning_rate(0, 6, CONFIG.learning_rate, warmup=20)
    assert rate == pytest.approx(5e-4 / 20, rel=1e-6)
    largest = max((new - old).abs().max().item() for new, old in zip(work.student.parameters(), before, strict=True))
    assert largest == pytest.approx(rate, rel=1e-2)


def test_no_steps_leave_the_student_as_it_was() -> None:
    work = Finetuning(network(0), network(1), FinetuneConfig(steps=0))
    work.run(batches())
    assert work.step == 0
    assert all(torch.equal(value, network(0).state_dict()[name]) for name, value in work.average.state_dict().items())


def test_the_steps_of_the_config_are_the_last() -> None:
    work, steps = Finetuning(network(0), network(1), CONFIG), []
    work.run(batches(9), lambda now: steps.append(now.step))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_statistics_of_an_operator_of_ones_own_reach_the_result() -> None:
    """A batch norm's running mean is no weight, and yet the average must have it."""
    student = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    work = Finetuning(student, nn.Identity(), CONFIG)
    work.run(batches())
    mean = work.average.get_submodule("1").running_mean
    assert isinstance(mean, Tensor)
    assert (mean != 0).all()
    assert torch.equal(mean, work.student.get_submodule("1").running_mean)  # type: ignore[arg-type]


def test_statistics_of_the_teacher_are_kept() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    work = Finetuning(teacher, teacher, CONFIG)
    work.run(batches())
    for network in (work.average, work.student):
        assert torch.equal(network.get_submodule("1").running_mean, torch.zeros(3))  # type: ignore[arg-type]
    assert not torch.equal(work.student.get_submodule("1").weight, teacher[1].weight)  # type: ignore[arg-type]


def test_the_fourier_loss_has_its_say() -> None:
    """With a large weight the student's spectrum ends nearer to the clean one's; what is noted stays the PSNR loss."""
    task, ends = batches(1) * 40, {}
    degraded, clean = task[0]
    for weight in (0.0, 20.0):
        config = FinetuneConfig(
            steps=40, average=0.5, learning_rate=2e-3, distillation=0, fourier=weight, precision="fp32"
        )
        work = Finetuning(network(0), network(1), config)
        work.run(task)
        assert work.losses[0] == pytest.approx(psnr_loss(network(0)(degraded), clean).item(), abs=1e-4)
        with torch.no_grad():
            ends[weight] = fourier_loss(work.average(degraded), clean).item()
    assert ends[20.0] < ends[0.0]


def test_a_batch_on_which_the_student_diverges_teaches_nothing() -> None:
    """As if the batch had not been: same weights and same average, but its step counts and its loss says so."""
    work = Finetuning(network(0), network(1), CONFIG)
    work.run(batches(2))
    before = {name: value.clone() for name, value in work.student.state_dict().items()}
    averaged = {name: value.clone() for name, value in work.average.state_dict().items()}
    degraded, clean = batches(3)[2]
    work.run([(degraded * float("inf"), clean)])
    assert work.step == 3
    assert math.isnan(work.losses[2])
    assert all(torch.equal(value, before[name]) for name, value in work.student.state_dict().items())
    assert all(torch.equal(value, averaged[name]) for name, value in work.average.state_dict().items())
    work.run(batches(4)[3:])
    assert math.isfinite(work.losses[3])
