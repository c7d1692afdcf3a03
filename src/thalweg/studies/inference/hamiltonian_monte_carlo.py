"""Hamiltonian trajectories cost few gradients a draw, and their energies show where they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from thalweg.inference import (
    HMCResult,
    concentration,
    ess,
    explicit_euler,
    leapfrog,
    mcse,
    sample_hmc,
    sample_nuts,
    sample_rwm,
)
from thalweg.studies.inference._hamiltonian_targets import (
    DIMENSION,
    centred,
    correlated_covariance,
    eight_schools,
    funnel,
    gaussian,
    logistic_regression,
    noncentred,
    normal,
)
from thalweg.study import Claim, Setup, Study, at_least, at_most, between, reported

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Report = Callable[[float, str], None]

FUNNEL_DIMENSION = 10
DIMENSIONS = (10, 40, 160)
TARGETS = (0.6, 0.7, 0.8, 0.9)
WALK_FACTOR = 50
LONG = 10_000


def run(setup: Setup, rng: np.random.Generator, report: Report) -> dict[str, Any]:
    """Measure the integrators, the targets with known answers, and those where sampling fails."""
    report(0.0, "integrators")
    results = measure_integrators()
    report(0.1, "eight schools and the funnel")
    results |= measure_failures(setup, rng)
    report(0.3, "targets with known answers")
    results |= measure_accuracy(setup, rng)
    if setup.efficiency:
        report(0.6, "efficiency")
        results |= measure_efficiency(setup, rng)
    report(1.0, "done")
    return results


def measure_integrators() -> dict[str, Any]:
    """Follow trajectories by the leapfrog and by Euler's method."""
    q, p = np.linspace(-1.0, 1.0, 10), np.linspace(1.0, -0.5, 10)
    steps = np.array([0.0125, 0.025, 0.05, 0.1])
    errors = [
        abs(np.diff(leapfrog(noncentred, q, p, step, round(2.0 / step))[2][[0, -1]])[0])
        for step in steps
    ]
    there = leapfrog(noncentred, q, p, 0.1, 100)
    back = leapfrog(noncentred, there[0], there[1], -0.1, 100)
    columns = [np.concatenate(leapfrog(normal, z[:5], z[5:], 0.5, 20)[:2]) for z in np.eye(10)]
    symplectic = leapfrog(noncentred, q, p, 0.1, LONG)[2]
    far, push = np.ones(DIMENSION), np.full(DIMENSION, 0.5)
    energy = leapfrog(normal, far, push, 0.03, LONG)[2]
    euler = explicit_euler(normal, far, push, 0.03, LONG)[2]
    error = np.abs(symplectic - symplectic[0])
    return {
        "energy_error_slope": np.polyfit(np.log(steps), np.log(errors), 1)[0],
        "energy_error_late_over_early": error[LONG // 2 :].max() / error[: LONG // 2].max(),
        "euler_energy_growth": euler[-1] / euler[0],
        "reversal_error": np.abs(back[0] - q).max(),
        "volume_error": abs(abs(np.linalg.det(np.array(columns))) - 1.0),
        "leapfrog_energy_error": np.abs(energy / energy[0] - 1.0),
        "euler_energy_error": np.abs(euler / euler[0] - 1.0),
    }


def measure_failures(setup: Setup, rng: np.random.Generator) -> dict[str, Any]:
    """Sample what is curved too unevenly, and see the diagnostics say so."""
    options = {"n_draws": setup.draws, "rng": rng}
    centred_draws = sample_nuts(centred, np.zeros(10), **options)
    funnel_draws = sample_nuts(funnel, np.zeros(FUNNEL_DIMENSION), **options)
    independent = sample_nuts(normal, np.zeros(DIMENSION), **options)
    divergent = centred_draws.divergent_samples
    return {
        "centred_divergences_per_4000": 4000.0 * centred_draws.diverging.mean(),
        "centred_ebfmi": centred_draws.ebfmi().mean(),
        "funnel_ebfmi": funnel_draws.ebfmi().mean(),
        "iid_ebfmi": independent.ebfmi().min(),
        "centred_draws": centred_draws.samples.reshape(-1, 10)[:, 1:3],
        "centred_divergent": divergent[:, 1:3],
        "funnel_energy": funnel_draws.energy,
        "iid_radius": np.linalg.norm(independent.samples, axis=2).ravel(),
    }


def measure_accuracy(setup: Setup, rng: np.random.Generator) -> dict[str, Any]:
    """Compare means, spreads and ranks with the exact ones on the well-posed targets."""
    options = {"n_draws": setup.draws, "rng": rng}
    exact = eight_schools()
    schools = sample_nuts(noncentred, np.zeros(10), **options)
    mu, log_tau = schools.samples[..., 0], schools.samples[..., 1]
    compared = [
        compare(mu, exact["mean_mu"], exact["sd_mu"]),
        compare(log_tau, exact["mean_log_tau"], exact["sd_log_tau"]),
    ]
    ranks = [
        uniformity(np.interp(thin(mu), exact["mu"], exact["mu_cdf"])),
        uniformity(np.interp(thin(log_tau), exact["log_tau"], exact["log_tau_cdf"])),
    ]
    if setup.efficiency:
        independent = sample_nuts(normal, np.zeros(DIMENSION), **options).samples
        covariance, basis = correlated_covariance(rng)
        correlated = sample_nuts(gaussian(covariance), np.zeros(DIMENSION), **options).samples
        main = correlated @ basis
        spread = np.sqrt(np.diag(basis.T @ covariance @ basis))
        for draws, sds in ((independent, np.ones(DIMENSION)), (main, spread)):
            compared += [compare(draws[..., i], 0.0, sds[i]) for i in range(DIMENSION)]
            ranks.append(uniformity(stats.norm.cdf(thin(draws) / sds)))
        density, means, sds, errors, weight = logistic_regression(rng)
        regression = sample_nuts(density, np.zeros(len(means)), **options).samples
        compared += [
            compare(regression[..., i], means[i], sds[i], errors[i]) for i in range(len(means))
        ]
        extra = {"regression_reference_ess": weight}
    else:
        extra = {}
    errors, ratios = np.array(compared).T
    return extra | {
        "mean_error_mcse": errors.max(),
        "sd_ratio": np.array([ratios.min(), ratios.max()]),
        "rank_pvalue": min(ranks),
        "schools_mean_mu": exact["mean_mu"],
        "schools_sd_mu": exact["sd_mu"],
        "schools_mean_log_tau": exact["mean_log_tau"],
        "noncentred_ebfmi": schools.ebfmi().min(),
        "noncentred_divergent_percent": 100.0 * schools.diverging.mean(),
        "noncentred_energy": schools.energy,
    }


def measure_efficiency(setup: Setup, rng: np.random.Generator) -> dict[str, Any]:
    """Count gradients for an effective draw by dimension, acceptance and variant."""
    nuts, walk = [], []
    for d in DIMENSIONS:
        start = np.zeros(d)
        options = {"n_draws": setup.draws, "metric": "unit", "rng": rng}
        nuts.append(gradients_per_draw(sample_nuts(normal, start, **options)))
        walked = sample_rwm(normal, start, n_draws=WALK_FACTOR * setup.draws, rng=rng)
        walk.append(gradients_per_draw(walked))
    tuned = [
        sample_nuts(normal, np.zeros(DIMENSION), target_accept=a, n_draws=setup.draws, rng=rng)
        for a in TARGETS
    ]
    by_target = np.array([gradients_per_draw(result) for result in tuned])
    steps = np.array([result.n_steps.mean() for result in tuned])
    density = gaussian(correlated_covariance(rng)[0])
    start, n_draws = np.zeros(DIMENSION), setup.draws
    new = sample_nuts(density, start, n_draws=n_draws, rng=rng)
    original = sample_nuts(
        density, start, n_draws=n_draws, rng=rng, criterion="euclidean", sampling="slice"
    )
    static = sample_hmc(normal, np.zeros(DIMENSION), n_draws=setup.draws, rng=rng)
    logs = np.log(DIMENSIONS)
    return {
        "nuts_exponent": np.polyfit(logs, np.log(nuts), 1)[0],
        "walk_exponent": np.polyfit(logs, np.log(walk), 1)[0],
        "nuts_gradients_per_draw": np.array(nuts),
        "walk_evaluations_per_draw": np.array(walk),
        "gradients_by_target": by_target,
        "target_cost_spread": by_target.max() / by_target.min(),
        "target_steps_spread": steps.max() / steps.min(),
        "new_over_original_cost": gradients_per_draw(new) / gradients_per_draw(original),
        "new_over_original_cost_of_squares": gradients_per_draw(new, 2)
        / gradients_per_draw(original, 2),
        "static_gradients_per_draw": gradients_per_draw(static),
    }


def draw(results: Any, figure: Figure) -> None:
    """Four panels: typical set, integrators, energies, divergences."""
    axes = figure.subplots(2, 2)
    _draw_typical_set(axes[0, 0], results)
    _draw_integrators(axes[0, 1], results)
    _draw_energies(axes[1, 0], results)
    _draw_divergences(axes[1, 1], results)


def compare(x: Floats, mean: float, sd: float, error: float = 0.0) -> tuple[float, float]:
    """Return the error of the mean in standard errors, and the ratio of spreads."""
    return abs(x.mean() - mean) / np.hypot(mcse(x), error), x.std() / sd


def thin(x: Floats) -> Floats:
    """Keep every fifth draw: their correlation is below 0.05 on these targets."""
    return x[:, ::5]


def uniformity(ranks: Floats) -> float:
    """Return the p-value of 20 bins of ranks in [0, 1]."""
    return float(stats.chisquare(np.histogram(ranks, 20, (0.0, 1.0))[0]).pvalue)


def gradients_per_draw(result: HMCResult, moment: int = 1) -> float:
    """Return evaluations after warm-up for an effective draw, averaged over ten coordinates."""
    sizes = [ess(result.samples[..., i] ** moment) for i in range(10)]
    return float(result.n_steps.sum() / np.mean(sizes))


def _draw_typical_set(axis: Axes, results: Any) -> None:
    for d, at in ((1, 0.6), (10, 3.5), (100, 10.6)):
        c = concentration(d, np.linspace(0.01, 14, 500))
        axis.plot(c.radius, c.mass, color="C0", label="density x volume" if d == 1 else None)
        axis.text(at, np.interp(at, c.radius, c.mass) + 0.03, f"d = {d}", fontsize=9, color="C0")
    axis.hist(
        results["iid_radius"],
        60,
        density=True,
        color="C1",
        alpha=0.5,
        label="NUTS draws, d = 100",
    )
    axis.set(xlabel="distance from the mode of N(0, I)", ylabel="density", ylim=(0, 0.9))
    axis.legend(fontsize=8, loc="upper right")


def _draw_integrators(axis: Axes, results: Any) -> None:
    n = len(results["euler_energy_error"])
    steps = np.unique(np.geomspace(1, n - 1, 800).astype(int))
    axis.loglog(steps, results["euler_energy_error"][steps], color="C3", label="Euler")
    axis.loglog(
        steps, np.maximum(results["leapfrog_energy_error"][steps], 1e-8), color="C0", lw=0.8
    )
    axis.plot([], [], color="C0", label="leapfrog")
    axis.set(
        xlabel="steps of 0.03 on N(0, I), d = 100",
        ylabel="relative energy error",
        ylim=(1e-8, 1e6),
    )
    axis.legend(fontsize=8, loc="upper left")


def _draw_energies(axis: Axes, results: Any) -> None:
    bins = np.linspace(-20, 20, 81)
    pairs = (("funnel_energy", "funnel", 0.0), ("noncentred_energy", "non-centred schools", 0.28))
    for (key, label, shift), color in zip(pairs, ("C3", "C0"), strict=True):
        energy = results[key]
        marginal = energy - energy.mean(axis=1, keepdims=True)
        changes = np.diff(energy, axis=1)
        height = [np.histogram(values, bins, density=True)[0] for values in (marginal, changes)]
        axis.fill_between(
            bins[:-1], shift, shift + height[0], step="post", color=color, lw=0, alpha=0.35
        )
        axis.step(bins[:-1], shift + height[1], where="post", color=color, lw=1.3)
        name = "funnel" if key.startswith("funnel") else "noncentred"
        axis.text(
            -19.5, shift + 0.05, f"{label}\nE-BFMI {results[name + '_ebfmi']:.2f}", fontsize=8
        )
    axis.fill_between([], [], color="0.5", alpha=0.5, label="energy less its mean")
    axis.plot([], [], color="0.3", label="change of energy")
    axis.set(xlabel="energy", ylabel="density (shifted)", xlim=(-20, 20), ylim=(0, 0.56))
    axis.set_yticks([])
    axis.legend(fontsize=8, loc="upper right")


def _draw_divergences(axis: Axes, results: Any) -> None:
    draws, divergent = results["centred_draws"], results["centred_divergent"]
    axis.plot(draws[:, 1], draws[:, 0], ".", ms=1.5, color="0.7", label="draws", rasterized=True)
    axis.plot(
        divergent[:, 1],
        divergent[:, 0],
        "o",
        ms=3,
        color="C3",
        label=f"divergent, {len(divergent)} of {len(draws)}",
    )
    axis.set(xlabel="effect of the first school (centred)", ylabel="log of tau", xlim=(-25, 45))
    axis.legend(fontsize=8, loc="lower right")


STUDY = Study(
    paper="hamiltonian-monte-carlo",
    quick={"draws": 1000, "efficiency": False},
    full={"draws": 4000, "efficiency": True},
    run=run,
    draw=draw,
    claims=[
        Claim(
            "the leapfrog's energy error is of second order",
            "slope of the error in the step size",
            "energy_error_slope",
            between(1.9, 2.1),
        ),
        Claim(
            "its energy error stays bounded over long times",
            "largest error of the second 5000 steps over the first",
            "energy_error_late_over_early",
            at_most(2.0),
        ),
        Claim(
            "other integrators drift away",
            "growth of the energy over 10,000 steps of Euler's method",
            "euler_energy_growth",
            at_least(100.0),
        ),
        Claim(
            "trajectories are reversible",
            "distance from the start after 100 steps there and back",
            "reversal_error",
            at_most(1e-9),
        ),
        Claim(
            "volume is preserved",
            "determinant of 20 steps less 1",
            "volume_error",
            at_most(1e-9),
        ),
        Claim(
            "trajectories explore the target exactly",
            "largest error of a mean in standard errors",
            "mean_error_mcse",
            at_most(4.5),
        ),
        Claim(
            "trajectories explore the target exactly",
            "standard deviations over the exact ones",
            "sd_ratio",
            between(0.9, 1.1),
        ),
        Claim(
            "trajectories explore the target exactly",
            "p-value of uniform ranks",
            "rank_pvalue",
            at_least(1e-4),
        ),
        Claim(
            "the cost of a draw grows slowly with the dimension (theory: 1/4)",
            "exponent of gradients for an effective draw, d = 10 to 160",
            "nuts_exponent",
            at_most(0.5),
            preset="full",
        ),
        Claim(
            "a random walk's grows as the dimension",
            "exponent of evaluations for an effective draw, d = 10 to 160",
            "walk_exponent",
            between(0.75, 1.25),
            preset="full",
        ),
        Claim(
            "divergences reveal strong curvature",
            "divergent trajectories of the centred eight schools in 4000",
            "centred_divergences_per_4000",
            at_least(5.0),
        ),
        Claim(
            "energies reveal slow exploration",
            "E-BFMI of the centred eight schools",
            "centred_ebfmi",
            at_most(0.4),
        ),
        Claim(
            "energies reveal slow exploration",
            "E-BFMI of the funnel",
            "funnel_ebfmi",
            at_most(0.2),
        ),
        Claim(
            "a better parametrisation removes the failure",
            "least E-BFMI of the non-centred eight schools",
            "noncentred_ebfmi",
            at_least(0.7),
        ),
        Claim(
            "a better parametrisation removes the failure",
            "divergent trajectories of the non-centred eight schools",
            "noncentred_divergent_percent",
            at_most(0.5),
            unit="%",
        ),
        Claim(
            "energies of easy targets are explored at once",
            "least E-BFMI of N(0, I), d = 100",
            "iid_ebfmi",
            at_least(0.9),
        ),
        Claim(
            "any mean acceptance of 0.6 to 0.9 is nearly as good",
            "gradients for an effective draw, worst over best of 0.6, 0.7, 0.8, 0.9",
            "target_cost_spread",
            at_most(2.2),
            preset="full",
        ),
        Claim(
            "any mean acceptance of 0.6 to 0.9 is nearly as good",
            "gradients for a draw, worst over best: trees double",
            "target_steps_spread",
            reported(),
            preset="full",
        ),
        Claim(
            "multinomial sampling and the generalised criterion improve the original sampler",
            "gradients for an effective draw over the original's, correlated normal",
            "new_over_original_cost",
            at_most(1.0),
            preset="full",
        ),
        Claim(
            "multinomial sampling and the generalised criterion improve the original sampler",
            "the same for effective draws of squares",
            "new_over_original_cost_of_squares",
            reported(),
            preset="full",
        ),
        Claim(
            "trajectories of fixed length can serve where their length is known",
            "gradients for an effective draw of static trajectories, N(0, I), d = 100",
            "static_gradients_per_draw",
            reported(),
            preset="full",
        ),
    ],
)
