"""Scores of restored images. On constant images PSNR and SSIM can be computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netgraft.data.images import ImagePair
from netgraft.errors import DatasetError
from netgraft.evaluate import Evaluation, batch_psnr_db, eight_bits, evaluate, paired_interval
from netgraft.imaging import RgbImage, psnr_db
from netgraft.scores import Scorer

torch.set_num_threads(1)
score = Scorer()


def flat(value: int, dtype: type = np.uint8) -> RgbImage:
    return np.full((16, 20, 3), value, dtype)


def flat_psnr_db(a: int, b: int) -> float:
    return 20 * math.log10(255 / abs(a - b))


def flat_ssim(a: int, b: int) -> float:
    """Without any variance, only the comparison of the means is left (Wang et al., TIP 2004, equation 6)."""
    c1 = (0.01 * 255) ** 2
    return (2 * a * b + c1) / (a * a + b * b + c1)


def test_figures_are_means_over_images() -> None:
    pairs = [(100, 110), (50, 90), (200, 199)]
    images = [ImagePair(name=f"{a}", degraded=flat(a), clean=flat(b)) for a, b in pairs]
    scored = evaluate(lambda image: image, images)
    assert [row.name for row in scored.scores] == ["100", "50", "200"]
    assert scored.mean() == pytest.approx(np.mean([flat_psnr_db(*pair) for pair in pairs]))
    for figure in ("ssim", "ssim_matlab"):
        assert scored.mean(figure) == pytest.approx(np.mean([flat_ssim(*pair) for pair in pairs]))


def test_what_is_scored_is_the_restored_image() -> None:
    images = [ImagePair(name="a", degraded=flat(10), clean=flat(60))]
    scored = evaluate(lambda image: image + np.uint8(40), images)
    assert scored.mean() == pytest.approx(flat_psnr_db(50, 60))


def test_rows_lead_back() -> None:
    scored = Evaluation(scores=(score("a", flat(1), flat(2)), score("b", flat(3), flat(9))))
    assert Evaluation.from_rows(scored.as_rows()) == scored


def test_without_images_there_is_no_mean() -> None:
    with pytest.raises(DatasetError, match="no images"):
        evaluate(lambda image: image, [])


def test_16_bits_are_rounded_to_8() -> None:
    """65535 / 255 = 257 steps: 0 to 128 belong to 0, 129 to 385 to 1, and so on up to 65407 to 65535."""
    values = np.array([0, 128, 129, 385, 386, 65406, 65407, 65535], np.uint16).reshape(1, -1, 1)
    assert eight_bits(values.repeat(3, axis=2))[0, :, 0].tolist() == [0, 0, 1, 1, 2, 254, 255, 255]
    assert eight_bits(flat(7)).tolist() == flat(7).tolist()
    wide = score("a", flat(257 * 100, np.uint16), flat(257 * 110 + 90, np.uint16))
    assert wide == score("a", flat(100), flat(110))


class Brighter(nn.Module):
    """Adds what is told; some of it leaves the range."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.1 + 0.013


def test_crops_score_as_their_images_would() -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (5, 24, 24, 3)).astype(np.uint8)
    degraded = np.clip(clean + rng.normal(0, 12, clean.shape), 0, 255).astype(np.uint8)
    as_tensors = [torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255 for stack in (degraded, clean)]
    expected = []
    for bad, good in zip(degraded, clean, strict=True):
        restored = np.rint(np.clip(np.float32(bad / 255) * 1.1 + 0.013, 0, 1) * 255).astype(np.uint8)
        expected.append(psnr_db(restored, good))
    # Five crops in batches of two: the last batch counts no more than its crops.
    found = batch_psnr_db(Brighter(), as_tensors[0], as_tensors[1], batch=2)
    assert found == pytest.approx(np.mean(expected), abs=2e-3)


class Diverges(nn.Module):
    """One value of the batch's last image is not finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[-1, 0, 0, 0] = self.value
        return y


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_network_that_diverges_scores_nothing(value: float) -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert batch_psnr_db(Diverges(value), images, images) == 0.0
    assert batch_psnr_db(Diverges(0.5), images, images) > 0.0


def test_equal_crops_score_a_finite_number() -> None:
    images = torch.arange(192.0).reshape(1, 3, 8, 8) / 255
    assert batch_psnr_db(nn.Identity(), images, images) == pytest.approx(100.0)


def test_the_interval_of_equal_gaps_is_that_gap() -> None:
    assert paired_interval([3.0, 5.0, 9.0], [1.0, 3.0, 7.0]) == (2.0, 2.0)


def test_the_interval_agrees_with_the_normal_approximation() -> None:
    """Of 400 gaps, the mean is nearly normal with the gaps' deviation over 20."""
    rng = np.random.default_rng(3)
    second = rng.normal(30, 4, 400)
    gaps = rng.normal(0.5, 0.8, 400)
    low, high = paired_interval(second + gaps, second)
    half = 1.96 * gaps.std() / 20
    assert low == pytest.approx(gaps.mean() - half, abs=0.006)
    assert high == pytest.approx(gaps.mean() + half, abs=0.006)
    assert paired_interval(second + gaps, second) == (low, high)
    assert paired_interval(second, second + gaps) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], []), ([1.0], [1.0, 2.0])])
def test_only_scores_of_the_same_images_can_be_paired(first: list[float], second: list[float]) -> None:
    with pytest.raises(DatasetError, match="in pairs"):
        paired_interval(first, second)
