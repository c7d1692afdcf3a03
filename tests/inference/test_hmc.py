"""Hamiltonian samplers leave their targets unchanged, and say when they cannot."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from numba import njit
from scipy import stats

from thalweg.inference import (
    find_reasonable_step_size,
    from_torch,
    leapfrog,
    mcse,
    sample_hmc,
    sample_nuts,
)

RAW = {"n_warmup": 0, "adapt": False}
VARIANTS = [
    {"criterion": "generalised", "sampling": "multinomial"},
    {"criterion": "euclidean", "sampling": "multinomial"},
    {"criterion": "generalised", "sampling": "slice"},
    {"criterion": "euclidean", "sampling": "slice"},
]


@njit(cache=True)
def normal(x):
    return -0.5 * (x @ x), -x


@njit(cache=True)
def logistic(x):
    """Independent logistic distributions."""
    tail = np.exp(-np.abs(x))
    return -(np.abs(x) + 2.0 * np.log1p(tail)).sum(), -np.sign(x) * (1.0 - tail) / (1.0 + tail)


@njit(cache=True)
def gumbel(x):
    tail = np.exp(-x)
    return -(x + tail).sum(), tail - 1.0


@njit(cache=True)
def stretched(x):
    """Standard deviations 1, 0.1 and 10."""
    precision = np.array([1.0, 100.0, 0.01])
    return -0.5 * (precision * x * x).sum(), -precision * x


@njit(cache=True)
def flat(x):
    return 0.0, np.zeros_like(x)


@njit(cache=True)
def fails_far_out(x):
    if abs(x[0]) > 1.5:
        raise ArithmeticError("no value there")
    return -0.5 * (x @ x), -x


@njit(cache=True)
def hills(x):
    """Not normal, correlated, with tails of x^4."""
    a, b = x[0], x[1]
    value = -0.25 * a**4 - 0.5 * (b - a * a) ** 2
    return value, np.array([-(a**3) + 2.0 * a * (b - a * a), -(b - a * a)])


def chi2_of_normal(draws):
    edges = stats.norm.ppf(np.linspace(0, 1, 21))[1:-1]
    counts = np.bincount(np.searchsorted(edges, draws), minlength=20)
    return stats.chisquare(counts).pvalue


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_nuts_leaves_the_normal_distribution_at_a_coarse_step(variant):
    result = sample_nuts(
        normal, [0.1], **RAW, step_size=1.3, n_draws=200_000, chains=1, rng=1, **variant
    )
    # every fifth draw: their correlation is below 0.01
    assert chi2_of_normal(result.samples[0, ::5, 0]) > 1e-4


@pytest.mark.parametrize("sampling", ["metropolis", "multinomial"])
def test_static_hmc_leaves_the_normal_distribution_at_a_coarse_step(sampling):
    # at 1.7 the weights along a trajectory differ most: near the limit of stability, 2
    result = sample_hmc(
        normal,
        [0.1],
        **RAW,
        step_size=1.7,
        n_leapfrog=3,
        jitter=0.0,
        sampling=sampling,
        n_draws=200_000,
        chains=1,
        rng=1,
    )
    assert chi2_of_normal(result.samples[0, ::10, 0]) > 1e-4


@pytest.mark.parametrize(
    ("density", "law", "step"),
    [
        (normal, stats.norm, 0.9),
        (logistic, stats.logistic, 1.6),
        (gumbel, stats.gumbel_r, 0.7),
    ],
    ids=["normal", "logistic", "gumbel"],
)
def test_one_transition_from_exact_draws_leaves_the_marginals(density, law, step):
    starts = law.rvs(size=(10_000, 2), random_state=3)
    result = sample_nuts(
        density, starts, **RAW, step_size=step, n_draws=1, chains=len(starts), rng=4
    )
    assert (result.samples[:, 0] != starts).any(axis=1).mean() > 0.9
    for i in range(2):
        assert stats.kstest(result.samples[:, 0, i], law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("sampling", ["multinomial", "slice"])
def test_moments_of_a_target_that_is_not_normal(sampling):
    result = sample_nuts(hills, [0.5, 0.5], n_draws=10_000, sampling=sampling, rng=5)
    # a has density exp(-a^4/4) up to a factor, and b - a^2 is standard normal
    a = np.linspace(-8, 8, 20_001)
    weight = np.exp(-0.25 * a**4)
    for moment, power in ((result.samples[..., 0] ** 2, 2), (result.samples[..., 0] ** 4, 4)):
        exact = (weight * a**power).sum() / weight.sum()
        assert abs(moment.mean() - exact) < 4.5 * mcse(moment)
    rest = result.samples[..., 1] - result.samples[..., 0] ** 2
    assert abs((rest**2).mean() - 1.0) < 4.5 * mcse(rest**2)


@pytest.mark.parametrize("metric", ["diag", "dense"])
def test_warm_up_learns_the_scales_of_the_target(metric):
    result = sample_nuts(stretched, np.ones(3), metric=metric, n_draws=2000, rng=6)
    learned = result.inverse_metric
    variances = learned if metric == "diag" else np.diagonal(learned, axis1=1, axis2=2)
    # 500 draws in the last window: a variance is known to about 8 %
    np.testing.assert_allclose(variances, np.tile([1.0, 0.01, 100.0], (4, 1)), rtol=0.5)
    np.testing.assert_allclose(result.summary()["sd"], [1.0, 0.1, 10.0], rtol=0.1)


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_dual_averaging_reaches_the_target_acceptance(target):
    result = sample_nuts(normal, np.zeros(50), target_accept=target, metric="unit", rng=2)
    assert abs(result.acceptance.mean() - target) < 0.05


def test_chains_agree_on_the_step_size_because_it_is_averaged():
    result = sample_nuts(normal, np.zeros(10), n_warmup=300, n_draws=1, chains=8, rng=3)
    # the last steps of dual averaging scatter several times as much
    assert np.log(result.step_size).std() < 0.15


def test_a_flat_density_grows_the_tree_to_its_largest_depth():
    result = sample_nuts(flat, np.zeros(2), **RAW, step_size=0.1, n_draws=5, max_depth=6, rng=0)
    assert (result.tree_depth == 6).all()
    assert (result.n_steps == 2**6 - 1).all()
    assert any("max_depth" in warning for warning in result.warnings())


def test_a_flat_density_has_no_reasonable_step_size():
    with pytest.raises(RuntimeError, match="flat"):
        sample_nuts(flat, np.zeros(2), n_draws=5, rng=0)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_one_step_of_the_reasonable_size_is_accepted_with_some_chance(scale):
    def density(x):
        return -0.5 * (x @ x) / scale**2, -x / scale**2

    step = find_reasonable_step_size(density, np.full(3, scale), rng=1)
    # one leapfrog step on a normal target has energy errors of order 1 at step = scale
    assert 0.25 * scale < step < 4.0 * scale


def test_draws_do_not_depend_on_units_that_the_metric_undoes():
    options = {**RAW, "n_draws": 200, "chains": 1, "rng": 7, "step_size": 0.7}
    unit = sample_nuts(normal, np.ones(3), metric="unit", **options)
    scales = np.array([1.0, 0.1, 10.0])
    scaled = sample_nuts(stretched, scales, metric=scales**2, **options)
    np.testing.assert_allclose(scaled.samples / scales, unit.samples, atol=1e-9)


def test_dense_and_diagonal_metrics_that_are_equal_give_the_same_draws():
    options = {**RAW, "n_draws": 200, "chains": 1, "rng": 7, "step_size": 0.7}
    inverse = np.array([1.0, 0.01, 100.0])
    one_row = sample_nuts(stretched, np.ones(3), metric=inverse, **options)
    whole = sample_nuts(stretched, np.ones(3), metric=np.diag(inverse), **options)
    np.testing.assert_allclose(whole.samples, one_row.samples, atol=1e-9)


def test_dense_momenta_have_the_mass_matrix_as_covariance():
    inverse = np.array([[2.0, 0.9], [0.9, 0.5]])
    # on a flat density a step of Hamiltonian flow moves by step * M^-1 p, of covariance M^-1
    result = sample_hmc(
        flat,
        np.zeros(2),
        **RAW,
        metric=inverse,
        step_size=1.0,
        n_leapfrog=1,
        jitter=0.0,
        n_draws=20_000,
        chains=1,
        rng=8,
    )
    moves = np.diff(result.samples[0], axis=0)
    np.testing.assert_allclose(np.cov(moves, rowvar=False), inverse, rtol=0.06)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_compiled_and_python_paths_draw_the_same(variant):
    # few draws: rounding, which differs between processors, grows with each
    options = {"n_warmup": 20, "n_draws": 20, "chains": 2, "rng": 9, **variant}
    compiled = sample_nuts(logistic, np.ones(2), **options)
    plain = sample_nuts(logistic.py_func, np.ones(2), **options)
    np.testing.assert_allclose(plain.samples, compiled.samples, atol=1e-8)
    np.testing.assert_allclose(plain.energy, compiled.energy, atol=1e-8)
    assert (plain.n_gradients == compiled.n_gradients).all()


@pytest.mark.parametrize("sampling", ["metropolis", "multinomial"])
def test_compiled_and_python_static_paths_draw_the_same(sampling):
    options = {"n_warmup": 20, "n_draws": 20, "chains": 2, "rng": 9, "sampling": sampling}
    compiled = sample_hmc(logistic, np.ones(2), **options)
    plain = sample_hmc(logistic.py_func, np.ones(2), **options)
    np.testing.assert_allclose(plain.samples, compiled.samples, atol=1e-8)


def test_python_path_evaluates_as_often_as_it_says():
    calls = []

    def counted(x):
        calls.append(x)
        return normal.py_func(x)

    result = sample_nuts(counted, np.zeros(2), n_warmup=40, n_draws=30, chains=1, rng=0)
    # once more to check the start before any chain runs
    assert len(calls) == result.n_gradients[0] + 1


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_draws_do_not_depend_on_the_executor(pool):
    options = {"n_warmup": 50, "n_draws": 50, "chains": 3, "rng": 10}
    alone = sample_nuts(normal, np.ones(2), **options)
    with pool(2) as executor:
        shared = sample_nuts(normal, np.ones(2), executor=executor, **options)
    np.testing.assert_array_equal(shared.samples, alone.samples)


def test_callback_does_not_change_the_draws_and_sees_every_chain_finish():
    seen = []
    options = {"n_warmup": 50, "n_draws": 50, "chains": 2, "rng": 10}
    watched = sample_nuts(normal, np.ones(2), callback=seen.append, **options)
    np.testing.assert_array_equal(
        watched.samples, sample_nuts(normal, np.ones(2), **options).samples
    )
    assert [p.chain for p in seen if p.iteration == p.total] == [0, 1]


def test_energy_is_that_of_the_draw_with_its_momentum():
    result = sample_nuts(normal, np.zeros(20), n_draws=2000, metric="unit", rng=11)
    kinetic = result.energy + result.log_density
    # twice the kinetic energy of an equilibrated state is chi-squared with 20 degrees of freedom
    assert kinetic.min() > 0
    assert abs(kinetic.mean() - 10.0) < 0.3
    value = [normal(x)[0] for x in result.samples[0]]
    np.testing.assert_allclose(result.log_density[0], value)


def test_static_trajectory_is_the_leapfrog():
    rng = np.random.default_rng(12).spawn(1)[0]
    momentum = rng.standard_normal(3)
    q, _, energy = leapfrog(normal, np.ones(3), momentum, 0.3, 4)
    result = sample_hmc(
        normal,
        np.ones(3),
        **RAW,
        step_size=0.3,
        n_leapfrog=4,
        jitter=0.0,
        n_draws=1,
        chains=1,
        rng=12,
    )
    assert result.acceptance[0, 0] == pytest.approx(min(1.0, np.exp(energy[0] - energy[-1])))
    np.testing.assert_allclose(result.samples[0, 0], q)


def test_jitter_breaks_resonance():
    # ten steps make a whole period: without jitter each trajectory returns to where it began
    step = 2 * np.arcsin(np.sin(np.pi / 10))
    options = {**RAW, "n_leapfrog": 10, "step_size": 2 * np.sin(np.pi / 10), "chains": 1}
    assert 0 < step < 1
    stuck = sample_hmc(normal, [1.0], jitter=0.0, n_draws=50, rng=0, **options)
    free = sample_hmc(normal, [1.0], jitter=0.2, n_draws=50, rng=0, **options)
    np.testing.assert_allclose(stuck.samples, 1.0, atol=1e-6)
    assert free.samples.std() > 0.3


def test_torch_densities_give_the_draws_of_their_formula():
    torch = pytest.importorskip("torch")
    density = from_torch(lambda x: -0.5 * (x**2).sum())
    value, gradient = density(np.array([1.0, 2.0]))
    assert value == -2.5
    np.testing.assert_array_equal(gradient, [-1.0, -2.0])
    options = {"n_warmup": 20, "n_draws": 10, "chains": 1, "rng": 1}
    drawn = sample_nuts(density, np.ones(2), **options).samples
    np.testing.assert_allclose(drawn, sample_nuts(normal, np.ones(2), **options).samples, atol=1e-8)
    assert torch.get_default_dtype() == torch.float32


def test_compiled_functions_that_return_other_types_are_adapted():
    @njit
    def whole(x):
        return -1, np.zeros(2, np.float32)

    result = sample_nuts(whole, [0.0, 0.0], **RAW, step_size=0.1, n_draws=3, max_depth=2, rng=0)
    assert (result.log_density == -1.0).all()


@pytest.mark.parametrize("density", [fails_far_out, fails_far_out.py_func], ids=["numba", "python"])
def test_errors_of_the_density_pass_through_with_the_position(density):
    with pytest.raises(ArithmeticError, match="no value there") as caught:
        sample_nuts(density, np.zeros(2), rng=0)
    assert "asked for at [" in caught.value.__notes__[0]


def test_all_draws_divergent_names_the_step_size():
    with pytest.raises(RuntimeError, match="123"):
        sample_nuts(normal, np.ones(2), **RAW, step_size=123.0, n_draws=20, rng=0)


def test_a_hard_wall_is_never_crossed():
    def half_normal(x):
        return (-0.5 * x @ x if x[0] > 0 else -np.inf), -x

    result = sample_nuts(half_normal, [1.0], n_warmup=100, n_draws=200, chains=1, rng=0)
    assert (result.samples > 0).all()
    assert result.diverging.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_draws": 0}, "n_draws"),
        ({"n_warmup": -1}, "n_warmup"),
        ({"chains": 0}, "chains"),
        ({"target_accept": 1.0}, "target_accept"),
        ({"target_accept": 0.0}, "target_accept"),
        ({"max_depth": 0}, "max_depth"),
        ({"max_depth": 21}, "max_depth"),
        ({"metric": "full"}, "metric"),
        ({"metric": [1.0, -1.0]}, "metric"),
        ({"metric": [[1.0, 2.0], [2.0, 1.0]]}, "metric"),
        ({"metric": np.ones(3)}, "metric"),
        ({"step_size": 0.0}, "step_size"),
        ({"adapt": False}, "step_size"),
        ({"criterion": "manhattan"}, "criterion"),
        ({"sampling": "gibbs"}, "sampling"),
        ({"x0": np.zeros((3, 2))}, "x0"),
        ({"x0": [np.nan, 0.0]}, "x0"),
        ({"logdensity": lambda x: (-np.inf, x)}, "finite at x0"),
        ({"logdensity": lambda x: (0.0, np.array([np.nan, 0.0]))}, "finite at x0"),
        ({"logdensity": lambda x: (0.0, np.zeros(3))}, "shape"),
        ({"logdensity": lambda x: 0.0}, "pair"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        sample_nuts(**{"logdensity": normal.py_func, "x0": np.zeros(2), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"integration_time": 0.0}, "integration_time"),
        ({"n_leapfrog": 0}, "n_leapfrog"),
        ({"jitter": 1.0}, "jitter"),
        ({"sampling": "slice"}, "sampling"),
    ],
)
def test_bad_arguments_of_static_hmc_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        sample_hmc(normal.py_func, np.zeros(2), **changes)


def test_dense_metrics_have_a_limit():
    with pytest.raises(ValueError, match="2000"):
        sample_nuts(normal.py_func, np.zeros(2001), metric="dense")


def test_a_compiled_function_without_gradient_is_refused():
    @njit
    def value_only(x):
        return -0.5 * (x @ x)

    with pytest.raises(TypeError, match="logdensity"):
        sample_nuts(value_only, np.zeros(2))
