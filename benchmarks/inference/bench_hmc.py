"""The no-U-turn sampler against BlackJAX and NumPyro: one chain, 1000 warm-up and 2000 draws.

The figure to compare is time for an effective draw: `accuracy` is the least bulk effective sample
size, and draws of all entrants are judged by the same function.
"""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from thalweg.inference import ess, sample_nuts

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
N_WARMUP, N_DRAWS = 1000, 2000
BASIS = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 100)))[0]
PRECISION = (BASIS / np.logspace(-2, 0, 100)) @ BASIS.T

WORKLOADS = {
    "eight schools, non-centred, 1000 + 2000 iterations": ("schools", 10, 5.0),
    "correlated normal, d = 100, 1000 + 2000 iterations": ("gauss", 100, 1.3),
}


@njit(cache=True)
def schools(x):
    gradient = np.empty_like(x)
    tau = np.exp(x[1])
    ratio = (tau / 5.0) ** 2
    value = -0.5 * (x[0] / 5.0) ** 2 - np.log1p(ratio) + x[1]
    gradient[0] = -x[0] / 25.0
    gradient[1] = 1.0 - 2.0 * ratio / (1.0 + ratio)
    for j in range(8):
        residual = (EFFECTS[j] - x[0] - tau * x[2 + j]) / ERRORS[j]
        value -= 0.5 * residual**2 + 0.5 * x[2 + j] ** 2
        gradient[0] += residual / ERRORS[j]
        gradient[1] += residual / ERRORS[j] * tau * x[2 + j]
        gradient[2 + j] = residual / ERRORS[j] * tau - x[2 + j]
    return value, gradient


@njit(cache=True)
def gauss(x):
    gradient = -(PRECISION @ x)
    return 0.5 * (x @ gradient), gradient


def jax_density(model):
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    if model == "gauss":
        precision = jnp.asarray(PRECISION)
        return lambda x: -0.5 * x @ precision @ x
    effects, errors = jnp.asarray(EFFECTS), jnp.asarray(ERRORS)

    def density(x):
        tau = jnp.exp(x[1])
        residual = (effects - x[0] - tau * x[2:]) / errors
        prior = -0.5 * (x[0] / 5.0) ** 2 - jnp.log1p((tau / 5.0) ** 2) + x[1]
        return prior - 0.5 * (residual**2).sum() - 0.5 * (x[2:] ** 2).sum()

    return density


def run_thalweg(model, d):
    density = {"schools": schools, "gauss": gauss}[model]

    def run():
        return sample_nuts(
            density, np.zeros(d), n_warmup=N_WARMUP, n_draws=N_DRAWS, chains=1, rng=0
        ).samples[0]

    return run


def run_blackjax(model, d):
    import blackjax
    import jax
    import jax.numpy as jnp

    density = jax_density(model)
    warmup = blackjax.window_adaptation(blackjax.nuts, density, is_mass_matrix_diagonal=True)

    @jax.jit
    def chain(key):
        warm, draw = jax.random.split(key)
        (state, parameters), _ = warmup.run(warm, jnp.zeros(d), N_WARMUP)
        step = blackjax.nuts(density, **parameters).step

        def one(state, key):
            state, _ = step(key, state)
            return state, state.position

        return jax.lax.scan(one, state, jax.random.split(draw, N_DRAWS))[1]

    return lambda: np.asarray(chain(jax.random.key(0)))


def run_numpyro(model, d):
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS

    density = jax_density(model)
    sampler = MCMC(
        NUTS(potential_fn=lambda x: -density(x)),
        num_warmup=N_WARMUP,
        num_samples=N_DRAWS,
        progress_bar=False,
        jit_model_args=True,
    )

    def run():
        sampler.run(jax.random.key(0), init_params=jnp.zeros(d))
        return np.asarray(sampler.get_samples())

    return run


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("entrant", ["thalweg", "blackjax", "numpyro"])
def test_effective_draws(measure, workload, entrant):
    model, d, target = WORKLOADS[workload]
    peer = None if entrant == "thalweg" else entrant
    if peer is not None:
        pytest.importorskip(peer, reason=f"missing peer: {peer}")
    build = {"thalweg": run_thalweg, "blackjax": run_blackjax, "numpyro": run_numpyro}[entrant]
    measure(
        build(model, d),
        workload=workload,
        entrant=f"{entrant} NUTS",
        accuracy=("least ESS", lambda x: min(ess(x[None, :, i]) for i in range(d))),
        peer=peer,
        target=target if peer == "blackjax" else None,
        rounds=5,
    )
