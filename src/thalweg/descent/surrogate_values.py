"""What the surrogates of `thalweg.descent.SSO` are worth: their value, and when they bound a loss.

Source: "Target-based Surrogates for Stochastic Optimization" (2023), arXiv 2302.02607.
"""

from __future__ import annotations

from thalweg._torch import torch
from thalweg._validation import check_count, check_option, check_real
from thalweg.descent._surrogate_construction import SMOOTHNESS, quadratic


def surrogate_value(
    outputs: torch.Tensor,
    z: torch.Tensor,
    G: torch.Tensor,
    eta: float,
    metric: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Surrogate of a mean loss around targets, less the loss at them.

    .. math:: \frac1b \sum_i \left[ \langle G_i, f_i - z_i \rangle
              + \frac{1}{2 \eta} \sum_j H_{ij} (f_{ij} - z_{ij})^2 \right]

    Parameters
    ----------
    outputs : tensor of shape (b, ...)
        Outputs f.
    z : tensor of the same shape
        Targets, where the gradient was taken.
    G : tensor of the same shape
        Gradient of each sample's own loss: b times that of the mean.
    eta : float
        Target step, > 0.
    metric : tensor, optional
        Positive weights H, broadcast to that shape; ones by default.

    Returns
    -------
    tensor
        One number, with the graph of `outputs`.

    Raises
    ------
    TypeError, ValueError
        If shapes differ, there is no sample, or eta is not positive.

    References
    ----------
    "Target-based Surrogates for Stochastic Optimization" (2023), arXiv 2302.02607.

    Examples
    --------
    The surrogate of ½ (f - 1)² with eta = 1 is that loss itself, less its value 2 at z = 3.

    >>> import torch
    >>> z, f = torch.tensor([3.0]), torch.tensor([1.5])
    >>> surrogate_value(f, z, z - 1, 1.0), 0.5 * (f - 1).square().mean() - 2
    (tensor(-1.8750), tensor(-1.8750))
    """
    eta = check_real("eta", eta, above=0)
    tensors = {"outputs": outputs, "z": z, "G": G}
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if outputs.ndim == 0 or len(outputs) == 0:
        raise ValueError(f"outputs must have samples, got shape {tuple(outputs.shape)}")
    for name in ("z", "G"):
        if tensors[name].shape != outputs.shape:
            raise ValueError(
                f"{name} must have the outputs' shape {tuple(outputs.shape)}, "
                f"got {tuple(tensors[name].shape)}"
            )
    return quadratic(outputs, z, G, eta, metric)


def smoothness(loss_name: str) -> float:
    """Largest curvature L of a sample's loss in its outputs; 1 / L is the safe target step.

    Parameters
    ----------
    loss_name : {"squared", "logistic", "cross-entropy"}
        ½ ‖z - y‖², log(1 + exp(-y z)), or the cross-entropy of softmax(z).

    Returns
    -------
    float
        1, 1/4 or 1/2.

    Raises
    ------
    ValueError
        If the name is another.

    Examples
    --------
    >>> smoothness("logistic")
    0.25
    """
    return SMOOTHNESS[check_option("loss_name", loss_name, SMOOTHNESS)]


def majorisation_bound(beta: float, gap: float, steps: int) -> float:
    r"""Bound on the least squared gradient norm of full-batch surrogate descent.

    Each step lowers the loss h by at least :math:`\|\nabla h(\theta_t)\|^2 / (2 \beta)`, if the
    surrogate is an upper bound with a beta-Lipschitz gradient and the inner minimiser takes one or
    more gradient steps of length 1 / beta. So

    .. math:: \min_{t < T} \|\nabla h(\theta_t)\|^2 \le 2 \beta (h(\theta_0) - h^*) / T.

    Parameters
    ----------
    beta : float
        Smoothness of the surrogate in the parameters, > 0: for a linear model
        :math:`\sigma_{max}(X)^2 / (b \eta)`.
    gap : float
        :math:`h(\theta_0) - h^*`, not negative.
    steps : int
        Outer steps T >= 1.

    Returns
    -------
    float
        The right-hand side.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range.

    References
    ----------
    "Target-based Surrogates for Stochastic Optimization" (2023), arXiv 2302.02607; the constants
    are those of the descent lemma.

    Examples
    --------
    >>> majorisation_bound(5.0, 2.0, 100)
    0.2
    """
    beta = check_real("beta", beta, above=0)
    gap = check_real("gap", gap, at_least=0)
    return 2 * beta * gap / check_count("steps", steps)
