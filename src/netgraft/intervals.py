"""A mean over images, with what the choice of images alone could have made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from netgraft.evaluate import paired_interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over images with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float], less: Sequence[float] | None = None) -> Estimate:
        """The mean of ``values``, or of what they are above ``less``, image by image.

        The interval resamples images. Of fewer than about ten it comes out too narrow.

        Raises:
            DatasetError: there are no values, or not as many of both.
        """
        others = [0.0] * len(values) if less is None else less
        low, high = paired_interval(values, others)
        return Estimate(float(np.mean(np.subtract(values, others))), low, high)

    def as_dict(self) -> dict[str, float]:
        """Plain data, for JSON."""
        return asdict(self)
