"""Newman's iteration finds Zermelo's strengths, at best in hundreds of times fewer sweeps."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from thalweg import data
from thalweg.streams import BradleyTerry, convergence_rate, fit_bradley_terry, wins_matrix
from thalweg.study import Claim, FileMethod, Study, at_least, at_most, reported

FAMILY = (0.0, 0.25, 0.5, 1.0)  # from Newman's rule to Zermelo's
LABELS = ("Newman, α = 0", "α = 0.25", "α = 0.5", "Zermelo, α = 1")
COLOURS = ("#0b5394", "#3d9970", "#e69f00", "#b22222")
TIGHT = 1e-14  # Zermelo's error at a stop is this over 1 - rate: below 1e-6 on every set
WATCHED_SWEEPS = 100
RATE_SWEEPS = 40
PERTURBATION = 1e-6
LARGEST_TABLE_OF_ERRORS = 3000


def run(setup, rng, report):
    """Sweeps of each member of the family on each set of games, and checks near the solution."""
    results = {}
    names = [n for n in setup.sets if n != "football" or data.available("football-results")]
    seeds = rng.spawn(setup.seeds)
    sweeps, differences, falls, rates = [], [], [], []
    for at, name in enumerate(names):
        report(at / len(names), name)
        draws = [football_wins()] if name == "football" else [SETS[name](seed) for seed in seeds]
        counts = np.array(
            [[fit_bradley_terry(w, alpha=a, prior=0).nit for a in FAMILY] for w in draws]
        )
        sweeps.append(counts)
        results[f"{name}_players"] = draws[0].shape[0]
        results[f"{name}_sweeps"] = counts[0]
        results[f"{name}_sweep_ratio"] = counts[:, -1] / counts[:, 0]
        report((at + 0.3) / len(names), f"{name}: the same strengths")
        found = [
            fit_bradley_terry(draws[0], alpha=a, prior=0, tol=TIGHT, max_iter=10**6).x
            for a in (0.0, 1.0)
        ]
        differences.append(np.abs(found[0] - found[1]).max())
        for a in FAMILY:
            report((at + 0.6 + 0.1 * a) / len(names), f"{name}: updates and rate, α = {a:g}")
            distances, fall, end = record_run(draws[0], a, found[0])
            falls.append(fall)
            predicted = convergence_rate(draws[0], found[0], alpha=a)
            rates.append((contraction(draws[0], a, found[0], end), predicted))
            results[f"{name}_distances_{a:g}"] = distances
        results[f"{name}_rates"] = np.array([predicted for _, predicted in rates[-len(FAMILY) :]])
    measured, predicted = np.array(rates).T
    results |= {
        "sets": names,
        "largest_difference": differences,
        "least_increase": min(int(np.diff(counts, axis=1).min()) for counts in sweeps),
        "largest_fall": max(falls),
        "rate_error": np.abs(measured / predicted - 1).max(),
        "decay_error": np.abs(np.log(measured) / np.log(predicted) - 1).max(),
    }
    if "football" in names:
        results |= rank_football()
    return results


def record_run(wins, alpha, solution):
    """Return the distances to the solution, the largest relative fall of the likelihood, the end.

    A sweep updates players in order, so that the strengths before and after it (its final shift
    taken off) tell every state between, and each update's gain is a sum over the player's games.
    """
    n = len(solution)
    both = (wins + wins.T).tocsr()
    both.sort_indices()
    row, column = np.repeat(np.arange(n), np.diff(both.indptr)), both.indices
    played, won = both.data, np.asarray(wins.sum(axis=1)).ravel()
    before, distances, falls = np.zeros(n), [], []

    def watch(state):
        nonlocal before
        distances.append(np.sqrt(np.mean((state.x - solution) ** 2)))
        if state.nit <= WATCHED_SWEEPS:
            after = state.x - state.shift
            other = np.where(column < row, after[column], before[column])
            cost = np.logaddexp(after[row], other) - np.logaddexp(before[row], other)
            gain = won * (after - before) - np.add.reduceat(played * cost, both.indptr[:-1])
            falls.append(-gain.min())
        before = state.x

    result = fit_bradley_terry(wins, alpha=alpha, prior=0, tol=1e-9, max_iter=10**6, callback=watch)
    return np.array(distances), max(falls) / result.fun, result.x


def contraction(wins, alpha, solution, near):
    """Return the mean factor by which sweeps shrink a small distance, kept small but not tiny."""
    offset = near - solution
    factors = []
    for _ in range(RATE_SWEEPS):
        offset *= PERTURBATION / np.linalg.norm(offset)
        offset -= offset.mean()
        size = np.linalg.norm(offset)
        moved = fit_bradley_terry(wins, alpha=alpha, prior=0, x0=solution + offset, max_iter=1)
        offset = moved.x - solution
        factors.append(np.linalg.norm(offset) / size)
    return np.exp(np.mean(np.log(factors[RATE_SWEEPS // 4 :])))


def rank_football():
    """Return the strongest teams, and what the common shift saves with a prior."""
    teams, y = football_games()
    model = BradleyTerry().fit(teams, y)
    wins = wins_matrix(teams, y)[1]
    top = [int(np.flatnonzero(model.items_ == team)[0]) for team in model.ranking()[:20]]
    plain = fit_bradley_terry(wins, accelerate=False).nit
    return {
        "top_teams": model.items_[top],
        "top_log_strengths": model.log_strengths_[top],
        "top_standard_errors": model.standard_errors_[top],
        "football_shift_ratio": plain / model.n_iter_,
    }


def football_games():
    """Return teams and results of the decided games."""
    with data.open_text(data.fetch("football-results", download=False)) as file:
        rows = [
            (r["home_team"], r["away_team"], int(r["home_score"]) - int(r["away_score"]))
            for r in csv.DictReader(file)
            if r["home_score"].isdigit() and r["away_score"].isdigit()
        ]
    decided = [row for row in rows if row[2] != 0]
    return np.array([row[:2] for row in decided]), np.array([row[2] > 0 for row in decided])


def football_wins():
    """Return the wins between the teams that chains of wins connect both ways."""
    return _connected(wins_matrix(*football_games())[1])


def _champion(rng):
    log_strengths = rng.normal(size=20) / 2
    log_strengths[0] += 6
    return _play(log_strengths, 100_000, rng)


def _dense(rng):
    return _play(3 * rng.normal(size=1000), 1_000_000, rng)


def _uniform(rng):
    return _play(rng.normal(size=1000), 100_000, rng)


SETS = {"champion": _champion, "dense": _dense, "uniform": _uniform}


def _play(log_strengths, n_games, rng):
    """Return the wins of games between random pairs, of the largest part that can be ranked."""
    n = len(log_strengths)
    first = rng.integers(n, size=n_games)
    second = (first + rng.integers(1, n, size=n_games)) % n
    first_won = rng.random(n_games) < expit(log_strengths[first] - log_strengths[second])
    return _connected(wins_matrix(np.stack([first, second], axis=1), first_won)[1])


def _connected(wins: sparse.csr_array) -> sparse.csr_array:
    _, part = connected_components(wins, connection="strong")
    kept = np.flatnonzero(part == np.bincount(part).argmax())
    return wins[kept][:, kept]


def draw(results, figure):
    """Distance to the solution sweep by sweep; the strongest football teams."""
    sets = [name for name in ("champion", "football") if name in results["sets"]]
    with_teams = "top_teams" in results
    panels = figure.subplot_mosaic(
        [[name, "teams"] for name in sets] if with_teams else [[name] for name in sets],
        width_ratios=(1.5, 1) if with_teams else (1,),
    )
    titles = {
        "champion": "20 players, one far ahead: {1} sweeps for Zermelo's {2}",
        "football": "football, {0} teams: {1} sweeps for Zermelo's {2}",
    }
    for name in sets:
        axes = panels[name]
        for alpha, label, colour in zip(FAMILY, LABELS, COLOURS, strict=True):
            distances = results[f"{name}_distances_{alpha:g}"]
            sweep = np.arange(1, len(distances) + 1)
            axes.loglog(sweep, distances, color=colour, label=label)
            rate = results[f"{name}_rates"][FAMILY.index(alpha)]
            late = slice(len(distances) // 3, None)
            axes.loglog(
                sweep[late],
                distances[-1] * rate ** (sweep[late] - sweep[-1]),
                color="black",
                linestyle=(0, (1, 2)),
                label="predicted rate" if alpha == FAMILY[-1] else None,
            )
        sweeps = results[f"{name}_sweeps"]
        title = titles[name].format(results[f"{name}_players"], sweeps[0], sweeps[-1])
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylabel("distance to solution\n(rms, log strength)")
        axes.set_ylim(1e-10, 10)
        axes.set_xlim(0.8, 1e4)
    panels[sets[-1]].set_xlabel("sweeps over all players")
    panels[sets[0]].legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.3, 0.0))
    if with_teams:
        axes = panels["teams"]
        place = np.arange(len(results["top_teams"]))
        axes.errorbar(
            results["top_log_strengths"],
            place,
            xerr=results["top_standard_errors"],
            fmt="o",
            markersize=4,
            color=COLOURS[0],
            elinewidth=1,
        )
        axes.set_yticks(place, results["top_teams"], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("log strength ± standard error")
        axes.set_title("Strongest teams, draws left out", fontsize=10, loc="left")


def rank_file(path, setup, out, rng, report):
    """Rank the players of a user's file of games; write ``ranking.csv``."""
    report(0.0, f"reading {path.name}")
    games = list(_read_games(path))
    if not games:
        raise ValueError("--input: the file has no games below its header")
    pairs = np.array([game[:2] for game in games], dtype=object)
    results, weights = np.array([game[2:] for game in games], dtype=float).T
    model = BradleyTerry(prior=setup.prior, ties=setup.ties)
    model.fit(pairs, results, weights)
    report(0.8, "writing ranking.csv")
    n = len(model.items_)
    order = np.argsort(-model.log_strengths_, kind="stable")
    errors = model.standard_errors_ if n <= LARGEST_TABLE_OF_ERRORS else None
    with open(out / "ranking.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "item", "strength", "log_strength", "standard_error"])
        for rank, k in enumerate(order, start=1):
            error = "" if errors is None else f"{errors[k]:.6g}"
            strength, log_strength = model.strengths_[k], model.log_strengths_[k]
            writer.writerow(
                [rank, model.items_[k], f"{strength:.6g}", f"{log_strength:.6g}", error]
            )
    return {
        "games": len(games),
        "players": n,
        "strongest": str(model.items_[order[0]]),
        "tie_parameter": model.tie_parameter_,
        "log_likelihood": model.log_likelihood_,
        "sweeps": model.n_iter_,
    }


def _read_games(path: Path) -> Iterator[tuple[str, str, float, float]]:
    """Yield first, second, result and weight of each row, with errors that name the line."""
    with data.open_text(path) as file:
        try:
            rows = csv.DictReader(file, strict=True)
            rows.fieldnames = [name.strip().lstrip("\ufeff") for name in rows.fieldnames or []]
            columns = set(rows.fieldnames)
            if columns >= {"winner", "loser"}:
                sides = ("winner", "loser")
            elif columns >= {"first", "second", "result"}:
                sides = ("first", "second")
            else:
                raise ValueError(
                    "--input: the first line must name the columns winner,loser or "
                    f"first,second,result, got {','.join(rows.fieldnames) or 'nothing'}"
                )
            for row in rows:
                first, second = ((row[side] or "").strip() for side in sides)
                line = rows.line_num
                if not first or not second or first == second:
                    raise ValueError(
                        f"--input: line {line} must name two different players, "
                        f"got {first!r} and {second!r}"
                    )
                result = 1.0 if "winner" in sides else _number(row, "result", line)
                if result not in (0.0, 0.5, 1.0):
                    raise ValueError(
                        f"--input: result must be 1, 0 or 0.5, got {result:g} in line {line}"
                    )
                weight = _number(row, "weight", line) if "weight" in columns else 1.0
                if not 0 <= weight < np.inf:
                    raise ValueError(
                        f"--input: weight must be >= 0 and finite, got {weight:g} in line {line}"
                    )
                yield first, second, result, weight
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"--input: {path.name} is not a CSV file in UTF-8: {error}") from None


def _number(row, column, line):
    try:
        return float(row[column])
    except (TypeError, ValueError):
        raise ValueError(
            f"--input: {column} must be a number, got {row[column]!r} in line {line}"
        ) from None


STUDY = Study(
    paper="pairwise-rankings",
    quick={"sets": ("champion", "football"), "seeds": 1},
    full={"sets": ("champion", "football", "uniform", "dense"), "seeds": 5},
    run=run,
    draw=draw,
    claims=[
        Claim(
            "the iteration returns the same estimate as Zermelo's",
            "largest difference in log strength, each set of games",
            "largest_difference",
            at_most(1e-6),
        ),
        Claim(
            "over a hundred times fewer iterations in some cases",
            "sweeps, Zermelo over Newman, one player far ahead",
            "champion_sweep_ratio",
            at_least(100),
        ),
        Claim(
            "it needs far fewer iterations",
            "sweeps, Zermelo over Newman, 1000 players and a million games",
            "dense_sweep_ratio",
            at_least(20),
            preset="full",
        ),
        Claim(
            "it needs fewer iterations on real data",
            "sweeps, Zermelo over Newman, international football",
            "football_sweep_ratio",
            at_least(3),
            data="football-results",
        ),
        Claim(
            "of the family of iterations Newman's converges fastest",
            "least increase in sweeps from each α to the next: 0, 0.25, 0.5, 1",
            "least_increase",
            at_least(1),
        ),
        Claim(
            "every update raises the likelihood",
            "largest fall of the log-likelihood in one update, relative",
            "largest_fall",
            at_most(1e-9),
        ),
        Claim(
            "convergence is linear at a rate known in advance",
            "measured over predicted contraction of a sweep, less 1",
            "rate_error",
            at_most(0.05),
        ),
        Claim(
            "convergence is linear at a rate known in advance",
            "measured over predicted decay exponent, less 1",
            "decay_error",
            reported(),
        ),
        Claim(
            "a prior's slow mode, the common shift, can be solved for",
            "sweeps, as published over with the shift, international football",
            "football_shift_ratio",
            reported(),
            data="football-results",
        ),
    ],
    on_file=FileMethod(
        rank_file,
        expects="CSV with columns winner,loser or first,second,result (1, 0 or 0.5); "
        "optionally weight",
        options={"prior": 1.0, "ties": "half"},
    ),
)
