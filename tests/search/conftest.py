from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

Problem = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices are slower on several threads, and the machine has other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """Makes objectives that are random sums over sites plus interactions of consecutive sites."""

    def make(cardinalities: list[int], objectives: int = 2, strength: float = 0.0, seed: int = 0) -> Problem:
        rng = np.random.default_rng(seed)
        effects = [rng.gamma(1.5, 1.0, (k, objectives)) for k in cardinalities]
        tables = [strength * rng.standard_normal((a, b, objectives)) for a, b in pairwise(cardinalities)]

        def evaluate(rows: np.ndarray) -> np.ndarray:
            total = sum(effect[rows[:, site]] for site, effect in enumerate(effects))
            for site, table in enumerate(tables):
                total = total + table[rows[:, site], rows[:, site + 1]]
            return np.asarray(total)

        return evaluate

    return make
