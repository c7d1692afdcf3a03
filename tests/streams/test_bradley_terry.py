"""Bradley-Terry strengths: closed forms, independent optimisation, invariances, bad input."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import check_grad, minimize
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

from thalweg.streams import BradleyTerry, convergence_rate, fit_bradley_terry

FAMILY = pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
PRIORS = pytest.mark.parametrize("prior", [0.0, 1.0, 2.5])


def tournament(n, seed=0, mean=3):
    """Wins that connect everybody both ways: each player beats the next once at least."""
    rng = np.random.default_rng(seed)
    wins = rng.poisson(mean * expit(np.subtract.outer(*2 * [rng.normal(size=n)]))).astype(float)
    wins[np.arange(n), np.arange(1, n + 1) % n] += 1
    wins[np.arange(1, n + 1) % n, np.arange(n)] += 1
    np.fill_diagonal(wins, 0)
    return wins


def draws(n, seed=1):
    upper = np.triu(np.random.default_rng(seed).poisson(1.0, (n, n)), 1)
    return (upper + upper.T).astype(float)


def negative_log_posterior(z, wins, ties, prior):
    """Davidson's likelihood as written down; z ends in log v where there are ties."""
    x = z[: len(wins)]
    p = np.exp(x)
    tie = 2 * np.exp(z[-1]) * np.sqrt(np.outer(p, p)) if ties is not None else 0.0
    total = p[:, None] + p + tie
    value = -np.sum(wins * np.log(p[:, None] / total))
    if ties is not None:
        value -= np.sum(np.triu(ties, 1) * np.log(tie / total))
    return value - prior * np.sum(np.log(expit(x)) + np.log(expit(-x)))


def by_newton(wins, ties, prior):
    """The optimum by trust-exact with derivatives by the expectation of the natural statistics."""
    n = len(wins)
    ties = np.zeros_like(wins) if ties is None else ties
    has_ties = ties.any()
    played = wins + wins.T + ties

    def parts(z):
        x, v = z[:n], np.exp(z[n]) if has_ties else 0.0
        half = np.subtract.outer(x, x) / 2
        weight = np.exp(half) + np.exp(-half) + 2 * v
        return x, np.exp(half) / weight, np.exp(-half) / weight, 2 * v / weight

    def jac(z):
        x, win, loss, tie = parts(z)
        g = np.sum(played * (win - loss) / 2 - (wins - wins.T) / 2, axis=1)
        g = g - prior * (1 - 2 * expit(x))
        return np.append(g, np.sum(played * tie - ties) / 2) if has_ties else g

    def hess(z):
        x, win, loss, tie = parts(z)
        both = played * (win + loss - (win - loss) ** 2) / 4
        h = np.diag(both.sum(1) + 2 * prior * expit(x) * expit(-x)) - both
        h += (prior == 0) / n  # holds the free scale at mean 0
        if not has_ties:
            return h
        cross = -np.sum(played * (win - loss) * tie, axis=1) / 2
        corner = np.sum(played * tie * (1 - tie)) / 2
        return np.block([[h, cross[:, None]], [cross, corner]])

    return minimize(
        lambda z: negative_log_posterior(z, wins, ties if has_ties else None, prior),
        np.zeros(n + has_ties),
        jac=jac,
        hess=hess,
        method="trust-exact",
        options={"gtol": 1e-11, "maxiter": 500},
    ).x


@pytest.mark.parametrize(("won", "lost"), [(3.0, 1.0), (1.0, 7.0), (0.25, 1000.0)])
def test_two_players_are_solved_in_one_sweep(won, lost):
    x = fit_bradley_terry([[0, won], [lost, 0]], prior=0, max_iter=1).x
    assert x[0] - x[1] == pytest.approx(np.log(won / lost), rel=1e-14)


@pytest.mark.parametrize("n", [2, 3, 7])
@PRIORS
def test_equal_records_give_equal_strengths(n, prior):
    x = fit_bradley_terry(np.ones((n, n)) - np.eye(n), prior=prior).x
    np.testing.assert_allclose(x, 0, atol=1e-14)


@PRIORS
@FAMILY
def test_wins_agree_with_trust_region_newton(prior, alpha):
    wins = tournament(6)
    result = fit_bradley_terry(wins, alpha=alpha, prior=prior, tol=1e-14)
    np.testing.assert_allclose(result.x, by_newton(wins, None, prior), atol=1e-8)


@PRIORS
@FAMILY
def test_ties_agree_with_trust_region_newton(prior, alpha):
    wins, ties = tournament(6), draws(6)
    result = fit_bradley_terry(wins, ties, alpha=alpha, prior=prior, tol=1e-14)
    reference = by_newton(wins, ties, prior)
    np.testing.assert_allclose(result.x, reference[:-1], atol=1e-8)
    assert result.tie_parameter == pytest.approx(np.exp(reference[-1]), rel=1e-8)


@PRIORS
@pytest.mark.parametrize("with_ties", [False, True])
def test_fun_is_the_negative_log_posterior_and_jac_its_gradient(prior, with_ties):
    wins, ties = tournament(5), draws(5) if with_ties else None
    # Far from the optimum: one sweep only, so the gradient is not small.
    result = fit_bradley_terry(wins, ties, prior=prior, max_iter=1, x0=[2, -1, 0, 1, -2])
    z = np.append(result.x, np.log(result.tie_parameter)) if with_ties else result.x

    def fun(x):
        return negative_log_posterior(np.append(x, z[5:]), wins, ties, prior)

    assert result.fun == pytest.approx(fun(result.x), rel=1e-13)
    assert np.abs(result.jac).max() > 1e-3
    assert check_grad(fun, lambda _: result.jac, result.x) < 1e-5


@FAMILY
@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_no_update_lowers_the_posterior(alpha, prior):
    wins = tournament(9, seed=4, mean=1)
    values = [np.inf]

    def watch(state):
        after = state.x - state.shift
        for i in range(len(after)):
            mixed = np.append(after[: i + 1], watch.before[i + 1 :])
            values.append(negative_log_posterior(mixed, wins, None, prior))
        watch.before = state.x
        values.append(negative_log_posterior(state.x, wins, None, prior))

    watch.before = np.zeros(9)
    fit_bradley_terry(wins, alpha=alpha, prior=prior, tol=1e-10, callback=watch)
    assert len(values) > 50
    assert np.diff(values).max() <= 1e-12 * values[-1]


def test_newman_needs_fewer_sweeps_than_zermelo():
    wins = tournament(30, mean=20)
    sweeps = [fit_bradley_terry(wins, alpha=a, prior=0).nit for a in (0, 0.25, 0.5, 1)]
    assert sweeps == sorted(sweeps)
    assert sweeps[-1] > 2 * sweeps[0]


def test_common_shift_reaches_the_same_posterior_in_fewer_sweeps():
    wins = tournament(20)
    fast, plain = (fit_bradley_terry(wins, accelerate=a, tol=1e-13) for a in (True, False))
    np.testing.assert_allclose(fast.x, plain.x, atol=1e-9)
    assert fast.nit * 5 < plain.nit


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), prior=st.sampled_from([0.0, 1.0]))
def test_relabelling_players_relabels_strengths(seed, prior):
    wins, ties = tournament(7, seed), draws(7, seed)
    order = np.random.default_rng(seed).permutation(7)
    x = fit_bradley_terry(wins, ties, prior=prior, tol=1e-12).x
    shuffled = (m[np.ix_(order, order)] for m in (wins, ties))
    np.testing.assert_allclose(
        fit_bradley_terry(*shuffled, prior=prior, tol=1e-12).x, x[order], atol=1e-8
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.01, 100))
def test_strengths_without_prior_ignore_the_unit_of_weight(seed, factor):
    wins = tournament(6, seed)
    np.testing.assert_allclose(
        fit_bradley_terry(factor * wins, prior=0, tol=1e-12).x,
        fit_bradley_terry(wins, prior=0, tol=1e-12).x,
        atol=1e-8,
    )


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_prior_is_a_win_and_a_loss_against_a_player_of_strength_one(alpha):
    wins = tournament(4)
    with_standard = np.zeros((5, 5))
    with_standard[:4, :4] = wins
    with_standard[4, :4] = with_standard[:4, 4] = 2.5
    explicit = fit_bradley_terry(with_standard, prior=0, tol=1e-13).x
    x = fit_bradley_terry(wins, alpha=alpha, prior=2.5, tol=1e-13).x
    np.testing.assert_allclose(x, explicit[:4] - explicit[4], atol=1e-9)


def test_no_ties_at_all_is_the_model_without_ties():
    wins = tournament(5)
    with_none = fit_bradley_terry(wins, np.zeros((5, 5)))
    assert with_none.tie_parameter == 0
    np.testing.assert_array_equal(with_none.x, fit_bradley_terry(wins).x)


def test_tie_parameter_of_equals_is_the_ratio_of_ties_to_decided_games():
    result = fit_bradley_terry([[0, 5], [5, 0]], [[0, 30], [30, 0]], tol=1e-12)
    assert result.tie_parameter == pytest.approx(3)  # chance of a tie v / (1 + v) = 30 / 40


def test_tie_parameter_has_settled_too():
    # One pair among 200 players: their mean square change falls below tol before v's change does.
    wins, ties = np.zeros((200, 200)), np.zeros((200, 200))
    wins[0, 1] = 5
    ties[0, 1] = ties[1, 0] = 30
    shares = []

    def watch(state):
        shares.append(state.tie_parameter / (1 + state.tie_parameter))

    fit_bradley_terry(wins, ties, tol=1e-3, callback=watch)
    assert abs(shares[-1] - shares[-2]) < 1e-3


def test_starting_at_the_solution_takes_one_sweep():
    wins = tournament(10)
    x = fit_bradley_terry(wins, tol=1e-10).x
    assert fit_bradley_terry(wins, x0=x).nit == 1


def test_sparse_and_dense_wins_give_the_same():
    wins = tournament(8)
    np.testing.assert_array_equal(
        fit_bradley_terry(sparse.csr_array(wins)).x, fit_bradley_terry(wins).x
    )


def test_widely_spread_strengths_stay_accurate():
    # A chain in which each wins a million games to one: log odds are exact between neighbours.
    n = 20
    wins = np.diag(np.full(n - 1, 1e6), 1) + np.diag(np.ones(n - 1), -1)
    x = fit_bradley_terry(wins, prior=0, tol=1e-14).x
    np.testing.assert_allclose(-np.diff(x), np.log(1e6), rtol=1e-9)


def test_overflow_is_reported_not_returned():
    n = 200
    wins = np.diag(np.full(n - 1, 1e12), 1) + np.diag(np.ones(n - 1), -1)
    result = fit_bradley_terry(wins, prior=0)
    assert not result.success
    assert "range of floating point" in result.message
    assert np.isfinite(result.x).all()


def test_running_out_of_sweeps_is_not_success():
    result = fit_bradley_terry(tournament(10), prior=0, max_iter=2)
    assert (result.success, result.nit, result.status) == (False, 2, 1)


def test_callback_sees_each_sweep_and_may_stop():
    seen = []

    def stop_at_three(state):
        seen.append((state.nit, state.change))
        if state.nit == 3:
            raise StopIteration

    result = fit_bradley_terry(tournament(10), tol=1e-12, callback=stop_at_three)
    assert [nit for nit, _ in seen] == [1, 2, 3]
    assert seen[2][1] < seen[0][1]
    assert not result.success


def test_callback_leaves_the_result_unchanged():
    wins, ties = tournament(8), draws(8)
    watched = fit_bradley_terry(wins, ties, callback=lambda state: None)
    plain = fit_bradley_terry(wins, ties)
    assert watched.nit == plain.nit
    np.testing.assert_array_equal(watched.x, plain.x)


# --- convergence rate ---------------------------------------------------------------------------


def update_map(x, wins, alpha, prior):
    """Every player's update from the same strengths, written down again in log strengths."""
    p = np.exp(x)
    pair = p[:, None] + p
    above = np.sum(wins * (alpha * p[:, None] + p) / pair, axis=1)
    below = np.sum((alpha * wins + wins.T) / pair, axis=1)
    above += prior * (alpha * p + 1) / (p + 1)
    below += prior * (alpha + 1) / (p + 1)
    return np.log(above / below)


@FAMILY
@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_rate_is_the_spectral_radius_of_a_differenced_sweep(alpha, prior):
    wins = tournament(6, seed=2)
    x = fit_bradley_terry(wins, prior=prior, tol=1e-14).x

    def sweep(x):
        x = x.copy()
        for i in range(6):
            x[i] = update_map(x, wins, alpha, prior)[i]
        return x

    step = 1e-5
    columns = [(sweep(x + step * e) - sweep(x - step * e)) / (2 * step) for e in np.eye(6)]
    moduli = np.sort(np.abs(np.linalg.eigvals(np.array(columns).T)))[::-1]
    if prior == 0:
        assert moduli[0] == pytest.approx(1, abs=1e-8)  # the free scale
    expected = moduli[0] if prior > 0 else moduli[1]
    assert convergence_rate(wins, x, alpha=alpha, prior=prior) == pytest.approx(expected, abs=1e-7)


@FAMILY
@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_sweeps_contract_at_the_predicted_rate(alpha, prior):
    wins = tournament(20, seed=3, mean=0.2)  # sparse: many sweeps to measure over
    x = fit_bradley_terry(wins, prior=prior, tol=1e-15, max_iter=5000).x
    distance = []

    def watch(state):
        distance.append(np.linalg.norm(state.x - x))

    fit_bradley_terry(
        wins, alpha=alpha, prior=prior, accelerate=False, tol=1e-14, max_iter=5000, callback=watch
    )
    distance = np.array(distance)
    late = np.flatnonzero((distance < 1e-5) & (distance > 1e-10))
    measured = (distance[late[-1]] / distance[late[0]]) ** (1 / (late[-1] - late[0]))
    assert measured == pytest.approx(convergence_rate(wins, x, alpha=alpha, prior=prior), rel=0.05)


# --- the estimator ------------------------------------------------------------------------------

GAMES = [["ann", "bob"], ["bob", "cat"], ["ann", "cat"], ["cat", "ann"], ["bob", "ann"]]


def games(n_games=300, n=12, seed=0, names=None):
    rng = np.random.default_rng(seed)
    first = rng.integers(n, size=n_games)
    pairs = np.stack([first, (first + rng.integers(1, n, n_games)) % n], axis=1)
    return pairs if names is None else np.asarray(names)[pairs]


def test_estimator_agrees_with_the_function():
    pairs = games()
    wins = np.zeros((12, 12))
    np.add.at(wins, tuple(pairs.T), 1)
    model = BradleyTerry().fit(pairs)
    np.testing.assert_allclose(model.log_strengths_, fit_bradley_terry(wins).x, atol=1e-12)
    assert model.log_likelihood_ == pytest.approx(
        -negative_log_posterior(model.log_strengths_, wins, None, 0.0), rel=1e-12
    )


@pytest.mark.parametrize("ties", ["half", "drop", "davidson"])
def test_swapping_sides_and_results_changes_nothing(ties):
    pairs = games()
    y = np.random.default_rng(1).choice([0, 0.5, 1], len(pairs))
    a = BradleyTerry(ties=ties).fit(pairs, y)
    b = BradleyTerry(ties=ties).fit(pairs[:, ::-1], 1 - y)
    np.testing.assert_allclose(a.log_strengths_, b.log_strengths_, atol=1e-12)


def test_half_a_tie_is_half_a_win_each():
    pairs = games()
    tied = BradleyTerry(ties="half").fit(pairs, np.full(len(pairs), 0.5))
    both = BradleyTerry().fit(np.r_[pairs, pairs[:, ::-1]], sample_weight=np.full(600, 0.5))
    np.testing.assert_allclose(tied.log_strengths_, both.log_strengths_, atol=1e-12)


def test_dropped_ties_leave_the_decided_games():
    pairs = games()
    y = np.where(np.arange(len(pairs)) % 3 == 0, 0.5, 1.0)
    dropped = BradleyTerry(ties="drop").fit(pairs, y)
    np.testing.assert_allclose(
        dropped.log_strengths_, BradleyTerry().fit(pairs[y == 1]).log_strengths_, atol=1e-12
    )


def test_davidson_estimator_agrees_with_the_function():
    pairs = games()
    y = np.random.default_rng(1).choice([0, 0.5, 1], len(pairs))
    wins, ties = np.zeros((12, 12)), np.zeros((12, 12))
    np.add.at(wins, tuple(pairs[y == 1].T), 1)
    np.add.at(wins, tuple(pairs[y == 0, ::-1].T), 1)
    np.add.at(ties, tuple(pairs[y == 0.5].T), 1)
    result = fit_bradley_terry(wins, ties + ties.T, tol=1e-12)
    model = BradleyTerry(ties="davidson", tol=1e-12).fit(pairs, y)
    np.testing.assert_allclose(model.log_strengths_, result.x, atol=1e-9)
    assert model.tie_parameter_ == pytest.approx(result.tie_parameter, rel=1e-9)


def test_whole_weights_are_repeated_games():
    pairs = games()
    weight = np.random.default_rng(2).integers(0, 4, len(pairs))
    a = BradleyTerry().fit(pairs, sample_weight=weight)
    b = BradleyTerry().fit(np.repeat(pairs, weight, axis=0))
    np.testing.assert_allclose(a.log_strengths_, b.log_strengths_, atol=1e-12)


@pytest.mark.parametrize(
    "names",
    [
        np.arange(12) * 3 - 7,
        np.arange(12) * 10**15,
        np.array([f"player {i:02d}" for i in range(12)]),
        np.array([f"{i:02d}" for i in range(12)], dtype=object),
        np.array([f"{i:02d}" for i in range(12)], dtype=np.dtypes.StringDType()),
        np.arange(12) / 7,
        np.arange(12).astype("datetime64[D]"),
        np.arange(12, dtype=np.uint8),
    ],
    ids=["int", "wide-int", "str", "object", "string-dtype", "float", "date", "uint8"],
)
def test_labels_of_any_type_give_the_same_strengths(names):
    pairs = games()
    model = BradleyTerry().fit(names[pairs])
    np.testing.assert_array_equal(model.items_, names)
    np.testing.assert_array_equal(model.log_strengths_, BradleyTerry().fit(pairs).log_strengths_)
    np.testing.assert_array_equal(
        model.predict_proba(names[pairs]), BradleyTerry().fit(pairs).predict_proba(pairs)
    )


def test_frames_give_what_arrays_give():
    pandas = pytest.importorskip("pandas")
    names = np.array([f"player {i}" for i in range(12)])
    pairs = games(names=names)
    expected = BradleyTerry().fit(pairs)
    frame = pandas.DataFrame(pairs, columns=["winner", "loser"])
    for table in (frame, frame.astype("category"), frame.astype("string")):
        model = BradleyTerry().fit(table)
        np.testing.assert_array_equal(model.log_strengths_, expected.log_strengths_)
        np.testing.assert_array_equal(
            model.predict_proba(table.rename(columns={"winner": "home", "loser": "away"})),
            expected.predict_proba(pairs),
        )


def test_objects_that_cannot_be_sorted_keep_their_order_of_appearance():
    a, b = object(), object()
    model = BradleyTerry().fit(np.array([[b, "x"], ["x", a], [b, a]], dtype=object))
    assert model.items_.tolist() == [b, "x", a]
    assert model.ranking()[0] is b


def test_ranking_is_by_falling_strength():
    model = BradleyTerry().fit(games())
    order = [model.items_.tolist().index(item) for item in model.ranking()]
    assert (np.diff(model.strengths_[order]) <= 0).all()


def test_strengths_are_the_exponentials_with_geometric_mean_one_without_prior():
    model = BradleyTerry(prior=0).fit(games())
    np.testing.assert_allclose(model.strengths_, np.exp(model.log_strengths_), rtol=1e-14)
    assert np.log(model.strengths_).mean() == pytest.approx(0, abs=1e-14)


def test_probabilities_are_the_models():
    model = BradleyTerry().fit(GAMES)
    a, c = model.strengths_[[0, 2]]
    np.testing.assert_allclose(
        model.predict_proba([["ann", "cat"], ["cat", "ann"]]),
        [[a / (a + c), c / (a + c)], [c / (a + c), a / (a + c)]],
    )


def test_davidson_probabilities_are_the_models():
    model = BradleyTerry(ties="davidson").fit(GAMES, [1, 0.5, 1, 1, 0.5])
    a, c = model.strengths_[[0, 2]]
    tie = 2 * model.tie_parameter_ * np.sqrt(a * c)
    assert model.tie_parameter_ > 0
    np.testing.assert_allclose(
        model.predict_proba([["ann", "cat"]])[0], np.array([a, tie, c]) / (a + tie + c)
    )


def test_davidson_without_a_tie_gives_ties_no_chance():
    model = BradleyTerry(ties="davidson").fit(GAMES)
    probabilities = model.predict_proba([["ann", "cat"]])[0]
    assert probabilities[1] == 0
    np.testing.assert_allclose(
        probabilities[[0, 2]], BradleyTerry().fit(GAMES).predict_proba([["ann", "cat"]])[0]
    )


@PRIORS
def test_standard_errors_are_those_of_the_numerical_hessian(prior):
    pairs = games(n=6)
    y = np.random.default_rng(1).choice([0, 0.5, 1], len(pairs))
    model = BradleyTerry(ties="davidson", prior=prior, tol=1e-13).fit(pairs, y)
    wins, ties = np.zeros((6, 6)), np.zeros((6, 6))
    np.add.at(wins, tuple(pairs[y == 1].T), 1)
    np.add.at(wins, tuple(pairs[y == 0, ::-1].T), 1)
    np.add.at(ties, tuple(pairs[y == 0.5].T), 1)
    ties = ties + ties.T
    z, step = np.append(model.log_strengths_, np.log(model.tie_parameter_)), 1e-3
    steps = step * np.eye(7)

    def fun(z):
        return negative_log_posterior(z, wins, ties, prior)

    hessian = np.array(
        [
            [(fun(z + a + b) - fun(z + a - b) - fun(z - a + b) + fun(z - a - b)) for b in steps]
            for a in steps
        ]
    ) / (4 * step**2)
    covariance = np.linalg.pinv(hessian, rcond=1e-5, hermitian=True)
    # Second differences of a sum of 300 logarithms: error of order step^2.
    np.testing.assert_allclose(model.standard_errors_, np.sqrt(np.diag(covariance)[:6]), rtol=1e-4)


def test_standard_errors_of_two_players_are_in_closed_form():
    # log odds of 30 to 10 have variance 1/30 + 1/10; each strength is half of it from the mean.
    model = BradleyTerry(prior=0, tol=1e-13).fit([[0, 1], [1, 0]], sample_weight=[30, 10])
    np.testing.assert_allclose(model.standard_errors_, np.sqrt(1 / 30 + 1 / 10) / 2)


def test_running_out_of_sweeps_warns():
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        BradleyTerry(max_iter=1).fit(games())


def test_refitting_forgets_the_standard_errors():
    model = BradleyTerry().fit(games())
    first = model.standard_errors_
    assert len(model.fit(games(n=5)).standard_errors_) == 5 != len(first)


def test_pickled_model_predicts_the_same():
    model = BradleyTerry().fit(GAMES)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(GAMES), model.predict_proba(GAMES))
    np.testing.assert_array_equal(copy.standard_errors_, model.standard_errors_)


def test_attributes_wait_for_fit():
    with pytest.raises(NotFittedError):
        BradleyTerry().predict_proba(GAMES)
    with pytest.raises(NotFittedError):
        BradleyTerry().ranking()
    assert not hasattr(BradleyTerry(), "standard_errors_")


class OnAnyTable(BradleyTerry):
    """Makes games of the tables that scikit-learn's checks feed: a beats b or b beats a."""

    def fit(self, X, y=None, sample_weight=None):
        X = validate_data(self, X)
        width = self.n_features_in_
        if y is not None:
            y = (np.asarray(y) > np.asarray(y).mean()).astype(float)
        super().fit(self.games_of(X), y, sample_weight)
        self.n_features_in_ = width
        return self

    def predict_proba(self, X):
        return super().predict_proba(self.games_of(validate_data(self, X, reset=False)))

    @staticmethod
    def games_of(X):
        return np.where(X[:, :1] > X[:, -1:], ["a", "b"], ["b", "a"])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.categorical = False
        return tags


def test_scikit_learns_checks_pass_on_games_made_of_their_tables():
    results = check_estimator(OnAnyTable(), on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 40


def test_scikit_learns_checks_that_need_no_pairs_pass_as_they_are():
    passed = {
        r["check_name"]
        for r in check_estimator(BradleyTerry(), on_fail=None, on_skip=None)
        if r["status"] == "passed"
    }
    assert passed >= {
        "check_estimator_cloneable",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_estimators_unfitted",
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_mixin_order",
        "check_estimators_empty_data_messages",
        "check_estimator_sparse_tag",
        "check_estimator_sparse_array",
        "check_estimator_sparse_matrix",
        "check_parameters_default_constructible",
        "check_fit2d_1feature",
        "check_fit1d",
        "check_get_params_invariance",
        "check_set_params",
    }


# --- bad input ----------------------------------------------------------------------------------

GOOD = [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("wins", "options", "message"),
    [
        ([[0, -1], [1, 0]], {}, "wins must be >= 0, got -1"),
        ([[0, np.nan], [1, 0]], {}, "wins must be finite"),
        (sparse.coo_array([[0, np.inf], [1, 0]]), {}, "wins must be finite"),
        ([[0, 1, 2], [1, 0, 2]], {}, r"wins must have shape \(n, n\)"),
        ([[0, 1], [1, 3]], {}, "zero diagonal, got 3 at player 1"),
        (np.zeros((0, 0)), {}, "n >= 1"),
        (GOOD, {"ties": [[0, 1], [2, 0]]}, "ties must be symmetric"),
        (GOOD, {"ties": np.zeros((3, 3))}, "ties must have the shape of wins"),
        (np.zeros((2, 2)), {"ties": GOOD}, "at least one game that somebody won"),
        (GOOD, {"alpha": -0.1}, "alpha"),
        (GOOD, {"prior": -1}, "prior"),
        (GOOD, {"prior": np.inf}, "prior"),
        (GOOD, {"tol": 0}, "tol"),
        (GOOD, {"max_iter": 0}, "max_iter"),
        (GOOD, {"accelerate": "yes"}, "accelerate"),
        (GOOD, {"x0": [0, 0, 0]}, "x0"),
        (GOOD, {"x0": [0, np.nan]}, "x0"),
        (GOOD, {"x0": [0, 1e4]}, "x0 must lie within 600"),
    ],
)
def test_malformed_arguments_are_refused_by_name(wins, options, message):
    with pytest.raises(ValueError, match=message):
        fit_bradley_terry(wins, **options)


def test_unconnected_games_are_refused_with_the_number_of_groups():
    wins = np.zeros((5, 5))
    wins[0, 1] = wins[1, 0] = wins[2, 3] = wins[3, 2] = wins[0, 2] = wins[3, 4] = 1
    with pytest.raises(ValueError, match=r"fall into 3 groups .* set prior > 0"):
        fit_bradley_terry(wins, prior=0)
    assert fit_bradley_terry(wins, prior=1).success


def test_ties_connect_players():
    wins, ties = np.zeros((3, 3)), np.zeros((3, 3))
    wins[0, 1] = wins[1, 0] = ties[1, 2] = ties[2, 1] = 1
    x = fit_bradley_terry(wins, ties, prior=0, tol=1e-12).x
    np.testing.assert_allclose(x, 0, atol=1e-9)


def test_a_tie_parameter_without_maximum_is_refused():
    # One win and one tie between two: strength and v may grow together for ever.
    with pytest.raises(ValueError, match="do not fix the tie parameter"):
        fit_bradley_terry([[0, 1], [0, 0]], [[0, 1], [1, 0]], prior=0)
    # A round of two wins and one tie does fix it.
    wins = [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    ties = [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    result = fit_bradley_terry(wins, ties, prior=0, tol=1e-12)
    assert result.success
    assert np.isfinite(result.tie_parameter)


@pytest.mark.parametrize(
    ("X", "y", "weight", "message"),
    [
        (GAMES, [1, 1, 1, 1, 2], None, "y must hold 1 .* got 2 in row 4"),
        (GAMES, [1, 1, 1], None, "y must have shape"),
        (GAMES, [1, 1, 1, 1, np.nan], None, "y must be finite"),
        (GAMES, None, [1, 1, 1, 1, -1], "sample_weight must be >= 0"),
        (GAMES, None, [1, 1], "sample_weight must have shape"),
        (GAMES, None, np.zeros(5), "sample_weight must contain"),
        ([["a", "b"], ["c", "c"]], None, None, "different items, got 'c' twice in row 1"),
        ([["a", "b", "c"]], None, None, "shape"),
        (["a", "b"], None, None, "shape"),
        ([["a", "b"], ["c"]], None, None, "different lengths"),
        (np.empty((0, 2)), None, None, r"0 sample\(s\)"),
        ([["a", None]], None, None, "missing labels"),
        ([["a", np.nan]], None, None, "missing labels"),
        ([[1.0, np.nan]], None, None, "missing labels"),
        ([[1.0, np.inf]], None, None, "missing labels"),
        (np.array([["2020-01-01", "NaT"]], dtype="M8[D]"), None, None, "missing labels"),
    ],
)
def test_malformed_games_are_refused_by_name(X, y, weight, message):
    with pytest.raises(ValueError, match=message):
        BradleyTerry().fit(X, y, weight)


def test_missing_labels_of_pandas_are_refused():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": ["x", None], "b": ["y", "z"]}).astype("string")
    with pytest.raises(ValueError, match="missing labels"):
        BradleyTerry().fit(frame)


def test_unhashable_labels_are_refused():
    table = np.empty((1, 2), dtype=object)
    table[0, 0], table[0, 1] = [1], [2]
    with pytest.raises(TypeError, match="hashable"):
        BradleyTerry().fit(table)


def test_unseen_labels_are_refused_by_name():
    model = BradleyTerry().fit(GAMES)
    with pytest.raises(ValueError, match="3 known items, got 'dan', 'eve'"):
        model.predict_proba([["ann", "dan"], ["eve", "bob"], ["dan", "bob"]])


def test_unknown_treatment_of_ties_is_refused():
    with pytest.raises(ValueError, match="'half', 'drop', 'davidson'"):
        BradleyTerry(ties="win").fit(GAMES)


def test_rate_refuses_strengths_of_another_length():
    with pytest.raises(ValueError, match="x must have shape"):
        convergence_rate(GOOD, [0.0])
