import math

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairat_lightning.dro import kl_worst_case, kl_worst_weights


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
    return np.asarray(p.value)


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
