"""How a method is called: the example of its docstring, as code to copy."""

from __future__ import annotations

import doctest
import importlib
import inspect

from thalweg._optional import MissingExtraError
from thalweg.catalogue import Paper


def example(entry: Paper) -> str:
    """Return code that calls the paper's first method, with what it prints as comments.

    The import line alone is returned where the method is not documented by an example, or needs
    an extra that is not installed.
    """
    if not entry.methods:
        return ""
    module, name = entry.methods[0].rsplit(".", 1)
    fallback = f"from {module} import {name}"
    try:
        method = getattr(importlib.import_module(module), name)
    except MissingExtraError as error:
        return f"# {error.command}\n{fallback}"
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(method) or "")
    if not examples:
        return fallback
    lines: list[str] = []
    if not any("import" in e.source and name in e.source for e in examples):
        lines.append(fallback)
    for entry_ in examples:
        lines.append(entry_.source.rstrip())
        lines.extend(f"# {line}" for line in entry_.want.rstrip().splitlines())
    return "\n".join(lines)


def summary(dotted: str) -> str:
    """Return the first line of a method's docstring, empty where it cannot be imported."""
    module, name = dotted.rsplit(".", 1)
    try:
        method = getattr(importlib.import_module(module), name)
    except MissingExtraError:
        return ""
    return (inspect.getdoc(method) or "").partition("\n")[0]
