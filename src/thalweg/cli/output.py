"""What the commands print: tables and pages by Rich, or JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from thalweg.catalogue import Paper

if TYPE_CHECKING:
    from thalweg.study.record import Record

STYLES = {
    "holds": "green",
    "fails": "bold red",
    "does not hold": "bold red",
    "failed": "bold red",
    "reported": "cyan",
    "skipped": "yellow",
    "planned": "dim",
}


def console() -> Console:
    """Return a console on standard output; 100 columns where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 100, highlight=False, soft_wrap=False)


def complain(error: BaseException) -> None:
    """Print an error as one line on standard error."""
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"thalweg: {text}", file=sys.stderr)  # noqa: T201


def warn(text: str) -> None:
    """Print a warning as one line on standard error."""
    print(f"thalweg: {text}", file=sys.stderr)  # noqa: T201


def searchable(entry: Paper) -> str:
    """Return the lower-case text of a paper in which words are looked for."""
    parts = (entry.title, entry.slug, entry.use, entry.arxiv, *entry.methods)
    return " ".join(parts).lower()


def papers_table(entries: Sequence[Paper], *, as_json: bool) -> None:
    """List papers."""
    if as_json:
        print_json([asdict(entry) | {"planned": entry.planned} for entry in entries])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("No.", justify="right")
    table.add_column("slug", no_wrap=True)
    table.add_column("domain", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("what you do with it")
    for entry in entries:
        table.add_row(
            str(entry.number),
            entry.slug,
            entry.domain,
            _state("planned" if entry.planned else "ready"),
            escape(entry.use),
        )
    out = console()
    out.print(table)
    ready = sum(not entry.planned for entry in entries)
    out.print(f"{len(entries)} papers, {ready} with a study")


def paper_page(entry: Paper, records: Path, runs: Path, *, as_json: bool) -> None:
    """Say what a paper is for, how to call it, its claims and the last record."""
    if entry.planned:
        if as_json:
            print_json(asdict(entry) | {"planned": True})
        else:
            _heading(entry)
            console().print("Planned: its method and study have not been written yet.")
        return
    from thalweg.study.gallery import shown_records
    from thalweg.study.studies import load
    from thalweg.study.usage import example

    shown = shown_records(entry.slug, records, runs)
    claims = load(entry.slug).claims
    if as_json:
        content = asdict(entry) | {"planned": False, "example": example(entry)}
        content["claims"] = [
            {"statement": c.statement, "measured": c.measured, "comparison": str(c.comparison)}
            for c in claims
        ]
        content["records"] = [json.loads(item.record.to_json()) for item in shown]
        print_json(content)
        return
    _heading(entry)
    out = console()
    out.print("\n[bold]How to call it[/bold]")
    out.print(escape("\n".join(f"    {line}" for line in example(entry).splitlines())))
    if shown:
        record_page(shown[-1].record, shown[-1].folder)
        return
    table = _claims_table("asked")
    for claim in claims:
        table.add_row(escape(claim.statement), escape(claim.measured), str(claim.comparison))
    out.print("\n[bold]Claims[/bold]")
    out.print(table)
    out.print(f"Not run yet: thalweg run {entry.slug}")


def record_page(record: Record, folder: Path) -> None:
    """Show the claims of a record with their figures."""
    out = console()
    out.print(
        f"\n[bold]{record.paper}[/bold]  preset {record.preset}, seed {record.seed}, "
        f"{record.wall_seconds:.1f} s, {record.peak_memory_mib:.0f} MiB: {_state(record.state)}"
    )
    if record.claims:
        table = _claims_table("figure", "asked", "verdict")
        for claim in record.claims:
            table.add_row(
                escape(claim.statement),
                escape(claim.measured),
                escape(claim.figure),
                claim.comparison,
                _state(claim.verdict),
            )
        out.print(table)
    if record.message:
        out.print(escape(record.message), style="yellow")
    if record.traceback:
        out.print(escape(record.traceback), style="dim")
    out.print(f"{folder}", style="dim", soft_wrap=True)


def records_json(records: Sequence[Record]) -> None:
    """Print records as a JSON list."""
    print_json([json.loads(record.to_json()) for record in records])


def verify_line(record: Record, done: int, total: int) -> None:
    """Print one line for a study that ended."""
    judged = [c for c in record.claims if c.verdict in ("holds", "fails")]
    held = sum(c.verdict == "holds" for c in judged)
    figures = f"{held} of {len(judged)} claims" if judged else escape(record.message[:200])
    console().print(
        f"[dim]{done}/{total}[/dim] {record.paper}: {_state(record.state)} "
        f"({figures}, {record.wall_seconds:.1f} s)"
    )


def verify_table(records: Sequence[Record]) -> None:
    """Summarise a verification, failed claims by name."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("paper", "state", "hold", "fail", "skipped", "reported"):
        table.add_column(name, justify="left" if name in ("paper", "state") else "right")
    table.add_column("seconds", justify="right")
    for record in records:
        counts = [
            str(sum(c.verdict == verdict for c in record.claims))
            for verdict in ("holds", "fails", "skipped", "reported")
        ]
        table.add_row(record.paper, _state(record.state), *counts, f"{record.wall_seconds:.1f}")
    out = console()
    out.print()
    out.print(table)
    for record in records:
        for claim in record.claims:
            if claim.verdict == "fails":
                text = f"{record.paper}: {claim.measured} is {claim.figure}"
                out.print(escape(f"{text}, asked {claim.comparison}"), style="red")
        if record.state in ("failed", "skipped"):
            out.print(escape(f"{record.paper}: {record.message}"), style="yellow")


def data_table(*, as_json: bool) -> None:
    """List data sets and where they lie."""
    from thalweg import data

    rows = [(dataset, data.find(dataset.name)) for dataset in data.datasets()]
    if as_json:
        print_json([asdict(d) | {"found": None if p is None else str(p)} for d, p in rows])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("name", "here", "download", "what it holds"):
        table.add_column(name, no_wrap=name != "what it holds")
    for dataset, path in rows:
        here = "[green]yes[/green]" if path else "[yellow]no[/yellow]"
        table.add_row(dataset.name, here, "yes" if dataset.url else "no", escape(dataset.about))
    out = console()
    out.print(table)
    out.print(f"A set that cannot be downloaded is looked for in the folder ${data.VARIABLE}.")


def file_summary(folder: Path, summary: Mapping[str, Any], *, as_json: bool) -> None:
    """Show what a method reported about a user's file, and what it wrote."""
    if as_json:
        content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        print_json({"folder": str(folder), "summary": content})
        return
    out = console()
    for key, value in summary.items():
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        out.print(f"[bold]{escape(key.replace('_', ' '))}[/bold]: {escape(text)}")
    written = ", ".join(sorted(path.name for path in folder.iterdir()))
    out.print(f"{folder}: {written}", style="dim", soft_wrap=True)


@contextmanager
def progress(label: str) -> Iterator[Callable[[float, str], None]]:
    """Show a progress bar on standard error where it is a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    err = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[label]}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", style="dim"),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=1.0, label=label)

        def report(fraction: float, message: str) -> None:
            bar.update(task, completed=fraction, description=escape(message))

        yield report


def print_json(content: Any) -> None:
    """Print JSON on standard output."""
    json.dump(content, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


def _heading(entry: Paper) -> None:
    out = console()
    out.print(f"[bold]{escape(entry.title)}[/bold]")
    out.print(escape(f"{entry.use}."))
    where = f", {entry.url}" if entry.url else ""
    out.print(f"{entry.domain}, {entry.year}{where}", style="dim")
    if entry.methods:
        out.print(f"methods: {', '.join(entry.methods)}", style="dim")


def _claims_table(*columns: str) -> Table:
    table = Table(pad_edge=False, header_style="bold", show_lines=False)
    table.add_column("claim", ratio=3)
    table.add_column("measured", ratio=3)
    for name in columns:
        table.add_column(name, ratio=None if name == "verdict" else 2)
    return table


def _state(state: str) -> str:
    style = STYLES.get(state)
    return f"[{style}]{state}[/{style}]" if style else state
