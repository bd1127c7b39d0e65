import numpy as np
import pytest

from netgraft.search.gp import Gps
from netgraft.search.kernel import Encoder, Kernel
from netgraft.search.space import Space


def slow_kernel(theta: np.ndarray, a: np.ndarray, b: np.ndarray, sizes: list[int]) -> float:
    """The documented sum of parts, with loops over sites and pairs of sites."""
    sites = len(sizes)
    own, pair, length = np.exp(theta[8:]).reshape(3, sites)
    c = [float(a[s] == b[s]) - 1 / sizes[s] for s in range(sites)]
    total = 1.0 + np.exp(theta[0]) / sites * sum(own[s] * c[s] for s in range(sites))
    pairs = sum(pair[s] * c[s] * pair[t] * c[t] for s in range(sites) for t in range(s))
    total += np.exp(theta[1]) * pairs / (sites * (sites - 1) / 2)
    total += np.exp(theta[2]) * sum(c[s] * c[s + 1] for s in range(sites - 1)) / (sites - 1)
    for k in range(max(sizes)):
        expected = sum(1 / size for size in sizes if k < size)
        total += np.exp(theta[3]) * (np.sum(a == k) - expected) * (np.sum(b == k) - expected) / sites
    steps = [(a[s] - b[s]) / max(sizes[s] - 1, 1) / length[s] for s in range(sites)]
    total += np.exp(theta[6]) * np.exp(-0.5 * sum(step**2 for step in steps))
    return float(total + np.exp(theta[4]) * np.exp(-np.sum(a != b) / (sites * np.exp(theta[5]))))


def test_kernel_is_the_documented_sum_over_sites_and_pairs() -> None:
    """The form that is linear in sites equals the one with explicit pairs, its diagonal included."""
    sizes = [3, 2, 4, 1, 3]
    space, rng = Space(tuple(sizes)), np.random.default_rng(0)
    rows = space.random(rng, 6)
    kernel = Kernel(Encoder(space))
    theta = rng.normal(0, 0.5, 8 + 3 * len(sizes))
    relation = kernel.encoder.relate(rows, rows)
    found = kernel(theta, relation)
    expected = np.array([[slow_kernel(theta, a, b, sizes) for b in rows] for a in rows])
    assert found == pytest.approx(expected)
    assert kernel.diagonal(theta, kernel.encoder.shares(relation.a)) == pytest.approx(np.diag(expected))


def test_gradient_of_the_kernel_is_that_of_finite_differences() -> None:
    """Of a random weighted sum of the covariance, for every parameter but the noise, which is not in it."""
    space, rng = Space((3, 2, 4, 1, 3)), np.random.default_rng(1)
    kernel = Kernel(Encoder(space))
    rows = space.random(rng, 6)
    relation = kernel.encoder.relate(rows, rows)
    theta, weights = rng.normal(0, 0.5, 23), rng.normal(size=(6, 6))
    weights = weights + weights.T
    covariance, pullback = kernel.covariance_and_pullback(theta, relation)
    assert covariance == pytest.approx(kernel(theta, relation))
    expected = [
        ((kernel(theta + step, relation) - kernel(theta - step, relation)) * weights).sum() / 2e-5
        for step in 1e-5 * np.eye(23)
    ]
    assert pullback(weights) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_the_prior_is_normal_where_sites_share_and_hyperbolic_at_a_site() -> None:
    """Two standard deviations away: 2**2 / 2, and sqrt(1 + 2**2) - 1; the gradient is that of finite differences."""
    kernel = Kernel(Encoder(Space((3, 2, 4))))
    shared, own = kernel.prior_mean.copy(), kernel.prior_mean.copy()
    shared[1] += 2 * 1.5
    own[8] += 2 * 0.7
    assert kernel.prior_loss(kernel.prior_mean)[0] == 0.0
    assert kernel.prior_loss(shared)[0] == pytest.approx(2.0)
    assert kernel.prior_loss(own)[0] == pytest.approx(np.sqrt(5.0) - 1.0)
    theta = kernel.prior_mean + np.random.default_rng(0).normal(0, 2, 17)
    expected = [
        (kernel.prior_loss(theta + step)[0] - kernel.prior_loss(theta - step)[0]) / 2e-5 for step in 1e-5 * np.eye(17)
    ]
    assert kernel.prior_loss(theta)[1] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def fitted(evaluate, space: Space, n: int) -> tuple[Gps, np.ndarray]:  # type: ignore[no-untyped-def]
    rows = space.latin(np.random.default_rng(0), n)
    gps = Gps(space, [0, 1], 2)
    gps.fit(rows, evaluate(rows), steps=60)
    return gps, rows


def test_it_passes_through_noiseless_evaluations(make_problem) -> None:  # type: ignore[no-untyped-def]
    """At evaluated assignments the mean is the cost and the uncertainty is small."""
    evaluate, space = make_problem([4] * 6), Space((4,) * 6)
    gps, rows = fitted(evaluate, space, 30)
    mean, sd = gps.predict(rows)
    assert np.abs(mean - evaluate(rows)).max() < 0.02 * evaluate(rows).std()
    assert sd.max() < 0.02 * evaluate(rows).std()


def test_it_learns_an_additive_function_and_says_which(make_problem) -> None:  # type: ignore[no-untyped-def]
    """30 evaluations determine 19 parameters: mean and additive model both predict the rest."""
    evaluate, space = make_problem([4] * 6), Space((4,) * 6)
    gps, _ = fitted(evaluate, space, 30)
    rows = space.random(np.random.default_rng(1), 200)
    truth = evaluate(rows)
    mean, _ = gps.predict(rows)
    additive = gps.additive().predict(rows)
    for m in range(2):
        assert np.corrcoef(mean[:, m], truth[:, m])[0, 1] > 0.99
        assert np.corrcoef(additive[:, m], truth[:, m])[0, 1] > 0.98


def test_it_learns_interactions_that_an_additive_model_cannot(make_problem) -> None:  # type: ignore[no-untyped-def]
    """150 evaluations of strong interactions: it halves the additive model's squared error."""
    evaluate, space = make_problem([3] * 5, strength=2.0), Space((3,) * 5)
    gps, _ = fitted(evaluate, space, 150)
    rows = space.random(np.random.default_rng(1), 200)
    truth = evaluate(rows)
    additive = gps.additive().predict(rows)
    additive_error = np.var(additive - truth, axis=0)
    gp_error = np.mean((gps.predict(rows)[0] - truth) ** 2, axis=0)
    assert (gp_error < 0.5 * additive_error).all()


def test_noise_is_recognized() -> None:
    """Noise of standard deviation 0.5 on an additive function is estimated within a factor of two."""
    rng, space = np.random.default_rng(0), Space((3,) * 4)
    rows = space.random(rng, 150)
    values = rows.sum(axis=1, keepdims=True) + 0.5 * rng.standard_normal((150, 1))
    gps = Gps(space, [0], 1)
    gps.fit(rows, values, steps=100)
    assert 0.25 < gps.noise_sd()[0] < 1.0


def test_a_constant_objective_is_predicted_as_that_constant() -> None:
    space = Space((3,) * 4)
    rows = space.latin(np.random.default_rng(0), 12)
    gps = Gps(space, [0], 1)
    gps.fit(rows, np.full((12, 1), 7.0), steps=20)
    assert gps.predict(space.everything())[0] == pytest.approx(7.0)
