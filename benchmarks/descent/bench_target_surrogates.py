"""What a target gradient is worth, and what an inner step costs.

The first comparison counts calls for the gradient of the loss in the outputs until the loss on
digits is 0.2, and shows the time of all of them too; its measure is the count. The second times an
inner step beside the forward and backward pass of plain SGD, which it should not exceed by half.
"""

import functools

import pytest

torch = pytest.importorskip("torch")

from sklearn.datasets import load_digits  # noqa: E402

from thalweg.descent import SSO  # noqa: E402

F = torch.nn.functional
LEVEL, MOST_CALLS, BATCH = 0.2, 200, 125
RATES = (0.5, 1.0, 2.0, 4.0)
INNER_STEPS = 100


@functools.cache
def digits():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16), torch.tensor(labels)


def calls_to_level(step):
    """Return after how many calls of `step(weight, rows)` the loss on all digits is 0.2."""
    X, y = digits()
    weight = torch.nn.Parameter(torch.zeros(64, 10, dtype=X.dtype))
    generator = torch.Generator().manual_seed(0)
    move = step(weight)
    for call in range(MOST_CALLS):
        rows = torch.randperm(len(X), generator=generator)[:BATCH]
        move(X[rows], y[rows])
        with torch.no_grad():
            if F.cross_entropy(X @ weight, y) <= LEVEL:
                return call + 1
    return MOST_CALLS


def surrogates(weight):
    optimizer = SSO([weight], target_step=2.0, inner_steps=20, variant="line-search")
    return lambda x, y: optimizer.step(lambda: x @ weight, lambda z: F.cross_entropy(z, y))


def sgd(rate):
    def made(weight):
        optimizer = torch.optim.SGD([weight], lr=rate)

        def move(x, y):
            optimizer.zero_grad()
            F.cross_entropy(x @ weight, y).backward()
            optimizer.step()

        return move

    return made


@functools.cache
def best_rate():
    return min(RATES, key=lambda rate: calls_to_level(sgd(rate)))


@pytest.mark.parametrize("entrant", ["thalweg SSO, line search, m = 20", "SGD at its best rate"])
def test_calls_to_a_loss(measure, entrant):
    step = surrogates if entrant.startswith("thalweg") else sgd(best_rate())
    measure(
        lambda: calls_to_level(step),
        workload=f"loss {LEVEL} on digits, batches of {BATCH}; wanted: a third of SGD's calls",
        entrant=entrant,
        accuracy=("target gradients", float),
        rounds=3,
    )


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 10)
    ).double()


def inner_steps(model, x, y):
    optimizer = SSO(
        model.parameters(), target_step=2.0, inner_steps=INNER_STEPS, inner_tol=0.0,
        inner=lambda p: torch.optim.SGD(p, lr=0.01),
    )  # fmt: skip
    return lambda: optimizer.step(lambda: model(x), lambda z: F.cross_entropy(z, y))


def plain_steps(model, x, y):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def run():
        for _ in range(INNER_STEPS):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        return loss.detach()

    return run


@pytest.mark.parametrize(
    ("entrant", "make"), [("thalweg SSO", inner_steps), ("torch.optim.SGD", plain_steps)]
)
def test_inner_steps(measure, entrant, make):
    X, y = digits()
    model = network()
    measure(
        make(model, X[:BATCH], y[:BATCH]),
        workload=f"{INNER_STEPS} updates of a 64-256-10 network on {BATCH} digits, float64",
        entrant=entrant,
        accuracy=("loss", lambda _: float(F.cross_entropy(model(X), y).detach())),
        peer=None if entrant.startswith("thalweg") else "torch",
        target=1 / 1.5,
        rounds=7,
    )
