"""The site: static HTML of all papers from catalogue and records, without network resources."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from thalweg.catalogue import Paper, papers
from thalweg.study.gallery import Shown, shown_records, state
from thalweg.study.record import shrink_png
from thalweg.study.usage import example, summary

TEMPLATES = files("thalweg.study") / "templates"
ASSETS = ("style.css", "search.js")
THUMBNAIL_BYTES = 30 * 1024


def build_site(
    out: str | Path = "site",
    *,
    records: str | Path = "records",
    runs: str | Path = "runs",
    benchmarks: str | Path = "benchmarks/results",
) -> Path:
    """Write the gallery and return the path of its index.

    Parameters
    ----------
    out : path, default "site"
        Folder for the site. A site of this library that lies there is replaced; any other folder
        that is not empty is refused.
    records, runs : path
        Kept records and runs of this machine.
    benchmarks : path
        Results of the comparisons (JSON), shown on a page of their own where there are any.

    Raises
    ------
    ValueError
        If `out` holds something else, or a record cannot be read.
    """
    out = Path(out)
    marker = out / ".thalweg-site"
    if out.exists() and not marker.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out: {out} is there and is no site of thalweg; name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-site-", dir=out.parent))
    try:
        _write(part, Path(records), Path(runs), Path(benchmarks))
        part.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out / "index.html"


def _write(out: Path, records: Path, runs: Path, benchmarks: Path) -> None:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: (TEMPLATES / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    (out / ".thalweg-site").touch()
    for name in ASSETS:
        (out / name).write_bytes((TEMPLATES / name).read_bytes())
    (out / "figures").mkdir()
    measured = _benchmarks(benchmarks)
    cards = []
    for entry in papers():
        shown = [] if entry.planned else shown_records(entry.slug, records, runs)
        cards.append(_card(entry, shown, out))
        page = environment.get_template("paper.html").render(
            **cards[-1],
            speed=measured,
            records=[_record(item, entry, number, out) for number, item in enumerate(shown)],
            example=example(entry),
            methods=[(name, summary(name)) for name in entry.methods],
        )
        (out / f"{entry.slug}.html").write_text(page, encoding="utf-8")
    domains = sorted({entry.domain for entry in papers()})
    states = sorted({card["state"] for card in cards})
    index = environment.get_template("index.html").render(
        cards=cards, domains=domains, states=states, speed=measured
    )
    (out / "index.html").write_text(index, encoding="utf-8")
    if measured:
        page = environment.get_template("speed.html").render(domains=measured, speed=measured)
        (out / "speed.html").write_text(page, encoding="utf-8")


def _card(entry: Paper, shown: list[Shown], out: Path) -> dict[str, Any]:
    thumbnail = None
    with_figure = [item for item in shown if item.figure is not None]
    if with_figure:
        thumbnail = f"figures/{entry.slug}-small.png"
        png = with_figure[0].figure
        assert png is not None
        (out / thumbnail).write_bytes(shrink_png(png.read_bytes(), THUMBNAIL_BYTES))
    judged = [claim for item in shown[:1] for claim in item.record.claims]
    return {
        "paper": entry,
        "state": state(entry, shown),
        "thumbnail": thumbnail,
        "holding": sum(claim.verdict == "holds" for claim in judged),
        "failing": sum(claim.verdict == "fails" for item in shown for claim in item.record.claims),
    }


def _record(item: Shown, entry: Paper, number: int, out: Path) -> dict[str, Any]:
    figure = None
    if item.figure is not None:
        figure = f"figures/{entry.slug}-{number}.png"
        (out / figure).write_bytes(item.figure.read_bytes())
    return {"record": item.record, "kept": item.kept, "figure": figure}


def _benchmarks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
