"""Runs a study: seeds it, times it, judges its claims, draws its figure, and keeps what failed."""

from __future__ import annotations

import io
import traceback
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from thalweg import data
from thalweg._optional import MissingExtraError
from thalweg._validation import check_count
from thalweg.study.claims import Judgement, Preset
from thalweg.study.environment import Meter, describe_environment
from thalweg.study.record import Outcome, Record, State
from thalweg.study.studies import Study, load

FIGURE_INCHES = (9.0, 5.0)
FIGURE_DPI = 150


def run_study(
    slug: str,
    preset: Preset = "quick",
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    report: Callable[[float, str], None] | None = None,
) -> Outcome:
    """Run the study of a paper and return its record, picture and arrays.

    A study that raises gives a record in the state ``"failed"`` with the traceback; one that lacks
    an extra or a data set gives ``"skipped"`` with the command that would enable it.

    Parameters
    ----------
    slug : str
        The paper.
    preset : {"quick", "full", "large"}, default "quick"
        Its size.
    overrides : dict, optional
        Other values for settings of the preset.
    seed : int, default 0
        Seed of the generator that the study gets.
    report : callable, optional
        ``report(fraction, message)`` is called as the run goes on.

    Returns
    -------
    Outcome
        Record, picture and arrays; nothing is written.

    Raises
    ------
    ValueError
        If the slug, the preset, an override or the seed is wrong: before anything is run.
    """
    seed = check_count("seed", seed, at_least=0)
    started = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")

    def record(state: State, meter: Meter, **fields: Any) -> Record:
        empty: dict[str, Any] = {"setup": {}, "claims": [], "results": {}}
        return Record(
            paper=slug,
            preset=preset,
            seed=seed,
            state=state,
            started=started,
            wall_seconds=round(meter.wall_seconds, 3),
            cpu_seconds=round(meter.cpu_seconds, 3),
            peak_memory_mib=round(meter.peak_memory_mib, 1),
            environment=describe_environment(),
            **(empty | fields),
        )

    def broken(meter: Meter, error: Exception, **fields: Any) -> Outcome:
        if isinstance(error, (MissingExtraError, data.MissingDataError)):
            message = f"{error} [{error.command}]"
            return Outcome(record("skipped", meter, message=message, **fields))
        message = f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
        return Outcome(record("failed", meter, message=message, traceback=trace, **fields))

    try:
        study = load(slug)
    except ImportError as error:
        return broken(Meter(), error)
    setup = study.preset(preset, overrides)
    settings = setup.as_dict()
    meter = Meter()
    try:
        for name in study.data:
            data.fetch(name, download=False)
        with meter:
            results = dict(
                study.run(setup, np.random.default_rng(seed), report or (lambda *_: None))
            )
        claims = judge(study, results, preset)
        plain, arrays = _split(results)
        png, svg = _draw(study, results)
    except Exception as error:
        return broken(meter, error, setup=settings)
    state: State = "does not hold" if any(c.verdict == "fails" for c in claims) else "holds"
    done = record(state, meter, setup=settings, claims=claims, results=plain)
    return Outcome(done, png, svg, arrays)


def judge(study: Study, results: Mapping[str, Any], preset: Preset) -> list[Judgement]:
    """Compare the results of a run with every claim of the study."""
    needed = {name for claim in study.claims for name in claim.datasets}
    missing = {name for name in needed if not data.available(name)}
    return [claim.judge(results, preset, missing) for claim in study.claims]


def _split(results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Separate plain values, which go into the JSON, from arrays, which go beside it."""
    plain: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for key, value in results.items():
        if isinstance(value, (bool, np.bool_)):
            plain[key] = bool(value)
        elif isinstance(value, (int, np.integer)):
            plain[key] = int(value)
        elif isinstance(value, (float, np.floating)):
            plain[key] = float(value)
        elif isinstance(value, str) or value is None:
            plain[key] = value
        else:
            array = np.asarray(value)
            if array.dtype.kind not in "biufcUS":
                raise TypeError(
                    f"result {key!r} must be a number, a string or an array of them, "
                    f"got {type(value).__name__}"
                )
            if array.ndim == 0:
                plain[key] = array.item()
            else:
                arrays[key] = array
    return plain, arrays


def _draw(study: Study, results: Mapping[str, Any]) -> tuple[bytes, bytes]:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "font.size": 10,
        "svg.hashsalt": "thalweg",
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Gg]lyph .* missing.*")
        figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
        FigureCanvasAgg(figure)
        study.draw(results, figure)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=FIGURE_DPI)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return png.getvalue(), svg.getvalue()
