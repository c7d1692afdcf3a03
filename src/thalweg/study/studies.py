"""A study: what is run for a paper, at which sizes, what is claimed, and how it is drawn."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from thalweg.catalogue import paper
from thalweg.study.claims import PRESETS, Claim, Preset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.random import Generator

    Report = Callable[[float, str], None]


class Setup(SimpleNamespace):
    """The sizes of one run, read as attributes (``setup.players``)."""

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as a plain dict."""
        return dict(vars(self))


@dataclass(frozen=True)
class FileMethod:
    """What ``thalweg run SLUG --input FILE`` does with a user's own file.

    Parameters
    ----------
    run : callable
        ``run(path, setup, out, rng, report)``: read the file `path`, write results into the
        folder `out`, return a flat dict of what to print. A ValueError that it raises is shown as
        one line.
    expects : str
        One line: the formats and columns or arrays the file must have.
    options : dict
        The settings a user may change with ``--set key=value``, with their defaults.
    stdin : bool, default False
        Whether ``--input -`` may ask for standard input; `run` then gets ``Path("-")``.
    """

    run: Callable[[Path, Setup, Path, Generator, Report], Mapping[str, Any]]
    expects: str
    options: Mapping[str, Any] = field(default_factory=dict)
    stdin: bool = False


@dataclass(frozen=True)
class Study:
    """A paper's claims rerun.

    Parameters
    ----------
    paper : str
        Slug of the paper in the catalogue.
    quick, full, large : dict
        Settings of each preset: plain numbers, strings, booleans and tuples of them. `quick`
        takes at most ten seconds on one core, `full` at most ten minutes on two; `large` only
        where the subject is an accelerator or a cluster.
    run : callable
        ``run(setup, rng, report)`` returns a flat dict of plain numbers, strings and arrays;
        ``report(fraction, message)`` moves the progress bar.
    draw : callable
        ``draw(results, figure)`` draws the picture into a Matplotlib figure.
    claims : sequence of Claim
        What is judged.
    data : sequence of str
        Data sets without which nothing can be run. A set that only some claims need is named in
        those claims; `run` then asks `thalweg.data.available`.
    on_file : FileMethod, optional
        The same method on a user's file.
    """

    paper: str
    quick: Mapping[str, Any]
    full: Mapping[str, Any]
    run: Callable[[Setup, Generator, Report], Mapping[str, Any]]
    draw: Callable[[Mapping[str, Any], Figure], None]
    claims: Sequence[Claim]
    large: Mapping[str, Any] | None = None
    data: Sequence[str] = ()
    on_file: FileMethod | None = None

    def __post_init__(self) -> None:
        if not self.claims:
            raise ValueError(f"claims of {self.paper!r} must not be empty")
        keys = [(claim.statement, claim.key) for claim in self.claims]
        if len(set(keys)) != len(keys):
            raise ValueError(f"claims of {self.paper!r} must differ in statement or key")
        if set(self.quick) != set(self.full):
            odd = sorted(set(self.quick) ^ set(self.full))
            raise ValueError(f"quick and full of {self.paper!r} must have the same keys: {odd}")

    def preset(self, name: Preset, overrides: Mapping[str, Any] | None = None) -> Setup:
        """Return the settings of a preset with `overrides` in place.

        Parameters
        ----------
        name : {"quick", "full", "large"}
            The preset.
        overrides : dict, optional
            Other values; a string is read as the type of the preset's own value.

        Raises
        ------
        ValueError
            If the preset, a key or a value is not one of this study.
        """
        presets = {"quick": self.quick, "full": self.full, "large": self.large}
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
        settings = presets[name]
        if settings is None:
            raise ValueError(f"the study of {self.paper!r} has no preset {name!r}")
        return Setup(**override(settings, overrides or {}))


def override(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `settings` with `overrides`, strings read as the type of the value they replace.

    Examples
    --------
    >>> override({"players": 200, "eps": (0.1, 1.0)}, {"players": "50", "eps": "0.5,2"})
    {'players': 50, 'eps': (0.5, 2.0)}
    """
    merged = dict(settings)
    for key, value in overrides.items():
        if key not in merged:
            known = ", ".join(sorted(merged)) or "none"
            raise ValueError(f"--set: unknown key {key!r}; this study has: {known}")
        merged[key] = _read_like(key, value, settings[key])
    return merged


def load(slug: str) -> Study:
    """Return the study of a paper.

    Raises
    ------
    ValueError
        If the slug is unknown or its study has not been written.
    MissingExtraError
        If the study needs a package that is not installed.
    """
    entry = paper(slug)
    if entry.study is None:
        raise ValueError(f"{slug!r} is planned: it has no study yet")
    study: Study = importlib.import_module(entry.study).STUDY
    return study


def _read_like(key: str, value: Any, example: Any) -> Any:
    if not isinstance(value, str):
        value = value if not isinstance(value, list) else tuple(value)
        if type(value) is not type(example) and not (
            isinstance(example, float) and type(value) is int
        ):
            raise ValueError(f"--set: {key} must be like {example!r}, got {value!r}")
        return float(value) if isinstance(example, float) else value
    try:
        if isinstance(example, bool):
            return {"true": True, "1": True, "false": False, "0": False}[value.strip().lower()]
        if isinstance(example, int):
            return int(value)
        if isinstance(example, float):
            return float(value)
        if isinstance(example, tuple):
            element = example[0] if example else ""
            return tuple(_read_like(key, part, element) for part in value.split(",") if part)
    except (KeyError, ValueError):
        raise ValueError(f"--set: {key} must be like {example!r}, got {value!r}") from None
    return value
