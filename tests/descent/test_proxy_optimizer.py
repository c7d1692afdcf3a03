"""ProxyProx: what a step is, where SGD and the proximal point come out, and what users expect."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import ProxyProx  # noqa: E402

nn = torch.nn


def quadratic(weight, curvature, centre=0.0):
    return lambda: (curvature * (weight - centre) ** 2).sum() / 2


def start(dtype=torch.float64):
    return nn.Parameter(torch.tensor([3.0, -1.0, 2.0], dtype=dtype))


HARD = torch.tensor([1.0, 10.0, 4.0])
EASY = torch.tensor([1.3, 9.5, 4.0])


def test_a_step_is_the_recursion_written_out():
    w, eta, rate, momentum = start(), 0.7, 0.05, 0.6
    optimizer = ProxyProx([w], eta=eta, inner_steps=4, inner_lr=rate, momentum=momentum)
    x = w.detach().clone()
    shift = HARD * x - EASY * (x - 0.5)
    y, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(4):
        velocity = momentum * velocity + EASY * (y - 0.5) + shift + (y - x) / eta
        y = y - rate * velocity
    loss = optimizer.step(quadratic(w, HARD), quadratic(w, EASY, 0.5))
    assert loss.item() == pytest.approx(float((HARD * x**2).sum() / 2))
    torch.testing.assert_close(w.detach(), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(w.grad, HARD * x)


def test_many_inner_steps_reach_the_proximal_point():
    w, eta = start(), 0.7
    x = w.detach().clone()
    ProxyProx([w], eta=eta, inner_steps=400, inner_lr=0.05).step(
        quadratic(w, HARD), quadratic(w, EASY, 0.5)
    )
    torch.testing.assert_close(w.detach(), x - HARD * x / (EASY + 1 / eta), rtol=0, atol=1e-7)


def test_without_a_proxy_one_long_inner_step_is_sgd():
    w, plain = start(), start()
    ours = ProxyProx([w], eta=0.05, inner_steps=1, inner_lr=0.05)
    theirs = torch.optim.SGD([plain], lr=0.05)
    for _ in range(5):
        ours.step(quadratic(w, HARD), lambda: (0.0 * w).sum())
        theirs.zero_grad()
        quadratic(plain, HARD)().backward()
        theirs.step()
    torch.testing.assert_close(w.detach(), plain.detach(), rtol=1e-12, atol=1e-12)


def test_the_minimiser_of_the_target_is_a_fixed_point():
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    ProxyProx([w], eta=1.0).step(quadratic(w, HARD), quadratic(w, EASY, 5.0))
    torch.testing.assert_close(w.detach(), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_anchor_is_the_mean_of_its_batches_and_every_inner_step_has_its_own():
    w = start()
    centres = iter([1.0, 3.0, 0.0, 4.0])
    x = w.detach().clone()

    def proxy():
        return quadratic(w, EASY, next(centres))()

    ProxyProx([w], eta=0.5, inner_steps=2, inner_lr=0.1, momentum=0.0, anchor_batches=2).step(
        quadratic(w, HARD), proxy
    )
    shift = HARD * x - EASY * (x - 2.0)
    y = x - 0.1 * (EASY * x + shift)
    y = y - 0.1 * (EASY * (y - 4.0) + shift + (y - x) / 0.5)
    torch.testing.assert_close(w.detach(), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["eta", "lr"])
def test_groups_have_their_own_options_and_schedulers_act_on_eta(name):
    a, b = start(), start()
    optimizer = ProxyProx([a], eta=0.4, inner_lr=0.02)
    optimizer.add_param_group({"params": [b], name: 0.1, "momentum": 0.5})
    first, second = optimizer.param_groups
    assert (first["lr"], second["lr"], second["momentum"]) == (0.4, 0.1, 0.5)
    torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    alone = start()
    single = ProxyProx([alone], eta=0.1, inner_lr=0.02, momentum=0.5)

    def both(curvature):
        return lambda: quadratic(a, curvature)() + quadratic(b, curvature)()

    optimizer.step(both(HARD), both(EASY))
    single.step(quadratic(alone, HARD), quadratic(alone, EASY))
    torch.testing.assert_close(b, alone, rtol=0, atol=0)
    assert not torch.equal(a, b)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(single, 1e-6)
    single.step(quadratic(alone, HARD), quadratic(alone, EASY))
    scheduler.step()
    before = alone.detach().clone()
    for group in single.param_groups:
        group["inner_lr"] = None
    single.step(quadratic(alone, HARD), quadratic(alone, EASY))
    assert (alone - before).norm() < 1e-5


def test_state_is_the_options_alone_and_survives_saving_and_copying():
    w = start()
    optimizer = ProxyProx([w], eta=0.4, inner_lr=0.02)
    optimizer.step(quadratic(w, HARD), quadratic(w, EASY))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = nn.Parameter(w.detach().clone())
    again = ProxyProx([other], eta=9.0)
    again.load_state_dict(torch.load(file, weights_only=True))
    third, copied = copy.deepcopy((w, optimizer))
    for p, each in ((w, optimizer), (other, again), (third, copied)):
        each.step(quadratic(p, HARD), quadratic(p, EASY))
    torch.testing.assert_close(w, other, rtol=0, atol=0)
    torch.testing.assert_close(w, third, rtol=0, atol=0)


def test_parameters_without_a_gradient_of_the_target_stay():
    w, idle, only = start(), start(), start()
    optimizer = ProxyProx([w, idle, only], eta=0.05)
    optimizer.step(
        lambda: quadratic(w, HARD)() + quadratic(only, HARD)(),
        lambda: quadratic(w, EASY)() + quadratic(idle, EASY)(),
    )
    torch.testing.assert_close(idle, start(), rtol=0, atol=0)
    assert idle.grad is None
    assert not torch.equal(only, start())
    assert only.norm() < start().norm()


def test_half_precision_moves_are_summed_wider():
    """Inner moves of 1e-4 are lost in bfloat16 once their sum is a few hundred times that."""
    wide = nn.Parameter(torch.ones(4, dtype=torch.float32))
    half = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    for w in (wide, half):
        ProxyProx([w], eta=1.0, inner_steps=600, inner_lr=1e-4, momentum=0.0).step(
            lambda w=w: (w**2).sum() / 2, lambda w=w: (0.0 * w).sum()
        )
    assert 1 - wide[0].item() > 0.04
    assert half[0].item() == pytest.approx(wide[0].item(), abs=4e-3)


def network_losses():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    rows = torch.randn(64, 6, generator=generator)
    labels = rows[:, :1] - rows[:, 1:2]
    coarse = labels + 0.3 * torch.randn(64, 1, generator=generator)
    picks = torch.Generator().manual_seed(1)

    def target():
        return (model(rows) - labels).square().mean()

    def proxy():
        at = torch.randint(64, (16,), generator=picks)
        return (model(rows[at]) - coarse[at]).square().mean()

    return model, target, proxy


def test_a_network_learns_more_from_as_many_gradients_of_the_target_as_sgd_has():
    model, target, proxy = network_losses()
    optimizer = ProxyProx(model.parameters(), eta=1.0, inner_lr=0.02, anchor_batches=4)
    for _ in range(20):
        optimizer.step(target, proxy)
    ours = target().item()
    best = []
    for lr in (0.03, 0.1, 0.3):
        plain, loss, _ = network_losses()
        sgd = torch.optim.SGD(plain.parameters(), lr=lr, momentum=0.9)
        for _ in range(20):
            sgd.zero_grad()
            loss().backward()
            sgd.step()
        best.append(loss().item())
    assert ours < 0.7 * min(best)


def test_one_gradient_of_the_target_and_one_batch_an_inner_step():
    w, calls = start(), []

    def watched(name, loss):
        return lambda: (calls.append(name), loss())[1]

    ProxyProx([w], eta=0.5, inner_steps=3, inner_lr=0.01, anchor_batches=2).step(
        watched("target", quadratic(w, HARD)), watched("proxy", quadratic(w, EASY))
    )
    assert calls == ["target"] + 5 * ["proxy"]


def test_what_is_not_finite_is_refused_and_undone():
    w = start()
    optimizer = ProxyProx([w], eta=1.0, inner_lr=0.1)
    with pytest.raises(RuntimeError, match="target_closure must be finite"):
        optimizer.step(lambda: (w * float("nan")).sum(), quadratic(w, EASY))
    losses = iter([1.0, 1.0, 1.0, float("inf")])
    with pytest.raises(RuntimeError, match="proxy_closure must be finite"):
        optimizer.step(quadratic(w, HARD), lambda: next(losses) * quadratic(w, EASY)())
    torch.testing.assert_close(w, start(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eta": 0.0}, ValueError, "eta must be"),
        ({"eta": "1"}, TypeError, "eta must be"),
        ({"inner_steps": 0}, ValueError, "inner_steps must be"),
        ({"inner_lr": -1.0}, ValueError, "inner_lr must be"),
        ({"momentum": 1.0}, ValueError, "momentum must be"),
        ({"anchor_batches": 0}, ValueError, "anchor_batches must be"),
    ],
)
def test_bad_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        ProxyProx([start()], **{"eta": 1.0, **options})
    optimizer = ProxyProx([start()], eta=1.0)
    with pytest.raises(error, match=next(iter(options))):
        optimizer.add_param_group({"params": [start()], **options})
    assert len(optimizer.param_groups) == 1


def test_closures_that_do_not_fit_are_refused_by_name():
    w = start()
    optimizer = ProxyProx([w], eta=1.0)

    def backward():
        loss = quadratic(w, HARD)()
        loss.backward()
        return loss

    with pytest.raises(TypeError, match="target_closure must return the loss without calling"):
        optimizer.step(backward, quadratic(w, EASY))
    with pytest.raises(TypeError, match="proxy_closure must be a callable"):
        optimizer.step(quadratic(w, HARD), None)
    with pytest.raises(ValueError, match="proxy_closure must return a tensor that depends"):
        optimizer.step(quadratic(w, HARD), lambda: torch.tensor(1.0))
    table = nn.Embedding(5, 2, sparse=True)
    sparse = ProxyProx(table.parameters(), eta=1.0)
    with pytest.raises(ValueError, match="dense"):
        sparse.step(*2 * [lambda: table(torch.tensor([1])).square().sum()])
    torch.testing.assert_close(w, start(), rtol=0, atol=0)
