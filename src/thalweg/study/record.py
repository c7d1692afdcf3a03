"""The record of one run: claims, figures, settings and environment, as JSON that others can read.

A record is written with its picture and arrays into a fresh folder that appears whole or not at
all. `keep` puts the small part of it (JSON and a picture) where it is committed.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from thalweg.study.claims import Judgement, Preset

SCHEMA_VERSION = 1
KEPT_FIGURE_BYTES = 100 * 1024
State = Literal["holds", "does not hold", "failed", "skipped"]


@dataclass(frozen=True)
class Record:
    """What one run of a study measured.

    Attributes
    ----------
    paper : str
        Slug of the paper.
    preset, setup, seed : str, dict, int
        What was run; the same three give the same figures on the same versions.
    state : {"holds", "does not hold", "failed", "skipped"}
        Whether every judged claim holds; ``"failed"`` when the study raised.
    claims : list of Judgement
        The claims in the study's order.
    results : dict
        The plain figures of the run (arrays are stored beside the record).
    started : str
        UTC time, ISO 8601.
    wall_seconds, cpu_seconds, peak_memory_mib : float
        What it cost.
    environment : dict
        Versions, processor, threads, revision.
    message : str
        Why it was skipped and what would enable it, or the last line of the traceback.
    traceback : str
        The whole traceback if the study raised.
    """

    paper: str
    preset: Preset
    setup: dict[str, Any]
    seed: int
    state: State
    claims: list[Judgement]
    results: dict[str, Any]
    started: str
    wall_seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    environment: dict[str, Any]
    message: str = ""
    traceback: str = ""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Return the record as JSON text; numbers that are not finite become strings."""
        return json.dumps(_encode(asdict(self)), indent=1, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read a record.

        Raises
        ------
        ValueError
            If the text is no record, or one of a newer schema.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or "schema_version" not in content:
            raise ValueError("not a record: schema_version is missing")
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"record has schema_version {content['schema_version']!r}; "
                f"this version reads {SCHEMA_VERSION}"
            )
        try:
            claims = [Judgement(**_decode_value(claim)) for claim in content.pop("claims")]
            return cls(claims=claims, **content)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a record: {error}") from error

    @classmethod
    def load(cls, folder: str | Path) -> Record:
        """Read ``record.json`` in `folder`."""
        return cls.from_json(Path(folder, "record.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Outcome:
    """A record with the picture and the arrays of the same run.

    Attributes
    ----------
    record : Record
        The record.
    png, svg : bytes
        The picture; empty if there is none.
    arrays : dict of ndarray
        Arrays of the results.
    """

    record: Record
    png: bytes = b""
    svg: bytes = b""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def save(self, root: str | Path) -> Path:
        """Write everything under ``root/<slug>/<UTC time>/`` and return that folder."""
        stamp = self.record.started.replace(":", "").replace("-", "").split(".")[0] + "Z"
        parent = Path(root, self.record.paper)
        parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=parent))
        try:
            (part / "record.json").write_text(self.record.to_json(), encoding="utf-8")
            if self.png:
                (part / "figure.png").write_bytes(self.png)
            if self.svg:
                (part / "figure.svg").write_bytes(self.svg)
            if self.arrays:
                np.savez_compressed(part / "arrays.npz", allow_pickle=False, **self.arrays)
            part.chmod(0o755)
            return _rename_to_free_name(part, parent, stamp)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def keep(self, root: str | Path) -> Path:
        """Write the record without arrays and a picture of at most 100 KB to ``root/<slug>/``."""
        folder = Path(root, self.record.paper)
        folder.mkdir(parents=True, exist_ok=True)
        if self.png:
            write_atomically(folder / "figure.png", shrink_png(self.png, KEPT_FIGURE_BYTES))
        write_atomically(folder / "record.json", (self.record.to_json() + "\n").encode())
        return folder


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def shrink_png(png: bytes, limit: int) -> bytes:
    """Return the picture as a PNG of at most `limit` bytes: fewer colours, then fewer pixels."""
    from PIL import Image

    if len(png) <= limit:
        return png
    image = Image.open(io.BytesIO(png)).convert("RGB")
    scale = 1.0
    while True:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        smaller = image.resize(size, Image.Resampling.LANCZOS) if scale < 1 else image
        buffer = io.BytesIO()
        smaller.quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= limit or max(size) <= 64:
            return buffer.getvalue()
        scale *= 0.9


def _rename_to_free_name(part: Path, parent: Path, stamp: str) -> Path:
    for attempt in range(1000):
        target = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        if target.exists():
            continue
        try:
            os.rename(part, target)
        except OSError:
            if target.exists():
                continue
            raise
        return target
    raise FileExistsError(f"no free folder name for {stamp} in {parent}")


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _encode(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode_value(claim: dict[str, Any]) -> dict[str, Any]:
    value = claim["value"]
    if isinstance(value, list):
        return claim | {"value": [float(v) for v in value]}
    return claim if value is None else claim | {"value": float(value)}
