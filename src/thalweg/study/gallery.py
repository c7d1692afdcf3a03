"""The gallery: which records of a paper are shown, and in which state it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thalweg.catalogue import Paper
from thalweg.study.record import Record

GalleryState = Literal["planned", "not run", "holds", "does not hold", "failed", "skipped"]
_WORST_FIRST: tuple[GalleryState, ...] = ("failed", "does not hold", "holds", "skipped")


@dataclass(frozen=True)
class Shown:
    """A record and the picture beside it.

    Attributes
    ----------
    record : Record
        The record.
    folder : pathlib.Path
        Where it lies.
    kept : bool
        Whether it is a kept one, committed with the source.
    """

    record: Record
    folder: Path
    kept: bool

    @property
    def figure(self) -> Path | None:
        """The picture, if there is one."""
        path = self.folder / "figure.png"
        return path if path.is_file() else None


def shown_records(slug: str, records: Path, runs: Path) -> list[Shown]:
    """Return the kept record and the newest run that is newer, the kept one first.

    Raises
    ------
    ValueError
        If a record file cannot be read; the message names it.
    """
    shown = []
    kept = _read(records / slug, kept=True)
    if kept is not None:
        shown.append(kept)
    candidates = (_read(folder, kept=False) for folder in sorted(runs.glob(f"{slug}/*Z*")))
    newer = [run for run in candidates if run is not None]
    if newer:
        last = max(newer, key=lambda run: run.record.started)
        if kept is None or last.record.started > kept.record.started:
            shown.append(last)
    return shown


def state(entry: Paper, shown: list[Shown]) -> GalleryState:
    """Return the state of a paper: the worst among its shown records."""
    if entry.planned:
        return "planned"
    found = {item.record.state for item in shown}
    return next((state for state in _WORST_FIRST if state in found), "not run")


def _read(folder: Path, *, kept: bool) -> Shown | None:
    path = folder / "record.json"
    if not path.is_file():
        return None
    try:
        return Shown(Record.load(folder), folder, kept)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a record: {error}") from error
