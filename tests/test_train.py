"""Training: loss and schedule by hand, exact resume, and a network that learns."""

from __future__ import annotations

import copy
import io
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgraft.data.crops import CropStage
from netgraft.errors import ConfigError
from netgraft.nets.losses import psnr_loss
from netgraft.nets.nafnet import NafBlock, NafNet, NafNetShape
from netgraft.train import TrainConfig, Training, autocast, learning_rate, new_network, update_average

SHAPE = NafNetShape(width=4, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))
CONFIG = TrainConfig(
    crops=(CropStage(steps=4, size=16, batch=2), CropStage(steps=2, size=24, batch=2)),
    warmup=2,
    average=0.5,
    precision="fp32",
)


def network(config: TrainConfig = CONFIG) -> NafNet:
    torch.manual_seed(0)
    return new_network(NafNet(SHAPE), config)


def batches(count: int = 6, first: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Clean images and the same at a third of their brightness."""
    clean = [torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(first, count)]
    return [(image / 3, image) for image in clean]


def test_the_loss_is_minus_the_psnr_by_hand() -> None:
    """Errors of 0.1 and 0.01 are 20 and 40 dB: 30 on average, each image for itself."""
    clean = torch.full((2, 3, 4, 4), 0.5)
    prediction = clean + torch.tensor([0.1, -0.01]).view(2, 1, 1, 1)
    assert psnr_loss(prediction, clean).item() == pytest.approx(-30, abs=1e-3)
    assert psnr_loss(clean, clean).item() == pytest.approx(-80), "perfection is finite"


def test_the_schedule_by_hand() -> None:
    """A linear warm-up, the peak, half of it half way, and 1e-7 in the end."""
    peak = 1e-3
    assert learning_rate(0, 1000, peak, 0) == pytest.approx(peak)
    assert learning_rate(500, 1000, peak, 0) == pytest.approx((peak + 1e-7) / 2)
    assert learning_rate(1000, 1000, peak, 0) == pytest.approx(1e-7)
    ramp = [learning_rate(step, 1000, peak, 10) / learning_rate(step, 1000, peak, 0) for step in (0, 4, 9, 10)]
    assert ramp == pytest.approx([0.1, 0.5, 1, 1])
    after = [learning_rate(step, 1000, peak, 10) for step in range(10, 1001)]
    assert all(later < earlier for earlier, later in pairwise(after))


def test_the_average_by_hand() -> None:
    """The first step takes nine tenths of the new weights, late ones one minus the decay; buffers are copied."""
    average, module = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    with torch.no_grad():
        average.weight.fill_(0.0)
        module.weight.fill_(10.0)
        module.running_mean.fill_(7.0)  # type: ignore[union-attr]
    update_average(average, module, step=0, decay=0.99)
    assert average.weight.item() == pytest.approx(9.0)
    update_average(average, module, step=100_000, decay=0.99)
    assert average.weight.item() == pytest.approx(9.01)
    assert average.running_mean.item() == 7.0  # type: ignore[union-attr]
    assert module.weight.item() == 10.0


def test_a_new_network_is_the_identity_and_every_block_has_a_say() -> None:
    net, x = network(), torch.rand(1, 3, 16, 16)
    assert torch.equal(net(x), x)
    blocks = [part for part in net.modules() if isinstance(part, NafBlock)]
    assert len(blocks) == 5
    assert all((scale == 0.2).all() for block in blocks for scale in (block.beta, block.gamma))


def test_half_precision_is_a_matter_of_the_forward_pass_alone() -> None:
    layer = nn.Linear(2, 2)
    with autocast("bf16"):
        assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
    with autocast("fp32"):
        assert layer(torch.ones(1, 2)).dtype == torch.float32
    config = CONFIG.model_copy(update={"precision": "bf16"})
    training = Training(network(config), config)
    training.run(batches(2))
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in training.network.parameters())


@pytest.mark.parametrize("deep", [0.4, 0.0])
def test_a_training_resumes_to_the_last_bit(deep: float) -> None:
    """Two steps, a file, and four more by a new object equal six in one go: weights, their average, the heads."""
    config = CONFIG.model_copy(update={"deep_supervision": deep})
    whole = Training(network(), config)
    whole.run(batches())
    half = Training(network(), config)
    half.run(batches(2))
    file = io.BytesIO()
    torch.save(half.state(), file)
    file.seek(0)
    torch.manual_seed(123)
    resumed = Training(NafNet(SHAPE), config)
    resumed.load_state(torch.load(file, weights_only=True))
    assert resumed.step == 2
    resumed.run(batches(first=2))
    assert resumed.step == whole.step == 6
    for one, other in (
        (resumed.network, whole.network),
        (resumed.average, whole.average),
        (resumed.heads, whole.heads),
    ):
        for name, value in other.state_dict().items():
            assert torch.equal(one.state_dict()[name], value), name


def test_the_state_keeps_its_layout() -> None:
    """Checkpoints of trainings that are under way name these parts."""
    state = Training(network(), CONFIG).state()
    assert list(state) == ["step", "module", "ema", "heads", "optimizer"]
    assert set(state["module"]) == set(state["ema"]) == set(network().state_dict())
    assert set(state["heads"]) == {"heads.0.weight", "heads.0.bias"}


def test_the_average_follows_the_weights_step_by_step() -> None:
    """Recomputed from the weights after each step: by (1 + t) / (10 + t), at most the decay."""
    training = Training(network(), CONFIG)
    start = [p.detach().clone() for p in training.network.parameters()]
    seen: list[list[Tensor]] = []
    training.run(batches(), lambda now: seen.append([p.detach().clone() for p in now.network.parameters()]))
    expected = start
    for step, weights in enumerate(seen):
        keep = min(0.5, (1 + step) / (10 + step))
        expected = [keep * old + (1 - keep) * new for old, new in zip(expected, weights, strict=True)]
    for found, wanted in zip(training.average.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert not training.average.training
    assert not any(p.requires_grad for p in training.average.parameters())


@pytest.mark.parametrize("deep", [0.4, 0.0])
def test_a_trivial_task_is_learned(deep: float) -> None:
    """Images at a third of their brightness: the identity gains nothing, and every step of training does."""
    config = TrainConfig(
        crops=(CropStage(steps=60, size=16, batch=2),), warmup=5, precision="fp32", deep_supervision=deep
    )
    training, gains = Training(network(config), config), []
    task = batches(1) * 60
    training.run(task, lambda now: gains.append((now.gain_db, psnr_loss(now.network(task[0][0]), task[0][1]).item())))
    assert gains[0][0] == pytest.approx(0, abs=1e-4), "a new network gives back what it gets"
    start = psnr_loss(*task[0]).item()
    assert gains[-1][1] < start - 3
    assert gains[-1][0] > gains[20][0] > gains[0][0]
    # The reported gain is the moving average of the gain before each step, a hundredth new.
    expected = gains[0][0]
    for (_, loss), (gain, _) in pairwise(gains):
        expected = 0.99 * expected + 0.01 * (start - loss)
        assert gain == pytest.approx(expected, abs=1e-3)


def test_deep_supervision_trains_the_heads_on_small_versions() -> None:
    """The first decoder of two predicts at half the resolution; without supervision its head stays at zero."""
    with_it = Training(network(), CONFIG)
    without = Training(network(), CONFIG.model_copy(update={"deep_supervision": 0.0}))
    degraded, clean = batches(1)[0]
    features = {0: torch.rand(2, 8, 8, 8)}
    expected = psnr_loss(F.avg_pool2d(degraded, 2), F.avg_pool2d(clean, 2))
    torch.testing.assert_close(with_it.heads.loss(features, degraded, clean), expected)
    for training in (with_it, without):
        training.run(batches(2))
    assert (with_it.heads.heads[0].weight != 0).any()
    assert (without.heads.heads[0].weight == 0).all()


def test_after_a_run_no_hook_is_left() -> None:
    """Also when the callback stops it."""

    def stop(_: Training) -> None:
        raise KeyboardInterrupt

    training = Training(network(), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        training.run(batches(), stop)
    training.run(batches(2, first=1))
    assert training.step == 2
    assert not any(part._forward_hooks for part in training.network.modules())


def test_the_gradient_is_clipped() -> None:
    """What reaches the optimizer has the largest norm that is allowed, the heads included."""
    training = Training(network(), CONFIG)
    training.run(batches(1))
    norms = [p.grad.norm() for p in training.parameters if p.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(0.1, rel=1e-3)


def test_crops_that_deep_supervision_cannot_halve_are_refused_at_once() -> None:
    uneven = CONFIG.model_copy(
        update={"crops": (CropStage(steps=1, size=16, batch=1), CropStage(steps=1, size=18, batch=1))}
    )
    with pytest.raises(ConfigError, match=r"crops of 18 pixels.*multiples of 4") as caught:
        Training(network(), uneven)
    assert "\n" not in str(caught.value)
    off = Training(network(), uneven.model_copy(update={"deep_supervision": 0.0}))
    images = torch.rand(1, 3, 18, 18)
    off.run([(images / 2, images)])
    assert off.step == 1
    assert not math.isnan(off.gain_db)


def test_the_callers_randomness_is_left_alone() -> None:
    net = network()
    random = torch.get_rng_state()
    Training(net, CONFIG).run(copy.deepcopy(batches(1)))
    assert torch.equal(torch.get_rng_state(), random)
