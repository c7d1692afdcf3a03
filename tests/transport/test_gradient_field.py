import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from thalweg.transport import GradientField, ReferenceRefinement  # noqa: E402


def quadratic_fit(activation="softplus", **options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2))
    family = GradientField(
        2, (32, 32), activation=activation, n_epochs=60, batch_size=100, **options
    )
    params = family.fit(np.zeros(600), x, -x * [1.0, 3.0])
    return family, params, x


def test_forces_of_a_quadratic_well_are_learned():
    family, params, x = quadratic_fit()
    gap = family.drift(params, 0.0, x) + x * [1.0, 3.0]
    assert np.sqrt((gap**2).mean()) <= 0.15 * np.sqrt(((x * [1.0, 3.0]) ** 2).mean())


def test_field_is_a_gradient():
    """Its Jacobian is symmetric; differences of a smooth network in single precision."""
    family, params, _ = quadratic_fit()
    at, h = np.array([[0.3, -0.4]]), 1e-2
    by = [
        (family.drift(params, 0.0, at + h * e) - family.drift(params, 0.0, at - h * e))[0] / (2 * h)
        for e in np.eye(2)
    ]
    assert by[0][1] == pytest.approx(by[1][0], abs=1e-3)


def test_drift_is_minus_the_gradient_of_the_network():
    family, params, _ = quadratic_fit()
    network, h = family._network, 1e-2
    at = torch.tensor([[0.3, -0.4]])
    with torch.no_grad():
        slope = [(network(at + h * e) - network(at - h * e)).item() / (2 * h) for e in torch.eye(2)]
    np.testing.assert_allclose(
        family.drift(params, 0.0, at.numpy())[0], np.negative(slope), atol=2e-3
    )


def test_weights_choose_the_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1))
    side = np.where(np.arange(400) % 2, 1.0, -1.0)
    family = GradientField(1, (16,), activation="softplus", n_epochs=40, batch_size=100)
    params = family.fit(
        np.zeros(400), x, np.ones((400, 1)) * side[:, None], weights=(side > 0) * 1.0
    )
    assert np.abs(family.drift(params, 0.0, x) - 1).mean() <= 0.1


def test_same_seed_gives_the_same_fit_and_a_pickle_keeps_it():
    (family, params, x), (_, again, _) = quadratic_fit(), quadratic_fit()
    np.testing.assert_array_equal(params, again)
    other = pickle.loads(pickle.dumps(family))
    np.testing.assert_array_equal(other.drift(params, 0.0, x), family.drift(params, 0.0, x))
    assert not np.array_equal(quadratic_fit(rng=1)[1], params)


def test_parameters_given_are_those_used():
    family, params, x = quadratic_fit()
    assert np.abs(family.drift(family.init(), 0.0, x)).max() == 0
    assert np.abs(family.drift(params, 0.0, x)).max() > 1


def test_gradient_reference_is_refined():
    rng = np.random.default_rng(0)
    clouds = [rng.normal(m, 0.2, (40, 1)) for m in (2.0, 1.2, 0.7)]
    family = GradientField(1, (16,), activation="softplus", n_epochs=20, batch_size=256)
    model = ReferenceRefinement(family, 0.3, dt=0.1, n_refine=2, n_ipfp=2, rng=0)
    model.fit(clouds, [0.0, 0.5, 1.0])
    assert model.params_.shape == (family.n_params,)
    assert model.objective_path_[0] < 2
    assert family.drift(model.params_, 0.0, np.array([[1.5]]))[0, 0] < -0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fit_on_an_accelerator_learns_the_same_forces():
    family, params, x = quadratic_fit(device="cuda")
    gap = family.drift(params, 0.0, x) + x * [1.0, 3.0]
    assert np.sqrt((gap**2).mean()) <= 0.15 * np.sqrt(((x * [1.0, 3.0]) ** 2).mean())


def test_bad_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="activation must be one of"):
        GradientField(2, activation="cube")
    with pytest.raises(ValueError, match="hidden must be an integer >= 1"):
        GradientField(2, (0,))
    with pytest.raises(ValueError, match="learning_rate must be"):
        GradientField(2, learning_rate=0.0)
