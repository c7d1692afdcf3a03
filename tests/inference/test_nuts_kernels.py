"""Trees end where a recursive reading of the criterion says."""

import numpy as np
import pytest

from thalweg.inference._chains import new_chain
from thalweg.inference._density import as_python
from thalweg.inference._hmc_kernels import restart_step, start
from thalweg.inference._nuts_kernels import NutsOptions, extend, new_stack, push, transition

SCALES = np.array([1.0, 0.6, 2.0])


def density(x):
    return -0.5 * ((x / SCALES) ** 2).sum() - 0.005 * (x**4).sum(), -x / SCALES**2 - 0.02 * x**3


def trajectory(q, p, step, inverse_metric, n):
    """Positions and momenta of n leapfrog steps, the start left out."""
    points = []
    for _ in range(n):
        half = p + 0.5 * step * density(q)[1]
        q = q + step * inverse_metric * half
        p = half + 0.5 * step * density(q)[1]
        points.append((q, p))
    return [np.array(rows) for rows in zip(*points, strict=True)]


def goes_on(q, p, inverse_metric, euclidean, sign):
    """Whether no balanced subtree of this one has turned."""
    if len(p) == 1:
        return True
    half = len(p) // 2
    parts = (slice(None, half), slice(half, None))
    if not all(goes_on(q[s], p[s], inverse_metric, euclidean, sign) for s in parts):
        return False
    if euclidean:
        span = sign * (q[-1] - q[0])
        return span @ p[0] > 0 and span @ p[-1] > 0
    v, rho = inverse_metric * p, [p[s].sum(axis=0) for s in parts]
    checks = (
        (v[0], v[-1], rho[0] + rho[1]),
        (v[0], v[half], rho[0] + p[half]),
        (v[half - 1], v[-1], p[half - 1] + rho[1]),
    )
    return all(first @ sums > 0 and last @ sums > 0 for first, last, sums in checks)


def first_end(q, p, inverse_metric, euclidean, sign):
    """Return the step after which a subtree has turned, None if none has."""
    for done in range(2, len(p) + 1):
        size = 2
        while done % size == 0 and size <= len(p):
            part = slice(done - size, done)
            if not goes_on(q[part], p[part], inverse_metric, euclidean, sign):
                return done
            size *= 2
    return None


@pytest.mark.parametrize("euclidean", [False, True], ids=["generalised", "euclidean"])
@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
def test_subtrees_end_where_the_recursive_criterion_says(euclidean, forward):
    rng = np.random.default_rng(5)
    options, stack = NutsOptions(6, euclidean, False), new_stack(7, 3)
    ends = []
    for trial in range(150):
        depth, step = 2 + trial % 4, rng.uniform(0.1, 0.4)
        inverse_metric = rng.uniform(0.3, 3.0, 3)
        chain = new_chain(density, rng.standard_normal(3) * SCALES, inverse_metric[None])
        restart_step(chain.tuning, step)
        stack.uses[:] = 0
        energy = start(chain, stack.points, 0, rng)
        p = stack.points[0, 1].copy()
        push(stack.points, stack.uses, stack.tree, stack.rho, 0, 0)
        valid, diverging, steps, _ = as_python(extend)(
            density, chain, options, stack, forward, depth, energy, 0.0, rng
        )
        sign = 1.0 if forward else -1.0
        reference = trajectory(chain.q, p, sign * step, inverse_metric, 2**depth)
        end = first_end(*reference, inverse_metric, euclidean, sign)
        assert not diverging
        assert (valid, steps) == ((True, 2**depth) if end is None else (False, end))
        ends.append(end)
    # both outcomes must occur for the comparison to say something
    assert 20 < sum(end is None for end in ends) < 130


def test_whole_subtrees_know_their_ends_and_their_sum():
    rng = np.random.default_rng(6)
    chain = new_chain(density, np.array([0.1, 0.0, 0.2]), np.ones((1, 3)))
    restart_step(chain.tuning, 0.01)
    stack = new_stack(5, 3)
    energy = start(chain, stack.points, 0, rng)
    p = stack.points[0, 1].copy()
    push(stack.points, stack.uses, stack.tree, stack.rho, 0, 0)
    valid, _, _, acceptance = as_python(extend)(
        density, chain, NutsOptions(4, False, False), stack, True, 3, energy, 0.0, rng
    )
    q, p = trajectory(chain.q, p, 0.01, np.ones(3), 8)
    first, last, proposal, size = stack.tree[1]
    assert valid
    assert size == 8
    assert acceptance == pytest.approx(8.0, abs=0.01)
    np.testing.assert_allclose(stack.points[first, 0], q[0])
    np.testing.assert_allclose(stack.points[last, 0], q[-1])
    np.testing.assert_allclose(stack.rho[1], p.sum(axis=0))
    assert np.isclose(q, stack.points[proposal, 0]).all(axis=1).any()


def test_trajectories_grow_in_both_directions_alike():
    rng = np.random.default_rng(7)
    chain = new_chain(lambda q: (0.0, np.zeros(2)), np.zeros(2), np.ones((1, 2)))
    restart_step(chain.tuning, 0.1)
    stack = new_stack(2, 2)
    along = 0
    for _ in range(400):
        chain.q[:] = 0.0
        as_python(transition)(
            lambda q: (0.0, np.zeros(2)),
            chain,
            NutsOptions(1, False, False),
            stack,
            rng,
            np.empty(6),
        )
        first, last = stack.tree[0, :2]
        along += (stack.points[last, 0] - stack.points[first, 0]) @ stack.points[first, 1] > 0
    # five standard deviations of a fair coin
    assert abs(along - 200) < 50
