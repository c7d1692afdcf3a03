"""Runs a paper's method on a user's own file; the results appear together or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from thalweg._validation import check_count
from thalweg.study.studies import Setup, load, override


def run_on_file(
    slug: str,
    path: str | Path,
    *,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    report: Callable[[float, str], None] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Run the method of a paper on a file.

    Parameters
    ----------
    slug : str
        The paper.
    path : path
        The user's file; ``-`` is standard input, where the method takes it.
    out : path, optional
        Folder for the results; ``runs/<slug>/input-<UTC time>`` if None.
    overrides : dict, optional
        Settings of the method.
    seed : int, default 0
        Seed of the generator that the method gets.
    report : callable, optional
        ``report(fraction, message)`` is called as the run goes on.

    Returns
    -------
    folder : pathlib.Path
        Where the results are.
    summary : dict
        What the method reports, also in ``summary.json`` there.

    Raises
    ------
    ValueError
        If the paper takes no file, or the file or a setting is wrong.
    FileNotFoundError
        If there is no such file.
    """
    seed = check_count("seed", seed, at_least=0)
    method = load(slug).on_file
    if method is None:
        raise ValueError(f"--input: the study of {slug!r} takes no file")
    path = Path(path)
    if str(path) == "-":
        if not method.stdin:
            raise ValueError(f"--input: {slug!r} takes no standard input (-), give a file")
    elif not path.is_file():
        raise FileNotFoundError(f"--input: there is no file {str(path)!r}")
    setup = Setup(**override(method.options, overrides or {}))
    if out is None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        folder = Path("runs", slug, f"input-{stamp}")
    else:
        folder = Path(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        rng = np.random.default_rng(seed)
        summary = dict(method.run(path, setup, part, rng, report or (lambda *_: None)))
        text = json.dumps(summary, indent=1, ensure_ascii=False, default=_plain)
        (part / "summary.json").write_text(text + "\n", encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for written in sorted(part.iterdir()):
            os.replace(written, folder / written.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder, summary


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a summary must hold plain values, got {type(value).__name__}")
