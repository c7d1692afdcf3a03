"""The study of categorical bridges: its quick run, its exact readings, and a user's tokens."""

import numpy as np
import pytest

pytest.importorskip("torch")

from thalweg.studies.transport import _csbm_grids, csbm
from thalweg.study import load, run_study
from thalweg.transport import (
    CategoricalReference,
    gaussian_kernel,
    product_reference,
    uniform_kernel,
)

STUDY = load("csbm")


def test_quick_run_holds():
    outcome = run_study("csbm")
    assert outcome.record.state == "holds", outcome.record.traceback or outcome.record.claims
    verdicts = {claim.key: claim.verdict for claim in outcome.record.claims}
    assert verdicts["target_tv"] == verdicts["gap_left"] == "holds"
    assert verdicts["digits_auc"] == "skipped"
    first, second = outcome.arrays["mean_errors"]
    assert second <= first / 2 <= outcome.record.results["independent_error"] / 4
    assert outcome.png


class ReferenceAlone:
    """A model whose chain is the reference itself."""

    def __init__(self, reference):
        self.reference = reference

    def transition_probs(self, x, n, direction="forward"):
        return self.reference.kernel[x]


def test_readings_of_a_chain_are_those_of_its_table():
    reference = CategoricalReference(gaussian_kernel(4, 0.7), 2)
    p0, p1 = np.random.default_rng(0).dirichlet(np.ones(16), size=2).reshape(2, 4, 4)
    problem = _csbm_grids.GridProblem(p0, p1, reference)
    table = product_reference(reference, 2).transition
    model = ReferenceAlone(reference)
    np.testing.assert_allclose(problem.conditional_mean(model), table @ problem.states, atol=1e-12)
    np.testing.assert_allclose(problem.end_law(model).ravel(), p0.ravel() @ table, atol=1e-14)


def test_error_is_zero_at_the_bridge_and_the_share_explained_at_the_mean():
    problem = _csbm_grids.small_grid()
    assert problem.mean_error(problem.target_mean) == 0
    weights = problem.p0.ravel()[:, None]
    mean = (weights * problem.target_mean).sum(axis=0)
    centred = problem.states - np.tensordot(problem.p1.ravel(), problem.states, 1)
    total = (problem.p1.ravel()[:, None] * centred**2).sum()
    explained = (weights * (problem.target_mean - mean) ** 2).sum() / total
    assert problem.independent_error == pytest.approx(np.sqrt(explained), rel=1e-9)
    assert 0.3 < explained < 1


def test_iterations_are_counted_from_the_start():
    assert csbm.iterations_to(1e-3, np.array([1e-4, 1e-5])) == 0
    assert csbm.iterations_to(1e-3, np.array([1.0, 1e-2, 1e-3, 1e-4])) == 2
    assert csbm.iterations_to(1e-3, np.array([1.0, 1.0])) == 2


def test_token_tv_averages_over_places():
    A, B = np.array([[0, 1], [0, 1]]), np.array([[0, 1], [0, 0]])
    assert csbm.token_tv(A, B, 2) == pytest.approx(0.25)


def test_same_tokens_cannot_be_told_apart():
    tokens = np.random.default_rng(0).integers(4, size=(400, 5))
    alike = csbm.token_auc(tokens[:200], tokens[200:], np.random.default_rng(0))
    assert abs(alike - 0.5) <= 0.12
    assert csbm.token_auc(tokens, (tokens + 1) // 2, np.random.default_rng(0)) > 0.9


@pytest.mark.parametrize("D", [2, 3])
def test_tokens_of_a_file_are_translated(tmp_path, D):
    rng = np.random.default_rng(0)
    path = tmp_path / "tokens.npz"
    source, target = rng.integers(0, 3, size=(300, D)), rng.integers(2, 5, size=(250, D))
    extra = {"kernel": uniform_kernel(5, 0.3)} if D == 2 else {}
    np.savez(path, source=source, target=target, n_categories=5, **extra)
    options = {"iterations": 1, "steps": 60, "inner": 2, "batch": 64, "mlp_tokens": 2}
    setup = type(STUDY.preset("quick"))(**(dict(STUDY.on_file.options) | options))
    seen = []
    printed = STUDY.on_file.run(
        path, setup, tmp_path, rng, lambda fraction, message: seen.append(fraction)
    )
    written = np.load(tmp_path / "translated.npz")
    assert written["translated"].shape == (300, D)
    assert written["translated_back"].shape == (250, D)
    assert printed["token_tv_translated_to_target"] < printed["token_tv_source_to_target"] / 2
    assert 0 < printed["unchanged_share"] < 1
    assert seen == sorted(seen)


ZEROS = np.zeros((3, 2), dtype=int)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"source": ZEROS, "target": ZEROS}, "no array 'n_categories'"),
        ({"source": ZEROS, "target": ZEROS, "n_categories": 2.5}, "one integer >= 2"),
        ({"source": ZEROS, "target": ZEROS[:, :1], "n_categories": 2}, "as many columns"),
        ({"source": ZEROS + 0.5, "target": ZEROS, "n_categories": 2}, "source must be integers"),
        ({"source": ZEROS, "target": ZEROS + 2, "n_categories": 2}, r"target must lie in 0\.\.1"),
        ({"source": ZEROS[:0], "target": ZEROS, "n_categories": 2}, "source must be integers of"),
    ],
)
def test_bad_file_is_refused_in_one_line(tmp_path, arrays, match):
    path = tmp_path / "tokens.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=match) as error:
        csbm.read_tokens(path)
    assert "\n" not in str(error.value)


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "tokens.csv"
    path.write_text("1,2\n")
    with pytest.raises(ValueError, match=r"is not an \.npz file"):
        csbm.read_tokens(path)
