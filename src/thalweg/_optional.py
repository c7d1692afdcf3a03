"""Errors for what is not installed: each names the command that installs it."""

from __future__ import annotations


class MissingExtraError(ImportError):
    """An optional dependency is missing.

    Parameters
    ----------
    extra : str
        The extra of this distribution that brings the dependency, such as ``"torch"``.

    Attributes
    ----------
    command : str
        The shell command that installs it.
    """

    def __init__(self, extra: str) -> None:
        self.extra = extra
        self.command = f'pip install "thalweg[{extra}]"'
        super().__init__(f"this needs the extra {extra!r}; install it with: {self.command}")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str]]:
        return type(self), (self.extra,)
