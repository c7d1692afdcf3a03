"""Log densities as the samplers see them: a compiled first-class function, or a Python callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit, types
from numba.core.errors import NumbaError
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LogDensity = Callable[[Floats], tuple[Any, Any]]
VECTOR = types.float64[::1]
MATRIX = types.float64[:, ::1]
DENSITY = types.FunctionType(types.Tuple((types.float64, VECTOR))(VECTOR))
METRIC = types.FunctionType(types.Tuple((MATRIX, types.float64[:, :, ::1]))(VECTOR))
CALLED_FROM_KERNELS = ("logdensity", "metric_fn")


def is_compiled(function: Any) -> bool:
    """Whether `function` is one that Numba compiles."""
    return hasattr(function, "py_func") and hasattr(function, "overloads")


def prepare(name: str, function: Any, signature: types.FunctionType, convert: Any) -> Any:
    """Return `function` in the form that kernels call.

    Parameters
    ----------
    name : str
        Name of the argument, for errors.
    function : callable
        What the user gave.
    signature : numba.types.FunctionType
        The type that compiled kernels expect.
    convert : callable
        Turns what `function` returns into values of that type; usable from compiled code too.

    Returns
    -------
    numba dispatcher or callable
        A compiled function of exactly this signature, or a Python callable.
    """
    if not callable(function):
        raise TypeError(f"{name} must be callable, got {type(function).__name__}")
    if not is_compiled(function):
        return Converted(name, function, getattr(convert, "py_func", convert))
    arguments, returned = signature.signature.args, signature.signature.return_type
    try:
        function.compile(arguments)
        if function.overloads[arguments].signature.return_type == returned:
            return function
        adapted = _adapt(function, convert, arguments)
    except (NumbaError, KeyError) as error:
        raise TypeError(f"{name} must compile from {arguments} to {returned}: {error}") from error
    if adapted.overloads[arguments].signature.return_type != returned:
        got = function.overloads[arguments].signature.return_type
        raise TypeError(f"{name} must return {returned}, got {got}")
    return adapted


class Converted:
    """A Python callable whose results are brought to the types that kernels expect."""

    def __init__(
        self, name: str, function: Callable[[Floats], Any], convert: Callable[..., Any]
    ) -> None:
        self.name = name
        self.function = function
        self.convert = convert

    def __call__(self, q: Floats) -> Any:
        """Return the converted results at q."""
        returned = self.function(q.copy())
        if not isinstance(returned, (tuple, list)) or len(returned) != 2:
            raise ValueError(f"{self.name} must return a pair, got {returned!r}")
        return self.convert(*returned)


@njit(cache=True)
def value_and_gradient(value, gradient):
    return float(value), np.ascontiguousarray(gradient).astype(np.float64)


@njit(cache=True)
def metric_and_derivative(metric, derivative):
    return (
        np.ascontiguousarray(metric).astype(np.float64),
        np.ascontiguousarray(derivative).astype(np.float64),
    )


def compile_for(kernel: Any, *arguments: Any) -> Callable[..., Any]:
    """Return `kernel` compiled for these argument types.

    The code is the same for all densities and kept on disk. It is called past Numba's dispatcher,
    which would look for a compiled form of each density's own type.
    """
    if arguments not in kernel.overloads:
        kernel.compile(arguments)
    return kernel.overloads[arguments].entry_point


@lru_cache(maxsize=64)
def as_python(kernel: Any) -> Callable[..., Any]:
    """Return the kernel's own source as plain Python, down to the calls of the user's functions.

    Kernels that call no user function stay compiled.
    """
    source = getattr(kernel, "py_func", kernel)
    names = dict(source.__globals__)
    for name in source.__code__.co_names:
        if name in names and _calls_user(names[name]):
            names[name] = as_python(names[name])
    return FunctionType(source.__code__, names, source.__name__, source.__defaults__)


def _calls_user(kernel: Any) -> bool:
    if not is_compiled(kernel):
        return False
    return any(name in CALLED_FROM_KERNELS for name in inspect.signature(kernel.py_func).parameters)


@lru_cache(maxsize=64)
def _adapt(function: Any, convert: Any, arguments: tuple[Any, ...]) -> Any:
    @njit
    def adapted(q):
        first, second = function(q)
        return convert(first, second)

    adapted.compile(arguments)
    return adapted
