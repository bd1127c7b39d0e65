"""Random crops are a pure function of (seed, index): a training resumes with the pairs that it would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from netgraft.data import (
    Crops,
    CropStage,
    Image,
    PairedSource,
    ShakeModel,
    SyntheticSource,
    Window,
    crop_batches,
    image_tensor,
    list_pairs,
)
from netgraft.errors import DatasetError
from netgraft.imaging import write_image

STAGES = (CropStage(steps=3, size=16, batch=2), CropStage(steps=2, size=24, batch=1))


def coordinates(h: int, w: int, number: int) -> Image:
    """A photograph whose pixels say where they are: red the row, green the column, blue the photograph."""
    y, x = np.mgrid[:h, :w]
    return np.stack([y, x, np.full((h, w), number)], axis=-1).astype(np.uint8)


PHOTOS = [coordinates(40, 60, 1), coordinates(33, 25, 2)]


def nothing(frame: Image, window: Window, rng: np.random.Generator) -> Image:
    """A degradation that leaves the window as it is."""
    return frame[window.top : window.top + window.height, window.left : window.left + window.width]


def batches(seed: int = 0, first_step: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    source = SyntheticSource(PHOTOS, ShakeModel())
    return list(crop_batches(source, STAGES, seed=seed, first_step=first_step))


def test_stages_have_their_steps_and_shapes() -> None:
    shapes = [(tuple(degraded.shape), tuple(clean.shape)) for degraded, clean in batches()]
    assert shapes == [((2, 3, 16, 16),) * 2] * 3 + [((1, 3, 24, 24),) * 2] * 2


@pytest.mark.parametrize("first_step", range(6))
def test_a_training_resumes_exactly(first_step: int) -> None:
    """From the middle of a stage, from its start, and from the very end."""
    whole, rest = batches(), batches(first_step=first_step)
    assert len(rest) == 5 - first_step
    for (degraded, clean), (degraded_again, clean_again) in zip(whole[first_step:], rest, strict=True):
        assert torch.equal(degraded, degraded_again)
        assert torch.equal(clean, clean_again)


def test_crops_depend_on_the_seed_and_differ_within_it() -> None:
    assert not torch.equal(batches(seed=0)[0][1], batches(seed=1)[0][1])
    clean = [image for _, batch in batches() for image in batch]
    first = [image[:, :16, :16].numpy().tobytes() for image in clean]
    assert len(set(first)) == len(first)


def test_a_crop_is_a_part_of_a_photograph() -> None:
    """Rows and columns count by one, turned or not; both photographs are used, and all of their area."""
    crops = Crops(SyntheticSource(PHOTOS, nothing), 16, seed=0)
    corners: dict[int, list[list[int]]] = {1: [], 2: []}
    turned = set()
    for index in range(200):
        degraded, clean = crops[index]
        assert torch.equal(degraded, clean), "what happens to one happens to the other"
        assert clean.dtype == torch.float32
        red, green, blue = (clean * 255).round().int().numpy()
        assert len(np.unique(blue)) == 1
        steps = []
        for channel in (red, green):
            (down,), (right,) = np.unique(np.diff(channel, axis=0)), np.unique(np.diff(channel, axis=1))
            assert abs(down) + abs(right) == 1
            steps += [int(down), int(right)]
        turned.add(tuple(steps))
        corners[int(blue[0, 0])].append([int(red.min()), int(green.min())])
    assert len(turned) == 8, "four turns, each mirrored or not"
    for number, photo in ((1, PHOTOS[0]), (2, PHOTOS[1])):
        found, last = np.array(corners[number]), np.array(photo.shape[:2]) - 16
        assert (found >= 0).all()
        assert (found <= last).all()
        assert (found.min(axis=0) <= 0.15 * last).all()
        assert (found.max(axis=0) >= 0.85 * last).all()


def test_crops_of_pairs_match(tmp_path: Path) -> None:
    """The degraded image holds the clean one's rows and columns plus 100: so do all crops."""
    for folder, offset in (("degraded", 100), ("clean", 0)):
        (tmp_path / folder).mkdir()
        for number, photo in enumerate(PHOTOS):
            write_image(tmp_path / folder / f"{number}.png", photo + np.uint8(offset))
    crops = Crops(PairedSource(list_pairs("folder", tmp_path)), 20, seed=3)
    photos = set()
    for index in range(20):
        degraded, clean = crops[index]
        assert torch.equal((degraded * 255).round(), (clean * 255).round() + 100)
        photos.add(round(clean[2, 0, 0].item() * 255))
    assert photos == {1, 2}


def test_a_crop_as_large_as_the_photograph_is_possible_but_none_larger() -> None:
    source = SyntheticSource([coordinates(16, 16, 1)], nothing)
    _, clean = Crops(source, 16, seed=0)[7]
    rows_or_columns = (clean[0] * 255).round().int().unique().tolist()
    assert rows_or_columns == list(range(16))
    with pytest.raises(DatasetError, match="smaller than the crops of 17"):
        Crops(source, 17, seed=0)[7]


def test_images_become_tensors_between_black_and_white() -> None:
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535)):
        image = np.array([[[0, white, 0], [white // 5, 0, 0]]], dtype)
        tensor = image_tensor(image)
        assert tensor.shape == (3, 1, 2)
        assert tensor[0].tolist() == [[0, pytest.approx(0.2)]]
        assert tensor[1].tolist() == [[1, 0]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_one_line_wherever_it_happens(workers: int) -> None:
    """A worker process hands over its traceback; the user sees what happened and no more."""
    source = SyntheticSource([coordinates(16, 20, 1)], ShakeModel())
    stage = CropStage(steps=1, size=17, batch=1)
    with pytest.raises(DatasetError) as caught:
        list(crop_batches(source, [stage], seed=0, workers=workers))
    assert str(caught.value) == "an image of 20x16 pixels is smaller than the crops of 17: use smaller crops"


def test_the_callers_randomness_is_left_alone() -> None:
    random = torch.get_rng_state()
    batches()
    assert torch.equal(torch.get_rng_state(), random)
