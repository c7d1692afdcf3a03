"""The checks of what `thalweg.descent.SSO` is given."""

from __future__ import annotations

from typing import Any

from thalweg._torch import torch
from thalweg._validation import check_count, check_option, check_real

VARIANTS = ("sgd", "line-search", "adagrad", "adagrad-diag", "newton", "mirror")
SCHEDULES = ("constant", "sqrt", "exponential")
INNER = ("armijo", "lbfgs")
MADE = "factory"
"""What a group has as `inner` where that is a callable."""


def check_options(options: dict[str, Any], made: bool) -> dict[str, Any]:
    """Return the options of a group; `made` is whether a callable makes the inner minimiser."""
    schedule = check_option("schedule", options["schedule"], SCHEDULES)
    total = options["total_steps"]
    if total is not None:
        total = check_count("total_steps", total)
    elif schedule == "exponential":
        raise ValueError("total_steps must be given for schedule 'exponential', got None")
    if not isinstance(options["reset"], bool):
        raise TypeError(f"reset must be True or False, got {options['reset']!r}")
    return {
        "target_step": check_real("target_step", options["target_step"], above=0),
        "inner_steps": check_count("inner_steps", options["inner_steps"]),
        "variant": check_option("variant", options["variant"], VARIANTS),
        "schedule": schedule,
        "total_steps": total,
        "inner": check_option("inner", options["inner"], (*INNER, MADE) if made else INNER),
        "inner_c": check_real("inner_c", options["inner_c"], above=0, below=1),
        "inner_shrink": check_real("inner_shrink", options["inner_shrink"], above=0, below=1),
        "inner_init": check_real("inner_init", options["inner_init"], above=0),
        "inner_tol": check_real("inner_tol", options["inner_tol"], at_least=0),
        "expand": check_real("expand", options["expand"], at_least=1),
        "target_c": check_real("target_c", options["target_c"], above=0, below=1),
        "target_expand": check_real("target_expand", options["target_expand"], at_least=1),
        "reset": options["reset"],
    }


def check_outputs(outputs: Any, probabilities: bool) -> None:
    """Refuse what is no batch of outputs with their graph."""
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(f"forward must return a tensor, got {type(outputs).__name__}")
    shape = tuple(outputs.shape)
    if not outputs.requires_grad:
        raise ValueError("forward must return outputs with their graph, got none")
    if not shape or outputs.numel() == 0:
        raise ValueError(f"outputs must have the batch as first axis, got shape {shape}")
    if probabilities and (len(shape) < 2 or shape[-1] < 2):
        raise ValueError(f"outputs must have shape (b, classes) for 'mirror', got {shape}")


def check_rows(index: Any, outputs: torch.Tensor, needed: bool) -> torch.Tensor | None:
    """Return the numbers of the rows, one for each of the outputs, or None without them."""
    if index is None:
        if needed:
            raise ValueError("index must be given for variant 'adagrad-diag', got None")
        return None
    index = torch.as_tensor(index, device=outputs.device)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TypeError(f"index must be whole numbers, got {index.dtype}")
    if index.shape != (len(outputs),):
        raise ValueError(
            "outputs must have the batch as first axis, with one number of index for each, "
            f"got shapes {tuple(outputs.shape)} and {tuple(index.shape)}"
        )
    if int(index.min()) < 0:
        raise ValueError(f"index must be >= 0, got {int(index.min())}")
    return index.long()


def check_finite(what: str, tensor: torch.Tensor, number: int) -> None:
    """Raise RuntimeError naming the outer step if an entry is not finite."""
    if not bool(tensor.isfinite().all()):
        raise RuntimeError(f"{what} must be finite at step {number}")
