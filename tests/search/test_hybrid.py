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


@pytest.mark.parametrize("large", [8, 9])
def test_one_swap_a_site_comes_first_where_a_site_has_more_options_than_the_design_has_rows(large: int) -> None:
    """The design is of 8, the teacher among them: for 7 rows a site of 8 options is too large."""
    sizes = [large, 4, 1, 4, 4]
    shown = [7, 4, 1, 4, 4]
    for options, swaps in ((sizes, 4), (shown, 0)):
        asked = minimize(lambda rows: rows[:, :2] + 1.0, options, budget=20, tolerance=0.0).assignments[1:8]
        changed = (asked != 0).sum(axis=1)
        if swaps:
            assert changed[:swaps].tolist() == [1] * swaps
            assert len({int(np.flatnonzero(row)[0]) for row in asked[:swaps]}) == swaps
        else:
            assert changed.max() > 2
            assert changed[:4].tolist() != [1] * 4
