import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairat_lightning.dro import capped, chi2_worst_weights, hedge, kl_worst_case, kl_worst_weights


def solve(scores: np.ndarray, radius: float) -> np.ndarray:
    """The published convex program: max p.a subject to KL(uniform || p) <= radius."""
    count = len(scores)
    p = cp.Variable(count, pos=True)
    u = np.full(count, 1 / count)
    problem = cp.Problem(
        cp.Maximize(p @ scores),
        [cp.sum(p) == 1, cp.sum(cp.multiply(u, -cp.log(p))) + float(u @ np.log(u)) <= radius],
    )
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    found = np.asarray(p.value)
    for score in np.unique(scores):  # equal scores have equal weights; on some processors the solver leaves them a little apart
        found[scores == score] = found[scores == score].mean()
    return found


@pytest.mark.parametrize("seed", range(300))
def test_agrees_with_a_convex_solver(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 40))
    radius = float(10 ** rng.uniform(-3, 0.5))
    scores = rng.uniform(-1, 1, count) * 10 ** rng.uniform(-1, 1)
    if seed % 5 == 0:  # ties at the top
        scores[: count // 2] = scores.max()
        if np.ptp(scores) == 0:
            scores[-1] -= 0.5
    ours = kl_worst_case(torch.tensor(scores), radius).numpy()
    assert np.abs(ours - solve(scores, radius)).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 3, 10, 100, 1000])
@pytest.mark.parametrize("radius", [1e-8, 0.01, 0.5, 3.0, 50.0, 2000.0])
def test_lies_on_the_ball_and_prefers_high_scores(dtype, count, radius):
    scores = torch.rand(count, dtype=dtype) * 2 - 1
    p = kl_worst_case(scores, radius)
    assert p.dtype == dtype and (p >= 0).all()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    order = scores.argsort()
    assert (p[order].diff() >= -1e-7).all()
    if radius < 10:
        q = kl_worst_case(scores.double(), radius)
        assert (-(q * count).log()).mean().item() == pytest.approx(radius, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("scale,shift", [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e3)])
def test_does_not_depend_on_scale_and_shift(scale, shift):
    scores = torch.rand(10, dtype=torch.float64)
    torch.testing.assert_close(kl_worst_case(scores * scale + shift, 0.5), kl_worst_case(scores, 0.5), atol=1e-7, rtol=0)


def test_absent_classes_get_nothing_and_change_nothing():
    scores = torch.rand(10, dtype=torch.float64)
    holes = torch.cat([scores, torch.full((5,), torch.nan)])[torch.randperm(15)]
    p = kl_worst_case(holes, 0.5)
    assert (p[holes.isnan()] == 0).all()
    whole = kl_worst_case(scores, 0.5).sort().values
    torch.testing.assert_close(p[~holes.isnan()].sort().values, whole, rtol=0, atol=1e-12)
    one = torch.tensor([torch.nan, 0.3, torch.nan])
    assert kl_worst_case(one, 0.5).tolist() == [0, 1, 0]


def test_limits():
    scores = torch.tensor([0.1, 0.9, 0.9, torch.nan, -2.0])
    assert kl_worst_case(scores, 0).tolist() == [0.25, 0.25, 0.25, 0, 0.25]
    assert kl_worst_case(scores, math.inf).tolist() == [0, 0.5, 0.5, 0, 0]
    assert kl_worst_case(torch.full((7,), 0.3), 0.5).tolist() == pytest.approx([1 / 7] * 7)
    assert kl_worst_case(torch.full((7,), 0.3), math.inf).tolist() == pytest.approx([1 / 7] * 7)
    for bad in ([torch.nan] * 3, [1.0, torch.inf, 0.0], [1.0, -torch.inf, torch.nan]):
        assert kl_worst_case(torch.tensor(bad), 0.5).isnan().all()
        assert kl_worst_case(torch.tensor(bad), 0.0).isnan().all()
        assert kl_worst_case(torch.tensor(bad), math.inf).isnan().all()
    assert kl_worst_case(torch.tensor([-1e308, 1e308], dtype=torch.float64), 0.5).isfinite().all()
    with pytest.raises(ValueError, match="floating"):
        kl_worst_case(torch.tensor([1, 2, 3]), 0.5)
    for radius in (-0.1, math.nan):
        with pytest.raises(ValueError, match="radius"):
            kl_worst_case(scores, radius)


def test_weights_are_exactly_one_at_radius_zero():
    for count in range(1, 200):
        assert torch.equal(kl_worst_weights(torch.rand(count), 0.0), torch.ones(count))


def test_no_gradient_flows_through():
    scores = torch.rand(5, requires_grad=True)
    assert not kl_worst_case(scores, 0.5).requires_grad


class NoSync(TorchDispatchMode):
    """Fails where a value would travel from the device to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), func
        return func(*args, **(kwargs or {}))


def test_never_waits_for_the_device():
    scores = torch.rand(10)
    with pytest.raises(AssertionError), NoSync():
        scores[0].item()
    for radius in (0.0, 0.5, math.inf):
        with NoSync():
            kl_worst_case(scores, radius)


def solve_chi2(scores: np.ndarray, radius: float) -> np.ndarray:
    """K q* for max q.a subject to (1/K) sum (K q_k - 1)^2 <= radius."""
    count = len(scores)
    w = cp.Variable(count, nonneg=True)
    problem = cp.Problem(cp.Maximize(w @ scores), [cp.sum(w) == count, cp.norm(w - 1) <= (radius * count) ** 0.5])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return np.asarray(w.value)


def chi2(scores, radius: float) -> np.ndarray:
    return chi2_worst_weights(torch.as_tensor(scores, dtype=torch.float64), radius).numpy()


@pytest.mark.parametrize("seed", range(200))
def test_chi_square_weights_agree_with_a_convex_solver(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.choice([2, 3, 5, 10, 40, 200]))
    radius = float(10 ** rng.uniform(-3, np.log10(1.2 * count)))  # past K - 1 all mass may lie on one class
    scores = rng.uniform(-1, 1, count)
    if seed % 4 == 0:
        scores = np.round(4 * scores) / 4  # ties
        scores[0] = 1.5
    expected = solve_chi2(scores, radius)
    found = chi2(scores, radius)
    assert found.sum() == pytest.approx(count) and (found >= 0).all()
    assert ((found - 1) ** 2).mean() <= radius * (1 + 1e-6)
    assert found @ scores == pytest.approx(expected @ scores, rel=1e-6, abs=1e-7 * count)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.sqrt(radius * count))


def test_chi_square_weights_where_some_are_zero_by_hand():
    """Two classes stay: 3/2 +- s with 2 s^2 = 3 (1 + rho) - 9/2. From rho = 2 on one is left; on ties, their number."""
    s = np.sqrt((3 * 2.2 - 4.5) / 2)
    assert chi2([0.0, 3.0, 4.0], 1.2).tolist() == pytest.approx([0, 1.5 - s, 1.5 + s], abs=1e-6)
    for radius in (2.0, 2.5, 1e6):
        assert chi2([0.0, 3.0, 4.0], radius).tolist() == pytest.approx([0, 0, 3], abs=1e-6)
    for radius in (0.5, 0.6, 100.0):
        assert chi2([4.0, 0.0, 4.0], radius).tolist() == pytest.approx([1.5, 0, 1.5], abs=1e-6)
    s = np.sqrt(0.02)
    assert chi2([4.0, 0.0, 4.0], 0.02).tolist() == pytest.approx([1 + s / 2**0.5, 1 - s * 2**0.5, 1 + s / 2**0.5], abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 10, 200])
@pytest.mark.parametrize("radius", [1e-12, 1e-8, 1e-6, 1e-3])
def test_chi_square_weights_of_small_radii_are_linear_in_the_scores(count, radius):
    """1 + sqrt(radius) (a - mean a) / std a while none is 0."""
    scores = np.random.default_rng(count).uniform(-1, 1, count)
    expected = radius**0.5 * (scores - scores.mean()) / scores.std()
    np.testing.assert_allclose(chi2(scores, radius) - 1, expected, rtol=1e-3, atol=1e-3 * radius**0.5)


@pytest.mark.parametrize("radius", [1e-3, 0.5, 3.0, 1e4])
@pytest.mark.parametrize("scale,shift", [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e3), (-1e-300, 0.0)])
def test_chi_square_weights_do_not_depend_on_scale_and_shift(scale, shift, radius):
    scores = np.random.default_rng(0).random(10)
    moved = chi2(scores * scale + shift, radius)
    np.testing.assert_allclose(moved, chi2(np.sign(scale) * scores, radius), atol=1e-6)
    assert np.abs(moved - 1).max() > 0.01


@pytest.mark.parametrize("radius", [0.0, 0.1, 0.5, 3.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chi_square_weights_absent_classes_get_nothing_and_change_nothing(radius, dtype):
    scores = torch.rand(10, dtype=dtype)
    holes = torch.cat([scores, torch.full((5,), torch.nan, dtype=dtype)])[torch.randperm(15)]
    found = chi2_worst_weights(holes, radius)
    assert found.dtype == dtype and (found[holes.isnan()] == 0).all()
    whole = chi2_worst_weights(scores, radius).sort().values
    torch.testing.assert_close(found[~holes.isnan()].sort().values, whole, rtol=0, atol=1e-6)
    assert whole.mean().item() == pytest.approx(1, abs=1e-6)
    assert chi2_worst_weights(torch.tensor([torch.nan, 0.3, torch.nan], dtype=dtype), radius).tolist() == [0, 1, 0]


def test_chi_square_weights_are_exactly_one_at_radius_zero_and_for_equal_scores():
    for count in range(1, 201):
        assert torch.equal(chi2_worst_weights(torch.rand(count), 0.0), torch.ones(count))
        assert torch.equal(chi2_worst_weights(torch.full((count,), 0.3), 0.5), torch.ones(count))
    assert chi2_worst_weights(torch.tensor([0.2, torch.nan, 0.7]), 0.0).tolist() == [1, 0, 1]


@pytest.mark.parametrize("count", [2, 3, 10, 200])
def test_chi_square_weights_at_the_radii_where_a_class_drops_out(count):
    """Right at, below and above the radius where the lowest weight is 0: no jump."""
    scores = np.random.default_rng(count).random(count)
    radius = (scores.std() / (scores.mean() - scores.min())) ** 2
    at = chi2(scores, radius)
    assert at[scores.argmin()] == pytest.approx(0, abs=1e-6)
    for factor in (1 - 1e-12, 1 - 1e-7, 1 + 1e-12, 1 + 1e-7):
        np.testing.assert_allclose(chi2(scores, factor * radius), at, atol=1e-5)


def test_chi_square_weights_carry_no_gradient_and_never_wait_for_the_device():
    scores = torch.rand(10, requires_grad=True)
    for radius in (0.0, 0.5, 20.0):
        with NoSync():
            found = chi2_worst_weights(scores, radius)
        assert not found.requires_grad


@pytest.mark.parametrize("radius", [-0.1, math.nan, math.inf])
def test_chi_square_radius_is_checked(radius):
    with pytest.raises(ValueError, match="radius"):
        chi2_worst_weights(torch.rand(3), radius)


@pytest.mark.parametrize("count", [1, 2, 10, 200])
@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0, 50.0])
def test_hedge_is_exponential_weights(count, rate):
    rng = np.random.default_rng(count)
    gains = rng.normal(size=count)
    expected = np.exp(rate * gains) / np.exp(rate * gains).sum()
    np.testing.assert_allclose(hedge(torch.tensor(gains), rate).numpy(), expected, atol=1e-12)
    moved = hedge(torch.tensor(gains) + 1e4, rate)  # no overflow, and only differences count
    np.testing.assert_allclose(moved.numpy(), expected, atol=1e-8)
    single = hedge(torch.tensor(gains, dtype=torch.float32), rate)
    assert single.dtype == torch.float32 and single.sum().item() == pytest.approx(1)


def test_hedge_gives_nothing_to_minus_infinity():
    assert hedge(torch.tensor([0.0, -torch.inf, 0.0])).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("count", [1, 2, 10, 200])
@pytest.mark.parametrize("limit", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("seed", range(3))
def test_capped_values_are_positive_and_their_sum_is_within_the_limit(count, limit, seed):
    values = np.random.default_rng(seed).normal(size=count)
    found = capped(torch.tensor(values), limit).numpy()
    positive = np.maximum(values, 0)
    expected = positive * (limit / positive.sum()) if positive.sum() > limit else positive
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (found >= 0).all() and found.sum() <= limit * (1 + 1e-12)


def test_capped_limits():
    assert capped(torch.tensor([-1.0, -2.0, 0.0]), 0.5).tolist() == [0, 0, 0]
    inside = torch.tensor([0.1, 0.2, 0.0])
    assert torch.equal(capped(inside, 0.5), inside)  # to the bit
    assert capped(torch.tensor([3.0, -9.0, 1.0]), 2.0).tolist() == pytest.approx([1.5, 0, 0.5])


def test_chi2_of_nothing_or_of_infinite_scores_is_nan_and_integers_are_refused():
    assert chi2_worst_weights(torch.full((3,), torch.nan), 0.5).isnan().all()
    assert chi2_worst_weights(torch.tensor([1.0, torch.inf, 0.0]), 0.5).isnan().all()
    with pytest.raises(ValueError, match="floating"):
        chi2_worst_weights(torch.arange(3), 0.5)


@pytest.mark.parametrize("radius", [1e-8, 1e-3, 0.5, 20.0, 100.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_weights_are_those_of_a_long_bisection_to_nine_digits(classes, radius):
    torch.manual_seed(classes)
    for shape in (1.0, 3.0, 0.3):
        scores = torch.rand(classes).double() ** shape - 0.7
        b = (scores.max() - scores) / (scores.max() - scores.min())
        low, high = -700.0, 60.0
        for _ in range(200):
            middle = (low + high) / 2
            ratio = b * math.exp(-middle)
            divergence = (1 / (1 + ratio)).mean().log() + ratio.log1p().mean()
            low, high = (middle, high) if divergence >= radius else (low, middle)
        weights = 1 / (1 + b * math.exp(-low))
        torch.testing.assert_close(kl_worst_weights(scores, radius), weights / weights.mean(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("radius", [1e-14, 1e-17, 1e-30, 1e-300])
def test_a_radius_below_rounding_is_uniform(radius):
    for classes in (2, 10, 1000):
        weights = kl_worst_weights(torch.rand(classes).double(), radius)
        torch.testing.assert_close(weights, torch.ones(classes).double(), rtol=0, atol=1e-5)


def test_deterministic_algorithms_give_the_same_chi_square_weights():
    scores = torch.randn(100, dtype=torch.float64)
    plain = chi2_worst_weights(scores, 0.3)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.allclose(chi2_worst_weights(scores, 0.3), plain, rtol=1e-9, atol=1e-12)
    finally:
        torch.use_deterministic_algorithms(False)
