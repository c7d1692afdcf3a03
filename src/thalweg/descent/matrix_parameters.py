"""Which parameters of a network are matrices that an orthogonalising optimizer should take.

Muon and its kin step along singular directions, which only the inner linear maps and kernels have;
embeddings, the output head, norms and biases are trained by AdamW. `split_parameters` tells them
apart.

Source: "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
Algorithm" (2025), arXiv 2505.16932, Section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thalweg._torch import torch

nn = torch.nn

_APART = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)
_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

Head = str | Sequence[str] | Callable[[str, nn.Parameter], bool] | None


def split_parameters(
    model: nn.Module, head: Head = None
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return a model's trainable parameters, the matrices that Muon takes and the rest.

    Matrices are parameters of two axes and the kernels of convolutions. To the rest go embeddings,
    the output head, norms, biases and whatever has a side of length one, and bare parameters of
    three axes or more. A tied weight comes once, with the rest where one of its uses does; frozen
    parameters come in neither.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    head : str, sequence of str, callable or None
        The output head: names of modules or parameters (a module stands for all it contains; an
        empty sequence for none), or ``head(name, parameter) -> bool``. None is the last
        `torch.nn.Linear` in the order of ``model.modules()``.

    Returns
    -------
    matrices, rest : list of torch.nn.Parameter
        In the order of ``model.named_parameters()``.

    Raises
    ------
    ValueError
        If a name of `head` is not in the model, or a lazy parameter has no shape yet.

    Examples
    --------
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Embedding(9, 4), torch.nn.Linear(4, 6), torch.nn.Linear(6, 9)
    ... )
    >>> [[tuple(p.shape) for p in part] for part in split_parameters(model)]
    [[(6, 4)], [(9, 4), (6,), (9, 6), (9,)]]
    """
    matrices, rest = split_named_parameters(model, head)
    return [parameter for _, parameter in matrices], [parameter for _, parameter in rest]


def split_named_parameters(
    model: nn.Module, head: Head = None
) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """Return what `split_parameters` does, each parameter as a pair with its name."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    apart = {id(p) for p in _head_parameters(model, head)}
    kernels = set()
    for module in model.modules():
        own = {id(p) for p in module.parameters(recurse=False)}
        if isinstance(module, _APART):
            apart |= own
        elif isinstance(module, _CONVOLUTIONS):
            kernels |= own
    matrices: list[tuple[str, nn.Parameter]] = []
    rest: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"model must know the shape of {name!r}: run it once on data first")
        axes = parameter.ndim
        matrix = (
            id(parameter) not in apart
            and (axes == 2 or (axes > 2 and id(parameter) in kernels))
            and min(parameter.flatten(1).shape) > 1
            and not (callable(head) and head(name, parameter))
        )
        (matrices if matrix else rest).append((name, parameter))
    return matrices, rest


def _head_parameters(model: nn.Module, head: Head) -> list[nn.Parameter]:
    if callable(head):
        return []
    if head is None:
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        return list(linear[-1].parameters()) if linear else []
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: list[nn.Parameter] = []
    for name in [head] if isinstance(head, str) else head:
        if name not in modules and name not in parameters:
            known = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"head must name modules of the model ({known}, ...), got {name!r}")
        found += [parameters[name]] if name in parameters else modules[name].parameters()
    return found
