"""Sphinx: API pages from the docstrings, the gallery from catalogue and records."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

project = "Thalweg"
author = "The Thalweg developers"
copyright = "2026, The Thalweg developers"
version = release = "0.1.0"

extensions = ["numpydoc", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.intersphinx"]
intersphinx_mapping: dict[str, tuple[str, None]] = {}
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = "Thalweg"
html_show_sourcelink = False
html_theme_options = {"show_prev_next": False, "show_toc_level": 2}
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
autodoc_typehints = "none"
# scikit-learn generates these for every estimator; their docstrings refer to pages of its own.
REQUESTS = ("fit", "score", "predict", "transform", "inverse_transform")
GENERATED = ("set_output", *(f"set_{name}_request" for name in REQUESTS))
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": ",".join(GENERATED),
}


def domains() -> list[str]:
    """Return the subpackages that hold methods."""
    stubs = (ROOT / "src" / "thalweg").glob("*/__init__.pyi")
    return sorted(s.parent.name for s in stubs if s.parent.name != "study" and public_names(s))


def public_names(stub: Path) -> list[str]:
    """Return the names that a stub exports, in its order."""
    body = ast.parse(stub.read_text(encoding="utf-8")).body
    return [
        alias.asname
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    ]


def write_api(domain: str) -> None:
    """Write the page of a domain: one section a public name."""
    import importlib
    import inspect

    module = importlib.import_module(f"thalweg.{domain}")
    heading = f"thalweg.{domain}"
    lines = [f".. _api-{domain}:", "", heading, "=" * len(heading), "", module.__doc__ or "", ""]
    for name in public_names(ROOT / "src" / "thalweg" / domain / "__init__.pyi"):
        target = getattr(module, name)
        kind = "autoclass" if inspect.isclass(target) else "autofunction"
        if not callable(target):
            kind = "autodata"
        lines += [name, "-" * len(name), "", f".. {kind}:: thalweg.{domain}.{name}", ""]
    page = HERE / "generated" / f"api-{domain}.rst"
    page.write_text("\n".join(lines), encoding="utf-8")


def write_gallery() -> None:
    """Write the gallery: every paper with a study, its state, its figures."""
    from thalweg.catalogue import papers
    from thalweg.study.gallery import shown_records, state

    lines = ["Gallery", "=======", "", "What each study measured; kept records.", ""]
    for entry in papers():
        if entry.planned:
            continue
        shown = shown_records(entry.slug, ROOT / "records", ROOT / "no-runs")
        lines += [entry.title, "-" * (2 * len(entry.title)), "", f"{entry.use}.", ""]
        lines += [f"``thalweg run {entry.slug}``: **{state(entry, shown)}**", ""]
        for item in shown:
            if item.figure is not None:
                path = Path("../..") / item.figure.relative_to(ROOT)
                lines += [f".. image:: {path.as_posix()}", f"   :alt: {entry.title}", ""]
            for claim in item.record.claims:
                measured = f"{claim.measured}: {claim.figure} (asked {claim.comparison})"
                text = f"{claim.verdict}: {claim.statement}. {measured}"
                lines += ["- " + text.replace("*", r"\*").replace("|", r"\|").replace("_", r"\_")]
            lines.append("")
    planned = [entry for entry in papers() if entry.planned]
    lines += ["Planned", "-------", "", f"{len(planned)} papers have no study yet:", ""]
    lines += [f"- {entry.title} ({entry.domain})" for entry in planned]
    (HERE / "generated" / "gallery.rst").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_bridges() -> None:
    """Write the table of all bridges from benchmarks/comparisons/bridges.json."""
    kept = json.loads((ROOT / "benchmarks" / "comparisons" / "bridges.json").read_text("utf-8"))
    lines = [
        f"Measured on one pair with a known plan ({kept['pair']}), {kept['threads']} thread; the",
        f"energy distance of two samples of the target is {kept['floor']:.1g}. The plan's error is",
        "the unexplained variance of its conditional laws (cBW2-UVP).",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: 34 14 12 8 7 9 9 7",
        "",
    ]
    header = ["solver: what it learns, how", "data", "joins as the bridge", "network calls"]
    rows = [[*header, "fit [s]", "5000 samples [s]", "energy distance", "plan error [%]"]]
    for row in kept["rows"]:
        plan = f"{row['plan_error']:.2g}" if row["coupling"] == "yes" else "–"
        numbers = [row["fit_seconds"], row["sample_seconds"], row["energy_distance"]]
        solver = f"``{row['name']}``: {row['learns']}; {row['training']}"
        cells = [solver, row["data"], row["coupling"], row["calls"]]
        rows.append([*cells, *(f"{value:.2g}" for value in numbers), plan])
    for cells in rows:
        lines += [f"   {'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(cells)]
    page = HERE / "generated" / "which-bridge.txt"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_optimisers() -> None:
    """Write the table of methods by what is known, from comparisons/optimisers.json."""
    text = (ROOT / "benchmarks" / "comparisons" / "optimisers.json").read_text("utf-8")
    header = ["what you know", "method, and what is guaranteed then", "cost", "bound", "reached"]
    rows = [
        [
            row["known"],
            f"``{row['method']}``: "
            + row["promise"].replace("*", r"\*").replace("|", r"\|").replace("_", r"\_"),
            row["cost"],
            f"{row['promised']:.2g}" if row["promised"] is not None else "–",
            f"{row['reached']:.2g}",
        ]
        for row in json.loads(text)["rows"]
    ]
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 22 42 18 9 9", ""]
    for cells in [header, *rows]:
        lines += [f"   {'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(cells)]
    page = HERE / "generated" / "which-optimiser.txt"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def setup(app: object) -> None:
    """Write the generated pages before Sphinx reads them."""
    (HERE / "generated").mkdir(exist_ok=True)
    for domain in domains():
        write_api(domain)
    write_gallery()
    write_bridges()
    write_optimisers()
