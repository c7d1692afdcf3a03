"""Discrete chains for tests, and the laws of their paths by enumeration."""

from itertools import pairwise

import numpy as np
from scipy.special import kl_div

from thalweg.transport import CategoricalReference

LAZY_WALK = np.array(
    [[0.8, 0.2, 0.0, 0.0], [0.2, 0.6, 0.2, 0.0], [0.0, 0.2, 0.6, 0.2], [0.0, 0.0, 0.2, 0.8]]
)


SKEWED_WALK = 0.7 * np.eye(12) + 0.3 * np.random.default_rng(9).dirichlet(np.ones(12), size=12)


def skewed(S, n_inner, seed=0):
    """A chain without any symmetry."""
    kernel = np.random.default_rng(seed).dirichlet(np.ones(S), size=S)
    return CategoricalReference(kernel, n_inner)


def laws(S, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(S), size=2)


def divergence(p, q):
    return kl_div(p, q).sum()


def path_laws(reference, x0, x1):
    """Law of the inner points given both ends, by enumeration of the chain's paths."""
    S, N, Q = reference.n_categories, reference.n_inner, reference.kernel
    table = np.zeros((S,) * N)
    for inner in np.ndindex(table.shape):
        path = (x0, *inner, x1)
        table[inner] = np.prod([Q[a, b] for a, b in pairwise(path)])
    return table / table.sum()
