"""Teacher and student side by side, on numbers that can be computed by hand."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from netgraft.data.conditions import Condition, as_it_is, conditions_of
from netgraft.data.images import DataConfig, ImagePair
from netgraft.errors import DatasetError, ImageError
from netgraft.generalization import MOST_DB, Generalization, condition_psnrs_db, spread_over
from netgraft.imaging import RgbImage
from netgraft.intervals import Estimate

CONDITIONS = [Condition(kind=kind, name="x", view=as_it_is) for kind in ("trained", "easy", "hard", "slight")]
IMAGES = ["a", "b", "c"]


def compared() -> Generalization:
    """The student is 0.1 dB behind as trained and where it is easy, 0.4 to 1.3 dB where it is hard."""
    degraded = [[20.0, 24.0, 28.0]] * 4
    teacher = [[22.0, 26.0, 30.0], [23.0, 27.0, 31.0], [21.0, 25.0, 29.0], [22.0, 26.0, 30.0]]
    behind = [[0.1, 0.1, 0.1], [0.1, 0.0, 0.2], [0.4, 0.7, 1.3], [0.14, 0.14, 0.14]]
    student = [[t - b for t, b in zip(*rows, strict=True)] for rows in zip(teacher, behind, strict=True)]
    return Generalization.of(
        CONDITIONS, {"degraded": degraded, "teacher": teacher, "student": student}, IMAGES, (64, 64)
    )


def test_a_student_that_falls_behind_elsewhere_breaks_sooner() -> None:
    trained, easy, hard, slight = compared().scores
    assert trained.difference_db.mean == pytest.approx(-0.1)
    assert trained.difference_to_trained_db == Estimate(0.0, 0.0, 0.0)
    assert hard.difference_db.mean == pytest.approx(-0.8)
    assert hard.difference_to_trained_db.mean == pytest.approx(-0.7)
    assert [row.breaks_sooner for row in (trained, easy, hard)] == [False, False, True]
    # Certain, but too little to matter.
    assert slight.difference_to_trained_db.high < 0
    assert not slight.breaks_sooner


def test_rows_hold_means_gains_and_images() -> None:
    row = compared().as_dict()["conditions"][2]
    assert row["degraded_db"]["mean"] == pytest.approx(24)
    assert row["teacher_gain_db"] == pytest.approx({"mean": 1.0, "low": 1.0, "high": 1.0})
    assert row["student_gain_db"]["mean"] == pytest.approx(0.2)
    # The mean of any draw of images lies between the best and the worst one.
    assert -1.3001 < row["difference_db"]["low"] < -0.8 < row["difference_db"]["high"] < -0.3999
    assert row["psnr_db"]["degraded"] == [20.0, 24.0, 28.0]


def flat(name: str, degraded: int, clean: int, dtype: type = np.uint8) -> ImagePair:
    made = (np.full((20, 30, 3), value, dtype) for value in (degraded, clean))
    return ImagePair(name=name, degraded=next(made), clean=next(made))


def test_every_image_is_scored_on_its_center_crop() -> None:
    seen: list[tuple[int, ...]] = []

    def darker(image: RgbImage) -> RgbImage:
        seen.append(image.shape)
        return image - np.uint8(5)

    images = [flat("a", 100, 90), flat("b", 257 * 100, 257 * 92, np.uint16)]
    found = condition_psnrs_db(darker, images, CONDITIONS[:2], size=(16, 16))
    expected = [20 * math.log10(255 / off) for off in (5, 3)]
    assert found == [pytest.approx(expected)] * 2
    assert seen == [(16, 16, 3)] * 4


def test_a_perfect_image_has_a_finite_score() -> None:
    assert condition_psnrs_db(lambda image: image, [flat("a", 9, 9)], CONDITIONS[:1], size=(8, 8)) == [[MOST_DB]]


def test_a_network_that_diverges_scores_nothing() -> None:
    def diverges(image: RgbImage) -> RgbImage:
        raise ImageError("not finite")

    assert condition_psnrs_db(diverges, [flat("a", 9, 9)], CONDITIONS[:1], size=(8, 8)) == [[0.0]]


def test_a_student_that_is_always_as_far_behind_breaks_nowhere() -> None:
    """Every real condition, with a teacher that returns what it gets and a student 1 dB behind it everywhere."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (48, 48, 3)).astype(np.uint8)
    image = ImagePair(name="a", degraded=clean[::-1].copy(), clean=clean)
    conditions = conditions_of(DataConfig())
    psnrs = condition_psnrs_db(lambda x: x, [image], conditions, size=(32, 32))
    middle = (slice(8, 40), slice(8, 40))
    assert psnrs[0] == pytest.approx([peak_signal_noise_ratio(clean[middle], image.degraded[middle], data_range=255)])
    behind = [[psnr - 1 for psnr in row] for row in psnrs]
    found = Generalization.of(conditions, {"degraded": psnrs, "teacher": psnrs, "student": behind}, ["a"], (32, 32))
    assert len(found.scores) == len(conditions)
    for row in found.as_dict()["conditions"]:
        assert row["teacher_gain_db"]["mean"] == 0
        assert row["difference_db"]["mean"] == row["student_gain_db"]["mean"] == pytest.approx(-1)
        assert row["difference_to_trained_db"]["mean"] == pytest.approx(0)
        assert not row["breaks_sooner"]


def test_images_are_spread_over_the_list() -> None:
    images = [flat(str(i), 1, 2) for i in range(10)]
    assert [image.name for image in spread_over(images, 3)] == ["0", "3", "6"]
    assert len(spread_over(images, 30)) == 10


def test_an_estimate_is_of_pairs() -> None:
    assert Estimate.of([3.0, 5.0], [1.0, 3.0]) == Estimate(2.0, 2.0, 2.0)
    with pytest.raises(DatasetError, match="in pairs"):
        Estimate.of([1.0], [1.0, 2.0])
