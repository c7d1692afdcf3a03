"""The draws of a sampler with what says whether to believe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thalweg._optional import MissingExtraError
from thalweg.inference import diagnostics

Floats = NDArray[np.float64]

LOW_EBFMI = 0.3
HIGH_RHAT = 1.01
LOW_ESS_PER_CHAIN = 100


@dataclass(frozen=True)
class HMCResult:
    """Draws of several chains and the record of each transition.

    Attributes
    ----------
    samples : ndarray, shape (chains, draws, d)
        The draws.
    log_density, energy : ndarray, shape (chains, draws)
        Log density of each draw, and its energy with the momentum that it had.
    acceptance : ndarray, shape (chains, draws)
        Mean acceptance over the points of each trajectory.
    n_steps, tree_depth : ndarray of int, shape (chains, draws)
        Integrator steps, and doublings that were completed.
    diverging : ndarray of bool, shape (chains, draws)
        Whether the energy error of the trajectory passed 1000.
    step_size : ndarray, shape (chains,)
        Step of the integrator.
    inverse_metric : ndarray, shape (chains, d) or (chains, d, d)
        Diagonal of the inverse metric, or all of it.
    n_gradients : ndarray of int, shape (chains,)
        Evaluations of the log density, warm-up included.
    max_depth : int
        Largest tree depth allowed; 0 where trajectories are not trees.
    """

    samples: Floats
    log_density: Floats
    energy: Floats
    acceptance: Floats
    n_steps: NDArray[np.int64]
    tree_depth: NDArray[np.int64]
    diverging: NDArray[np.bool_]
    step_size: Floats
    inverse_metric: Floats
    n_gradients: NDArray[np.int64]
    max_depth: int = 0

    @property
    def divergent_samples(self) -> Floats:
        """Draws whose trajectories diverged, (n, d): where the target is too sharply curved."""
        return self.samples[self.diverging]

    def ebfmi(self) -> Floats:
        """Return the energy fraction of missing information of each chain."""
        return diagnostics.ebfmi(self.energy)

    def summary(self) -> NDArray[np.void]:
        """Return a structured array: mean, sd, ess_bulk, ess_tail, rhat of each coordinate."""
        fields = ("mean", "sd", "ess_bulk", "ess_tail", "rhat")
        table = np.empty(self.samples.shape[2], dtype=[(name, np.float64) for name in fields])
        table["mean"] = self.samples.mean(axis=(0, 1))
        table["sd"] = self.samples.std(axis=(0, 1), ddof=1)
        for i in range(self.samples.shape[2]):
            x = self.samples[..., i]
            table["ess_bulk"][i] = diagnostics.ess(x, "bulk")
            table["ess_tail"][i] = diagnostics.ess(x, "tail")
            table["rhat"][i] = diagnostics.rhat(x)
        return table

    def warnings(self) -> list[str]:
        """Return what speaks against believing these draws, one sentence each."""
        said = []
        count, total = int(self.diverging.sum()), self.diverging.size
        if count:
            said.append(
                f"{count} of {total} trajectories diverged: the target is too sharply curved for "
                "the step size somewhere; raise target_accept or write the model otherwise"
            )
        if self.max_depth:
            full = int((self.tree_depth >= self.max_depth).sum())
            if full:
                said.append(
                    f"{full} of {total} trajectories reached max_depth {self.max_depth} before "
                    "they turned back: raise max_depth or scale the model"
                )
        fraction = self.ebfmi()
        if (fraction < LOW_EBFMI).any():
            said.append(
                f"E-BFMI is {fraction.min():.2f}, below {LOW_EBFMI}: the energies are explored "
                "slowly, which heavy tails or funnels cause"
            )
        table = self.summary()
        worst = table["rhat"].max()
        if not worst <= HIGH_RHAT:
            said.append(f"R-hat is up to {worst:.3f}, above {HIGH_RHAT}: draw longer chains")
        least = min(table["ess_bulk"].min(), table["ess_tail"].min())
        if least < LOW_ESS_PER_CHAIN * len(self.samples):
            said.append(
                f"effective sample sizes are down to {least:.0f}, below {LOW_ESS_PER_CHAIN} a "
                "chain: draw longer chains"
            )
        return said

    def to_arviz(self, names: Sequence[str] | None = None) -> Any:
        """Return an `arviz.InferenceData` with the draws and the sampler's statistics.

        Parameters
        ----------
        names : sequence of str, optional
            A name for each coordinate; without them the draws are one variable ``x``.

        Raises
        ------
        MissingExtraError
            If ArviZ is not installed.
        ValueError
            If there are not d different names.
        """
        d = self.samples.shape[2]
        if names is None:
            posterior = {"x": self.samples}
        else:
            if isinstance(names, str) or len(names) != d or len(set(names)) != d:
                raise ValueError(f"names must be {d} different names, got {names!r}")
            posterior = {name: self.samples[..., i] for i, name in enumerate(names)}
        try:
            import arviz
        except ImportError as error:
            raise MissingExtraError("arviz") from error
        statistics = {
            "lp": self.log_density,
            "energy": self.energy,
            "acceptance_rate": self.acceptance,
            "n_steps": self.n_steps,
            "tree_depth": self.tree_depth,
            "diverging": self.diverging,
            "step_size": np.broadcast_to(self.step_size[:, None], self.energy.shape).copy(),
        }
        return arviz.from_dict(posterior=posterior, sample_stats=statistics)
