import numpy as np
import pytest

from netgraft.search import hybrid, minimize


def test_the_gps_are_doubted_more_the_longer_their_promises_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal costs gain nothing after the design of 8: five failures are forgiven, each further one adds a fifth."""
    widenings = []
    propose = hybrid.propose

    def spy(ledger, gps, rng, widening):  # type: ignore[no-untyped-def]
        widenings.append(widening)
        return propose(ledger, gps, rng, widening)

    monkeypatch.setattr(hybrid, "propose", spy)
    minimize(lambda rows: np.ones((len(rows), 2)), [4] * 5, budget=26, tolerance=0.0)
    assert widenings == pytest.approx([1.0] * 6 + [1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.0, 3.0])


def test_an_improvement_restores_the_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 evaluations only the 16th is better: the eight proposals before it are in vain, the rest start anew."""
    widenings: list[float] = []
    propose = hybrid.propose

    def spy(ledger, gps, rng, widening):  # type: ignore[no-untyped-def]
        widenings.append(widening)
        return propose(ledger, gps, rng, widening)

    evaluations = iter(range(1, 21))
    monkeypatch.setattr(hybrid, "propose", spy)
    minimize(lambda rows: np.full((1, 2), 0.5 if next(evaluations) == 16 else 1.0), [4] * 5, budget=20, tolerance=0.0)
    assert widenings == pytest.approx([1.0] * 6 + [1.2, 1.4] + [1.0] * 4)
