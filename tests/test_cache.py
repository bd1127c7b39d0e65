"""The cache holds its bound, gives back what was put, and lets the cheapest byte go first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netgraft.cache import GreedyDualCache


def test_what_is_cheapest_to_compute_a_byte_goes_first() -> None:
    cache = GreedyDualCache(30)
    cache.put("a", 1, nbytes=10, seconds=5.0)
    cache.put("b", 2, nbytes=10, seconds=1.0)
    cache.put("c", 3, nbytes=10, seconds=3.0)
    cache.put("d", 4, nbytes=10, seconds=2.0)
    assert "b" not in cache
    assert [cache.get(key) for key in "abcd"] == [1, None, 3, 4]


def test_use_counts() -> None:
    """Used three times, 1 second weighs more than 2 used once."""
    cache = GreedyDualCache(20)
    cache.put("often", 1, nbytes=10, seconds=1.0)
    cache.put("once", 2, nbytes=10, seconds=2.0)
    cache.get("often")
    cache.get("often")
    cache.put("new", 3, nbytes=10, seconds=9.0)
    assert "often" in cache
    assert "once" not in cache


def test_what_is_not_asked_for_any_more_ages() -> None:
    """Every eviction sets the floor that newcomers of 1 start from to the last one's: 1, 2, and so on past the 10."""
    cache = GreedyDualCache(20)
    cache.put("old", 0, nbytes=10, seconds=100.0)
    for number in range(10):
        cache.put(number, number, nbytes=10, seconds=10.0)
        assert "old" in cache
    for number in range(10, 12):
        cache.put(number, number, nbytes=10, seconds=10.0)
    assert "old" not in cache


def test_a_value_that_does_not_fit_leaves_the_others_alone() -> None:
    cache = GreedyDualCache(20)
    cache.put("a", 1, nbytes=20, seconds=1.0)
    cache.put("huge", 2, nbytes=21, seconds=1e9)
    assert cache.get("a") == 1
    assert "huge" not in cache


def test_a_value_put_again_takes_the_place_of_the_first() -> None:
    cache = GreedyDualCache(20)
    cache.put("a", 1, nbytes=10, seconds=1.0)
    cache.put("a", 2, nbytes=15, seconds=1.0)
    assert cache.get("a") == 2
    assert (cache.nbytes, cache.peak_bytes, len(cache)) == (15, 15, 1)


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 30), st.floats(0, 5)), max_size=80),
)
def test_the_bound_always_holds(max_bytes: int, calls: list[tuple[bool, int, int, float]]) -> None:
    """Whatever is put and asked for, the bytes are those of what is held, and what is held is what was put last."""
    cache, last = GreedyDualCache(max_bytes), {}
    for put, key, nbytes, seconds in calls:
        if put:
            last[key] = (nbytes, object())
            cache.put(key, last[key][1], nbytes=nbytes, seconds=seconds)
        else:
            value = cache.get(key)
            assert value is None or value is last[key][1]
        held = [last[key][0] for key in last if key in cache]
        assert cache.nbytes == sum(held) <= cache.peak_bytes <= max_bytes
        assert len(cache) == len(held)
