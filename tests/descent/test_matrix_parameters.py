import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import split_parameters  # noqa: E402
from thalweg.language import TinyTransformer  # noqa: E402

nn = torch.nn


def names(model, head=None):
    named = {id(p): name for name, p in model.named_parameters()}
    return tuple([named[id(p)] for p in part] for part in split_parameters(model, head))


def perceptron():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))


def test_last_linear_and_biases_are_the_rest():
    matrices, rest = names(perceptron())
    assert matrices == ["0.weight", "2.weight"]
    assert rest == ["0.bias", "2.bias", "3.weight", "3.bias"]


def test_embeddings_and_norms_are_the_rest_whatever_their_shape():
    model = nn.Sequential(
        nn.Embedding(9, 4),
        nn.EmbeddingBag(9, 4),
        nn.LayerNorm((3, 4)),
        nn.RMSNorm((3, 4)),
        nn.BatchNorm1d(4),
        nn.Linear(4, 4, bias=False),
    )
    assert names(model, head=())[0] == ["5.weight"]


def test_kernels_of_convolutions_are_matrices():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose1d(8, 4, 3), nn.Linear(4, 2))
    assert names(model)[0] == ["0.weight", "1.weight"]


def test_bare_tensors_of_three_axes_and_vectors_in_disguise_are_the_rest():
    model = perceptron()
    model.position = nn.Parameter(torch.zeros(1, 5, 4))
    model.token = nn.Parameter(torch.zeros(1, 4))
    model.narrow = nn.Conv1d(3, 1, 2)
    assert names(model)[0] == ["0.weight", "2.weight"]


def test_a_tied_weight_comes_once_and_with_the_rest():
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "inner": nn.Linear(4, 4)})
    model["out"] = nn.Linear(4, 9, bias=False)
    model["out"].weight = model["embed"].weight
    assert names(model) == (["inner.weight"], ["embed.weight", "inner.bias"])


def test_a_weight_tied_to_an_embedding_is_no_matrix_when_the_head_is_another():
    model = nn.ModuleDict({"out": nn.Linear(4, 9, bias=False), "embed": nn.Embedding(9, 4)})
    model["out"].weight = model["embed"].weight
    assert names(model, head=()) == ([], ["out.weight"])


def test_frozen_parameters_are_in_neither():
    model = perceptron()
    model[2].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    assert names(model) == (["0.weight"], ["2.bias", "3.weight", "3.bias"])


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("0", ["2.weight", "3.weight"]),
        ("2.weight", ["0.weight", "3.weight"]),
        (["0", "3"], ["2.weight"]),
        ((), ["0.weight", "2.weight", "3.weight"]),
        (lambda name, p: p.shape[0] == 6, ["3.weight"]),
    ],
)
def test_the_head_is_overridden_by_name_or_predicate(head, expected):
    assert names(perceptron(), head)[0] == expected


def test_nothing_is_lost_in_a_transformer():
    model = TinyTransformer(30, width=8, heads=2)
    matrices, rest = split_parameters(model)
    assert {id(p) for p in (*matrices, *rest)} == {id(p) for p in model.parameters()}
    assert len(matrices) == 8
    assert len(matrices) + len(rest) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: split_parameters(perceptron(), "lm_head"), ValueError, "head must .*'lm_head'"),
        (lambda: split_parameters(nn.LazyLinear(3)), ValueError, "shape of 'weight'"),
        (lambda: split_parameters([1]), TypeError, "model must be a torch.nn.Module, got list"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
