"""The commands of ``thalweg``: papers, show, run, verify, site, data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from thalweg.catalogue import Paper, paper, papers
from thalweg.cli import output

app = typer.Typer(
    name="thalweg",
    help="Methods for going downhill, and studies that rerun their papers' claims.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Data sets of others: what is here, and how to get it.")
app.add_typer(data_app, name="data")


class PresetName(StrEnum):
    """Sizes of a study."""

    quick = "quick"
    full = "full"
    large = "large"


def _complete_slug(incomplete: str) -> list[str]:
    return [p.slug for p in papers() if p.study and p.slug.startswith(incomplete)]


def _complete_any_slug(incomplete: str) -> list[str]:
    return [p.slug for p in papers() if p.slug.startswith(incomplete)]


def _complete_domain(incomplete: str) -> list[str]:
    return [d for d in sorted({p.domain for p in papers()}) if d.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
DomainOption = Annotated[
    str | None,
    typer.Option("--domain", help="Only this domain.", autocompletion=_complete_domain),
]
Records = Annotated[Path, typer.Option("--records", help="Folder of kept records.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the run.")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from thalweg import __version__

        typer.echo(f"thalweg {__version__}")
        raise typer.Exit


@app.command("papers")
def list_papers(
    word: Annotated[str | None, typer.Argument(help="A word of title, use or methods.")] = None,
    domain: DomainOption = None,
    json: Json = False,
) -> None:
    """List the catalogue."""
    chosen = _of_domain(domain)
    if word:
        chosen = [p for p in chosen if word.lower() in output.searchable(p)]
    output.papers_table(chosen, as_json=json)


@app.command()
def show(
    slug: Annotated[str, typer.Argument(autocompletion=_complete_any_slug)],
    records: Records = Path("records"),
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    json: Json = False,
) -> None:
    """Say what a paper is for, how to call it, its claims and the last record."""
    output.paper_page(paper(slug), records, runs, as_json=json)


@app.command()
def run(
    slugs: Annotated[list[str], typer.Argument(metavar="SLUG...", autocompletion=_complete_slug)],
    preset: Annotated[PresetName, typer.Option(help="Size of the study.")] = PresetName.quick,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")
    ] = None,
    seed: Seed = 0,
    input: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run the method on this file instead.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write (default: runs/).")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Also put the record under records/.")
    ] = False,
    records: Records = Path("records"),
    json: Json = False,
) -> None:
    """Rerun the claims of papers, or run a method on your own file."""
    overrides = _settings(settings)
    for slug in slugs:
        _studied(slug)
    if input is not None:
        if len(slugs) != 1:
            raise ValueError(f"--input takes one paper, got {len(slugs)}")
        _run_on_file(slugs[0], input, out, overrides, seed, json)
        return
    from thalweg.study.runner import run_study
    from thalweg.study.studies import load

    for slug in slugs:
        load(slug).preset(preset.value, overrides)
    outcomes = []
    for slug in slugs:
        with output.progress(slug) as report:
            outcome = run_study(slug, preset.value, overrides=overrides, seed=seed, report=report)
        folder = outcome.save(out or Path("runs"))
        if keep:
            if outcome.record.state not in ("holds", "does not hold"):
                output.warn(f"{slug} is {outcome.record.state}: not kept")
            else:
                outcome.keep(records)
        outcomes.append(outcome)
        if not json:
            output.record_page(outcome.record, folder)
    if json:
        output.records_json([outcome.record for outcome in outcomes])
    _exit(outcomes, skipped=2)


@app.command()
def verify(
    domain: DomainOption = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes (default: one a core).")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler, tcp://host:port.")
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("runs"),
    json: Json = False,
) -> None:
    """Run all quick presets; exit code 1 if a claim fails or a study breaks."""
    from thalweg.study.environment import usable_cores
    from thalweg.study.verify import dask_executor, local_executor, run_many

    slugs = [p.slug for p in _of_domain(domain) if not p.planned]
    pool = dask_executor(scheduler) if scheduler else local_executor(jobs or usable_cores())
    outcomes = []
    with pool as executor:
        for outcome in run_many(slugs, executor, seed=seed):
            outcomes.append(outcome)
            outcome.save(out)
            if not json:
                output.verify_line(outcome.record, len(outcomes), len(slugs))
    outcomes.sort(key=lambda outcome: slugs.index(outcome.record.paper))
    if json:
        output.records_json([outcome.record for outcome in outcomes])
    else:
        output.verify_table([outcome.record for outcome in outcomes])
    _exit(outcomes, skipped=0)


@app.command()
def site(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("site"),
    records: Records = Path("records"),
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
    benchmarks: Annotated[Path, typer.Option(help="Results of the comparisons.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Build the gallery: static HTML of every paper."""
    from thalweg.study.site import build_site

    index = build_site(out, records=records, runs=runs, benchmarks=benchmarks)
    typer.echo(f"site: {index.resolve()}")


@data_app.command("list")
def data_list(json: Json = False) -> None:
    """List the data sets and where each lies."""
    output.data_table(as_json=json)


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Names (default: all).")] = None,
) -> None:
    """Fetch data sets into the cache and print their paths."""
    from thalweg import data

    failed = []
    for name in names or [dataset.name for dataset in data.datasets()]:
        try:
            typer.echo(str(data.fetch(name)))
        except data.MissingDataError as error:
            failed.append(name)
            output.complain(error)
    if failed:
        raise typer.Exit(2)


def _of_domain(domain: str | None) -> list[Paper]:
    known = sorted({p.domain for p in papers()})
    if domain is not None and domain not in known:
        raise ValueError(f"--domain: unknown domain {domain!r}; there are: {', '.join(known)}")
    return [p for p in papers() if domain in (None, p.domain)]


def _studied(slug: str) -> None:
    if paper(slug).planned:
        raise ValueError(f"{slug!r} is planned: it has no study yet; see: thalweg papers")


def _settings(settings: list[str] | None) -> dict[str, str]:
    parsed = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"--set: expected key=value, got {setting!r}")
        parsed[key.strip()] = value
    return parsed


def _run_on_file(
    slug: str, path: Path, out: Path | None, overrides: dict[str, str], seed: int, json: bool
) -> None:
    from thalweg.study.on_file import run_on_file

    with output.progress(slug) as report:
        folder, summary = run_on_file(
            slug, path, out=out, overrides=overrides, seed=seed, report=report
        )
    output.file_summary(folder, summary, as_json=json)


def _exit(outcomes: list, *, skipped: int) -> None:
    states = {outcome.record.state for outcome in outcomes}
    if states & {"failed", "does not hold"}:
        raise typer.Exit(1)
    if "skipped" in states and skipped:
        raise typer.Exit(skipped)
