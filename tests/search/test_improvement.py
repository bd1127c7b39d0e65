import numpy as np
import pytest

from netgraft.search import hypervolume
from netgraft.search.improvement import boxes_below, expected_improvement


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_without_uncertainty_it_is_the_hypervolume_gained(objectives: int) -> None:
    """Standard deviation 0: adding the point to the front and measuring again gives the same."""
    rng = np.random.default_rng(objectives)
    front, points, reference = (
        rng.random((12, objectives)),
        rng.random((50, objectives)),
        np.full(objectives, 0.9),
    )
    gained = [hypervolume(np.vstack([front, p]), reference) - hypervolume(front, reference) for p in points]
    found = expected_improvement(points, np.zeros_like(points), boxes_below(front, reference))
    assert found == pytest.approx(gained, abs=1e-12)


@pytest.mark.parametrize("objectives", [2, 3])
def test_with_uncertainty_it_is_the_mean_over_samples(objectives: int) -> None:
    """Agrees with Monte Carlo within four standard errors."""
    rng = np.random.default_rng(3)
    front, reference = rng.random((6, objectives)), np.ones(objectives)
    mean, sd = np.full((1, objectives), 0.4), np.full((1, objectives), 0.3)
    exact = expected_improvement(mean, sd, boxes_below(front, reference))[0]
    samples = mean + sd * rng.standard_normal((20_000, objectives))
    gains = expected_improvement(samples, np.zeros_like(samples), boxes_below(front, reference))
    assert abs(gains.mean() - exact) < 4 * gains.std() / np.sqrt(len(gains))


def test_an_empty_front_leaves_one_box_below_the_reference() -> None:
    """A certain point 2 x 3 below the reference wins 6."""
    boxes = boxes_below(np.zeros((0, 2)), np.array([5.0, 5.0]))
    assert expected_improvement(np.array([[3.0, 2.0]]), np.zeros((1, 2)), boxes) == pytest.approx([6.0])
