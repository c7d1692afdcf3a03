"""Run the comparisons of a domain and print one table: workload, ours, peer, ratio, accuracy.

    python benchmarks/table.py [DOMAIN ...]      (make bench WHAT=streams)

The result is written to benchmarks/results/<domain>.json, which the README and the site show.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from thalweg.study.environment import describe_environment

HERE = Path(__file__).parent
THREADS = os.environ.get("BENCH_THREADS", "2")


def main(domains: list[str]) -> int:
    known = sorted(path.parent.name for path in HERE.glob("*/bench_*.py"))
    known = list(dict.fromkeys(known))
    unknown = sorted(set(domains) - set(known))
    if unknown:
        print(f"no benchmarks for {', '.join(unknown)}; there are: {', '.join(known)}")
        return 2
    failed = False
    for domain in domains or known:
        rows, missing, code = run_domain(domain)
        failed |= code not in (0, 5)
        write(domain, rows, missing)
        show(domain, rows, missing)
    write_readme_table()
    return int(failed)


def run_domain(domain: str) -> tuple[list[dict[str, Any]], list[str], int]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "benchmark.json")
        command = [
            sys.executable,
            "-m",
            "pytest",
            *map(str, sorted((HERE / domain).glob("bench_*.py"))),
        ]
        command += ["-q", "-rs", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "timeout=1800"]
        command += [f"--benchmark-json={report}", "--benchmark-disable-gc", "--no-header"]
        command += ["--benchmark-columns=min,median,rounds"]
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), THREADS
        )
        done = subprocess.run(
            command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True
        )
        print(done.stdout)
        entries = json.loads(report.read_text())["benchmarks"] if report.exists() else []
    missing = sorted(
        {
            line.split("missing peer: ")[1].split(" ")[0]
            for line in done.stdout.splitlines()
            if "missing peer: " in line
        }
    )
    return compare(entries), missing, done.returncode


def compare(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Set ours beside every peer of the same workload."""
    by_workload: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        info = entry["extra_info"]
        measured = {
            "entrant": info["entrant"],
            "seconds": entry["stats"]["min"],
            "accuracy": info.get("accuracy"),
            "measure": info["measure"],
            "version": info.get("version"),
            "target": info.get("target"),
        }
        by_workload.setdefault(info["workload"], []).append(measured)
    rows = []
    for workload, entrants in by_workload.items():
        ours = [e for e in entrants if e["entrant"].startswith("thalweg")]
        peers = [e for e in entrants if not e["entrant"].startswith("thalweg")]
        for our in ours:
            for peer in peers or [None]:
                ratio = peer["seconds"] / our["seconds"] if peer else None
                rows.append({"workload": workload, "ours": our, "peer": peer, "ratio": ratio})
    return rows


def write(domain: str, rows: list[dict[str, Any]], missing: list[str]) -> None:
    target = HERE / "results" / f"{domain}.json"
    target.parent.mkdir(exist_ok=True)
    content = {
        "domain": domain,
        "date": datetime.now(UTC).date().isoformat(),
        "threads": int(THREADS),
        "python": platform.python_version(),
        "environment": describe_environment(),
        "missing": missing,
        "rows": rows,
    }
    target.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(domain: str, rows: list[dict[str, Any]], missing: list[str]) -> None:
    table = Table(title=f"{domain}: fastest of the rounds, {THREADS} threads")
    for name in ("workload", "ours", "peer", "ratio", "target", "accuracy (ours, peer)"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*cells(row))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for name in missing:
        console.print(f"missing peer: {name}")


def cells(row: dict[str, Any]) -> list[str]:
    ours, peer = row["ours"], row["peer"]
    if peer is None:
        return [
            row["workload"],
            f"{ours['entrant']}: {seconds(ours)}",
            "no peer",
            "",
            "",
            accuracy(ours),
        ]
    version = f" {peer['version']}" if peer["version"] else ""
    target = "" if peer["target"] is None else f">= {peer['target']:g}"
    return [
        row["workload"],
        f"{ours['entrant']}: {seconds(ours)}",
        f"{peer['entrant']}{version}: {seconds(peer)}",
        f"{row['ratio']:.3g}x",
        target,
        f"{ours['measure']}: {ours['accuracy']:.2g}, {peer['accuracy']:.2g}",
    ]


def seconds(entrant: dict[str, Any]) -> str:
    value = entrant["seconds"]
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def accuracy(entrant: dict[str, Any]) -> str:
    return f"{entrant['measure']}: {entrant['accuracy']:.2g}"


def write_readme_table() -> None:
    """Put the comparisons that have a target between the markers in the README."""
    readme = HERE.parent / "README.md"
    begin, end = "<!-- speed: begin -->\n", "<!-- speed: end -->"
    text = readme.read_text(encoding="utf-8")
    if begin not in text:
        return
    lines = [
        "| workload | ours | peer | ratio | wanted | accuracy (ours, peer) |",
        "|---|---|---|---|---|---|",
    ]
    for path in sorted((HERE / "results").glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            if row["peer"] is not None and row["peer"]["target"] is not None:
                lines.append(f"| {' | '.join(cells(row))} |")
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    readme.write_text(head + begin + "\n".join(lines) + "\n" + end + tail, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
