import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.transport import classifier_two_sample, diphoton_mass, make_diphotons


@pytest.mark.parametrize("kind", ["simulation", "data"])
def test_events_are_inside_the_acceptance(kind):
    table = make_diphotons(5000, kind, rng=0)
    assert {len(column) for column in table.values()} == {5000}
    assert (table["pt1"] >= table["pt2"]).all()
    assert (table["pt2"] >= 25).all()
    assert (np.abs(table["eta1"]) <= 2.5).all()
    assert (np.abs(table["eta2"]) <= 2.5).all()
    assert ((table["dphi"] >= 0) & (table["dphi"] <= np.pi)).all()
    assert set(table["converted1"]) == {0.0, 1.0}
    assert (table["width1"] > 0).all()


def test_data_differ_in_the_stated_ways():
    S, D = (make_diphotons(40_000, kind, rng=i) for i, kind in enumerate(("simulation", "data")))
    assert np.mean(D["iso1"]) - np.mean(S["iso1"]) == pytest.approx(0.4, abs=0.05)
    slopes = [np.polyfit(t["pileup"], t["iso2"], 1)[0] for t in (S, D)]
    assert slopes == pytest.approx([0.03, 0.06], abs=0.003)
    links = [np.corrcoef(np.abs(t["eta1"]), t["pt2"] / t["pt1"])[0, 1] for t in (S, D)]
    assert abs(links[0]) < 0.05
    assert links[1] > 0.2
    assert np.mean(D["pileup"]) == pytest.approx(np.mean(S["pileup"]), rel=0.01)
    columns = ("pt1", "pt2", "eta1", "iso1", "pileup")
    A, B = (np.column_stack([t[name] for name in columns])[:3000] for t in (S, D))
    assert classifier_two_sample(A, B, rng=0) > 0.65


@given(
    boost=st.floats(-1.0, 1.0),
    pt=st.tuples(st.floats(25, 200), st.floats(25, 200)),
    eta=st.tuples(st.floats(-2.5, 2.5), st.floats(-2.5, 2.5)),
    dphi=st.floats(0.1, np.pi),
)
def test_mass_is_that_of_the_four_momenta_whatever_the_boost(boost, pt, eta, dphi):
    table = {"pt1": [pt[0]], "pt2": [pt[1]], "eta1": [eta[0]], "eta2": [eta[1]], "dphi": [dphi]}
    total = np.zeros(4)
    for p, e, phi in zip(pt, eta, (0.0, dphi), strict=True):
        total += p * np.array([np.cosh(e), np.cos(phi), np.sin(phi), np.sinh(e)])
    mass = np.sqrt(total[0] ** 2 - (total[1:] ** 2).sum())
    np.testing.assert_allclose(diphoton_mass(table), [mass], rtol=1e-6)
    moved = {**table, "eta1": [eta[0] + boost], "eta2": [eta[1] + boost]}
    np.testing.assert_allclose(diphoton_mass(moved), [mass], rtol=1e-9)


def test_events_come_from_the_argument_alone():
    one, other = (make_diphotons(100, rng=3) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="kind must be one of"):
        make_diphotons(5, "toy")
    with pytest.raises(ValueError, match="n must be"):
        make_diphotons(0)
    with pytest.raises(ValueError, match="lacks"):
        diphoton_mass({"pt1": [1.0]})
    good = {"pt1": [1.0], "pt2": [1.0], "eta1": [0.0], "eta2": [0.0], "dphi": [1.0]}
    with pytest.raises(ValueError, match="negative"):
        diphoton_mass({**good, "pt2": [-1.0]})
    with pytest.raises(ValueError, match="eta2 must have shape"):
        diphoton_mass({**good, "eta2": [0.0, 1.0]})
