"""Teacher and student under conditions that they were not trained for, side by side and image by image.

A smaller network may do as well as its teacher on what both were trained for and fail earlier elsewhere. So each
condition has the paired difference between the two, and how far that is from their difference as trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netgraft.data.conditions import Condition, views_of
from netgraft.data.images import ImagePair
from netgraft.errors import ImageError
from netgraft.evaluate import eight_bits
from netgraft.imaging import RgbImage, psnr_db
from netgraft.intervals import Estimate

DEGRADED, TEACHER, STUDENT = NETWORKS = ("degraded", "teacher", "student")
"""What is scored; the degraded images as they are stand for doing nothing."""
MOST_DB = 100.0
"""PSNR counts at most so much, so that a window that is black or white throughout has a finite one."""
MATTERS_DB = 0.05
"""A student that loses less than this beyond what it loses as trained does not break, however sure that is."""

Psnrs = Sequence[Sequence[float]]
"""PSNR in dB by condition and image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionScores:
    """What a condition leaves of the networks' quality."""

    kind: str
    name: str
    difficulty: int
    """Place within its kind, the easiest first; equal ones have no order."""
    trained_on: bool
    """Whether the training crops were degraded so."""
    psnr_db: Mapping[str, Sequence[float]]
    """PSNR of every image, of ``degraded``, ``teacher`` and ``student``."""
    difference_db: Estimate
    """Student less teacher; negative where the student is worse."""
    difference_to_trained_db: Estimate
    """How far that is from the same as trained, image by image; negative where the student falls behind."""

    @property
    def breaks_sooner(self) -> bool:
        """Whether the student falls further behind than as trained: surely, and by more than :data:`MATTERS_DB`."""
        return self.difference_to_trained_db.high < 0 and self.difference_to_trained_db.mean < -MATTERS_DB

    def as_row(self) -> dict[str, Any]:
        """Plain data, for JSON: every mean with its interval, and the images behind them."""
        means = {f"{name}_db": Estimate.of(self.psnr_db[name]).as_dict() for name in NETWORKS}
        gains = {
            f"{name}_gain_db": Estimate.of(self.psnr_db[name], self.psnr_db[DEGRADED]).as_dict()
            for name in (TEACHER, STUDENT)
        }
        return {
            "kind": self.kind,
            "name": self.name,
            "difficulty": self.difficulty,
            "trained_on": self.trained_on,
            **means,
            **gains,
            "difference_db": self.difference_db.as_dict(),
            "difference_to_trained_db": self.difference_to_trained_db.as_dict(),
            "breaks_sooner": self.breaks_sooner,
            "psnr_db": {name: list(values) for name, values in self.psnr_db.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Generalization:
    """Teacher and student under every condition."""

    images: Sequence[str]
    """Names of the test images that the crops are from."""
    size: tuple[int, int]
    """Height and width of the center crops, in pixels."""
    scores: tuple[ConditionScores, ...]
    """By condition; as trained comes first."""

    @staticmethod
    def of(
        conditions: Sequence[Condition], psnrs_db: Mapping[str, Psnrs], images: Sequence[str], size: tuple[int, int]
    ) -> Generalization:
        """Compare what :func:`condition_psnrs_db` found of each of :data:`NETWORKS`; as trained comes first."""
        trained = [s - t for s, t in zip(psnrs_db[STUDENT][0], psnrs_db[TEACHER][0], strict=True)]
        scores = []
        for number, condition in enumerate(conditions):
            own = {name: tuple(psnrs_db[name][number]) for name in NETWORKS}
            gaps = [s - t for s, t in zip(own[STUDENT], own[TEACHER], strict=True)]
            scores.append(
                ConditionScores(
                    kind=condition.kind,
                    name=condition.name,
                    difficulty=condition.difficulty,
                    trained_on=condition.trained_on,
                    psnr_db=own,
                    difference_db=Estimate.of(gaps),
                    difference_to_trained_db=Estimate.of(gaps, trained),
                )
            )
        return Generalization(images=tuple(images), size=size, scores=tuple(scores))

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "images": list(self.images),
            "size": list(self.size),
            "matters_db": MATTERS_DB,
            "conditions": [row.as_row() for row in self.scores],
        }


def condition_psnrs_db(
    restore: Callable[[RgbImage], RgbImage],
    images: Sequence[ImagePair],
    conditions: Sequence[Condition],
    *,
    size: tuple[int, int],
    seed: int = 0,
    progress: Callable[[int], object] = lambda done: None,
) -> list[list[float]]:
    """PSNR in dB of every image's center crop under every condition, 8-bit rounded; progress: conditions done.

    restore: (h, w, 3) uint8 -> the same. images: uint8 or uint16, which is rounded to 8 bits first. A network whose
    output is not finite scores 0 dB there.
    """
    pairs = [
        ImagePair(name=image.name, degraded=eight_bits(image.degraded), clean=eight_bits(image.clean))
        for image in images
    ]
    found = []
    for done, condition in enumerate(conditions):
        progress(done)
        found.append([_psnr_db(restore, view) for view in views_of(pairs, condition, size=size, seed=seed)])
    return found


def _psnr_db(restore: Callable[[RgbImage], RgbImage], view: ImagePair) -> float:
    try:
        return min(MOST_DB, psnr_db(restore(view.degraded), view.clean))
    except ImageError:
        return 0.0


def spread_over(images: Sequence[ImagePair], count: int) -> list[ImagePair]:
    """At most ``count`` images, evenly over the list."""
    count = min(count, len(images))
    return [images[number * len(images) // count] for number in range(count)]
