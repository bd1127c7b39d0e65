"""What holds for every test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums come out alike on every machine, and the suite does not crowd it."""
    torch.set_num_threads(1)
