import inspect
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from thalweg.transport import TimeMLP, divergence  # noqa: E402
from thalweg.transport._training import (  # noqa: E402
    Learner,
    fingerprint,
    read_checkpoint,
    run_steps,
)
from thalweg.transport.networks import train  # noqa: E402


def parameters(module):
    return torch.cat([p.detach().ravel() for p in module.parameters()])


# --- TimeMLP -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.integers(1, 9), max_size=3),
    st.sampled_from([0, 2, 16]),
    st.sampled_from([0, 3]),
    st.floats(0, 1),
)
def test_one_time_for_all_rows_equals_that_time_in_each_row(dim, hidden, features, cond_dim, t):
    net = TimeMLP(dim, 2, hidden=hidden, time_features=features, cond_dim=cond_dim, rng=0).double()
    x = torch.linspace(-1, 1, 5 * dim, dtype=torch.float64).reshape(5, dim)
    cond = torch.ones(5, cond_dim, dtype=torch.float64) if cond_dim else None
    each = net(torch.full((5,), t, dtype=torch.float64), x, cond)
    torch.testing.assert_close(net(t, x, cond), each)
    torch.testing.assert_close(net(torch.tensor(t, dtype=torch.float64), x, cond), each)
    assert each.shape == (5, 2)


def test_the_first_layer_sees_point_condition_time_and_waves():
    net = TimeMLP(1, 1, hidden=(), time_features=4, cond_dim=1, rng=0).double()
    weights = torch.tensor([[2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0]], dtype=torch.float64)
    with torch.no_grad():
        net.first.weight.copy_(weights)
        net.first.bias.fill_(19.0)
    t, x, c = 0.3, 0.4, 0.5
    waves = [np.sin(t), np.sin(30 * t), np.cos(t), np.cos(30 * t)]
    expected = weights[0].numpy() @ [x, c, t, *waves] + 19
    column = torch.ones(1, 1, dtype=torch.float64)
    np.testing.assert_allclose(net(t, x * column, c * column).item(), expected, rtol=1e-6)


def test_network_and_training_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    net = TimeMLP(2, hidden=(8,), rng=None)
    train(net, lambda g: net(0.5, torch.randn(4, 2, generator=g)).square().mean(), n_steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_follow_the_seed_and_the_default_law():
    a, b, c = (parameters(TimeMLP(3, rng=seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    net = TimeMLP(3, rng=0)
    for layer in (net.first, net.rest[1]):
        bound = layer.in_features**-0.5
        assert layer.weight.abs().max() <= bound
        assert abs(layer.weight.std().item() - bound / 3**0.5) < 0.03 * bound


def test_zero_init_starts_as_the_zero_field():
    net = TimeMLP(3, zero_init=True, rng=0)
    assert not net(0.2, torch.randn(4, 3)).any()


def test_state_dict_holds_the_parameters_alone():
    net = TimeMLP(2, hidden=(4,), rng=0)
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim must be"),
        ({"out_dim": 0}, "out_dim must be"),
        ({"hidden": (8, 0)}, "hidden must be"),
        ({"activation": "sine"}, "activation must be one of 'silu'"),
        ({"time_features": 3}, "time_features must be even"),
        ({"cond_dim": -1}, "cond_dim must be"),
    ],
)
def test_bad_shapes_of_a_network_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimeMLP(**{"dim": 2, **arguments})


def test_missing_or_unexpected_condition_is_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"cond must be a tensor \(n, 1\)"):
        TimeMLP(2, cond_dim=1)(0.5, x)
    with pytest.raises(ValueError, match="cond must be None"):
        TimeMLP(2)(0.5, x, x)


# --- train ---------------------------------------------------------------------------------------


class Line(torch.nn.Module):
    """y = a x, with a buffer that counts calls."""

    def __init__(self, a=0.0):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor([a], dtype=torch.float64))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        self.calls += 1
        return self.a * x


def noisy_loss(net):
    def loss(generator):
        x = torch.randn(16, generator=generator, dtype=torch.float64)
        return ((net(x) - 3 * x) ** 2).mean()

    return loss


def adam_by_hand(n_steps, lr, schedule, betas, ema, clip, decay=0.0):
    """The textbook loop on the same batches, in NumPy."""
    generator = torch.Generator().manual_seed(0)
    a = m = v = 0.0
    average, losses = a, []
    for t in range(n_steps):
        x = torch.randn(16, generator=generator, dtype=torch.float64).numpy()
        losses.append(((a - 3) ** 2 * x**2).mean())
        gradient = (2 * (a - 3) * x**2).mean()
        if clip is not None:
            gradient *= min(1.0, clip / (abs(gradient) + 1e-6))
        m = betas[0] * m + (1 - betas[0]) * gradient
        v = betas[1] * v + (1 - betas[1]) * gradient**2
        share = 0.01 + 0.99 * (1 + np.cos(np.pi * t / n_steps)) / 2
        rate = lr * {"cosine": share, "constant": 1.0, "falling": 0.5 ** (t / n_steps)}[schedule]
        a *= 1 - rate * decay
        hat = m / (1 - betas[0] ** (t + 1)), v / (1 - betas[1] ** (t + 1))
        a -= rate * hat[0] / (np.sqrt(hat[1]) + 1e-8)
        now = min(ema, (1 + t) / (10 + t)) if ema is not None else 0.0
        average = now * average + (1 - now) * a
    return a, average, losses


@pytest.mark.parametrize("schedule", ["cosine", "constant", "falling"])
@pytest.mark.parametrize(("ema", "clip", "decay"), [(None, None, 0.0), (0.9, 0.5, 0.1)])
def test_training_is_adam_with_schedule_average_and_clipping(schedule, ema, clip, decay):
    net = Line()
    (trained,), losses = train(
        net,
        noisy_loss(net),
        n_steps=60,
        lr=0.1,
        schedule=(lambda share: 0.5**share) if schedule == "falling" else schedule,
        betas=(0.8, 0.95),
        weight_decay=decay,
        ema=ema,
        grad_clip=clip,
        rng=0,
    )
    a, average, expected = adam_by_hand(60, 0.1, schedule, (0.8, 0.95), ema, clip, decay)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(net.a.item(), a, rtol=1e-5)
    np.testing.assert_allclose(trained.a.item(), average, rtol=1e-5)
    assert (trained is net) == (ema is None)
    assert not trained.training


def test_averaged_copy_carries_the_buffers_of_the_trained_network():
    net = Line()
    (copy,), _ = train(net, noisy_loss(net), n_steps=5, ema=0.9, rng=0)
    assert copy.calls.item() == 5
    assert copy.a.grad is None


def test_several_modules_are_trained_together():
    one, two = Line(), Line()

    def loss(generator):
        x = torch.randn(32, generator=generator, dtype=torch.float64)
        return ((one(x) - x) ** 2 + (two(x) + x) ** 2).mean()

    modules, _ = train([one, two], loss, n_steps=300, lr=0.05, rng=0)
    np.testing.assert_allclose([m.a.item() for m in modules], [1, -1], atol=0.02)


def test_callback_sees_each_step_and_can_stop_the_run():
    net, seen = Line(), []

    def callback(state):
        seen.append((state.step, state.n_steps, state.loss))
        if state.step == 4:
            raise StopIteration

    _, losses = train(net, noisy_loss(net), n_steps=10, callback=callback, rng=0)
    assert seen == [(i + 1, 10, loss) for i, loss in enumerate(losses)]
    assert len(losses) == 4


def test_loss_that_is_not_finite_stops_with_its_step():
    net = Line()
    losses = iter([1.0, 1.0, np.nan])
    with pytest.raises(FloatingPointError, match="the loss is nan at step 3"):
        train(net, lambda g: net.a.sum() * next(losses), n_steps=5, rng=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_steps": 0}, ValueError, "n_steps must be"),
        ({"lr": 0.0}, ValueError, "lr must be"),
        ({"schedule": "linear"}, ValueError, "schedule must be one of 'cosine', 'constant'"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas must be"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be"),
        ({"ema": 1.0}, ValueError, "ema must be"),
        ({"grad_clip": 0.0}, ValueError, "grad_clip must be"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be"),
        ({"rng": np.random.default_rng(0)}, TypeError, "rng must be"),
    ],
)
def test_bad_options_of_training_are_refused_by_name(options, error, message):
    net = Line()
    with pytest.raises(error, match=message):
        train(net, noisy_loss(net), **{"n_steps": 3, **options})


def test_modules_without_parameters_are_refused():
    with pytest.raises(ValueError, match="modules must have parameters"):
        train(torch.nn.ReLU(), lambda g: torch.zeros(()), n_steps=1)


# --- checkpoints ---------------------------------------------------------------------------------


def run(path=None, callback=None, n_steps=40, seed=0, every=10, **options):
    """A small run whose every part has state: Adam, average, schedule, generator, buffer."""
    net = TimeMLP(2, hidden=(8, 8), rng=seed)

    def loss(generator):
        x = torch.randn(32, 2, generator=generator)
        return (net(torch.rand(32, generator=generator), x) - x.flip(1)).square().mean()

    options = {"ema": 0.95, "rng": seed, "callback": callback, **options}
    (mean,), losses = train(
        net, loss, n_steps=n_steps, checkpoint=path, checkpoint_every=every, **options
    )
    return parameters(net), parameters(mean), losses


def assert_same_run(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


class StoppedError(Exception):
    pass


def stop_at(step):
    def callback(state):
        if state.step == step:
            raise StoppedError

    return callback


@pytest.mark.parametrize("step", [3, 10, 27, 39])
def test_an_interrupted_run_goes_on_bit_by_bit(tmp_path, step):
    with pytest.raises(StoppedError):
        run(tmp_path / "run.pt", stop_at(step))
    assert torch.load(tmp_path / "run.pt", weights_only=True)["state"]["step"] == step
    seen = []
    resumed = run(tmp_path / "run.pt", lambda state: seen.append(state.step))
    assert seen == list(range(step + 1, 41))
    assert_same_run(resumed, run())


def test_a_run_stopped_by_its_callback_goes_on_too(tmp_path):
    def stop(state):
        if state.step == 7:
            raise StopIteration

    assert len(run(tmp_path / "run.pt", stop)[2]) == 7
    assert_same_run(run(tmp_path / "run.pt"), run())


def test_a_run_without_seed_goes_on_with_its_own_generator(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(StoppedError):
        run(path, stop_at(12), rng=None)
    content = path.read_bytes()
    first = run(path, rng=None)
    path.write_bytes(content)
    assert_same_run(first, run(path, rng=None))


def test_a_finished_run_is_not_run_again(tmp_path):
    first = run(tmp_path / "run.pt")

    def never(state):
        raise AssertionError

    assert_same_run(run(tmp_path / "run.pt", never), first)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.pt"]


def test_the_generator_stands_where_the_finished_run_left_it(tmp_path):
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    for generator in generators:
        run(tmp_path / "run.pt", rng=generator)
    states = [generator.get_state() for generator in generators]
    assert torch.equal(*states)


SCRIPT = f"""
import sys
import torch
from thalweg.transport.networks import TimeMLP, train

{inspect.getsource(parameters)}
{inspect.getsource(run)}
run(sys.argv[1], lambda state: print(state.step, flush=True), n_steps=100_000, every=7)
"""


def killed_after(path, step):
    """Train in a process of its own and kill it once it has reported this step."""
    command = [sys.executable, "-c", SCRIPT, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= step:
                process.kill()
        process.wait()
    return process.returncode


def state_after(path, step):
    """Train, or go on training, up to this step."""
    with pytest.raises(StoppedError):
        run(path, stop_at(step), n_steps=100_000, every=7)
    return torch.load(path, weights_only=True)["state"]


def test_a_killed_process_goes_on_bit_by_bit(tmp_path):
    path = tmp_path / "run.pt"
    assert killed_after(path, 30) == -signal.SIGKILL
    kept = torch.load(path, weights_only=True)["state"]["step"]
    assert kept >= 28
    assert kept % 7 == 0
    resumed = state_after(path, kept + 20)
    whole = state_after(tmp_path / "whole.pt", kept + 20)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


@pytest.fixture
def keyboard():
    """Let the keyboard interrupt, which a shell has background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_keyboard_interrupts_between_two_steps(tmp_path, keyboard):
    net, path = Line(), tmp_path / "run.pt"
    inner = noisy_loss(net)

    def loss(generator):
        if net.calls == 4:
            signal.raise_signal(signal.SIGINT)
        return inner(generator)

    with pytest.raises(KeyboardInterrupt):
        train(net, loss, n_steps=10, rng=0, checkpoint=path)
    assert torch.load(path, weights_only=True)["state"]["step"] == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_stops_at_once(tmp_path, keyboard):
    net, calls = Line(), []

    def loss(generator):
        calls.append(None)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        train(net, loss, n_steps=10, rng=0, checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "run.pt").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-3}, "lr was 0.002 and is now 0.001"),
        ({"n_steps": 50}, "n_steps was 40 and is now 50"),
        ({"ema": None}, "ema was 0.95 and is now None"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"schedule": "constant"}, "schedule was 'cosine' and is now 'constant'"),
        ({"config": {"epsilon": 2.0}}, "epsilon was 1.0 and is now 2.0"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, change, message):
    run(tmp_path / "run.pt", config={"epsilon": 1.0})
    content = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(ValueError, match=f"of another configuration: {message}"):
        run(tmp_path / "run.pt", **{"config": {"epsilon": 1.0}, **change})
    assert (tmp_path / "run.pt").read_bytes() == content


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    for hidden, expected in (((4,), None), ((5,), "parameters was '0.first.weight")):
        net = TimeMLP(1, hidden=hidden, rng=0)
        options = {"n_steps": 2, "rng": 0, "checkpoint": tmp_path / "run.pt"}
        if expected is None:
            train(net, lambda g, net=net: net(0.0, torch.ones(2, 1)).sum(), **options)
        else:
            with pytest.raises(ValueError, match=expected):
                train(net, lambda g, net=net: net(0.0, torch.ones(2, 1)).sum(), **options)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    for content in (b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a checkpoint of this library"):
            run(path)
    for content in ({"weights": torch.zeros(2)}, torch.zeros(2)):
        torch.save(content, path)
        with pytest.raises(ValueError, match="is not a checkpoint of this library"):
            run(path)
    torch.save({"format": 99, "config": {}, "state": {}}, path)
    with pytest.raises(ValueError, match="has format 99, this version reads 1"):
        run(path)


def test_a_checkpoint_never_runs_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"format": 1, "config": {}, "state": Trap()}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        run(tmp_path / "run.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    with pytest.raises(StoppedError):
        run(tmp_path / "run.pt", stop_at(5))
    content = (tmp_path / "run.pt").read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        run(tmp_path / "run.pt")
    assert (tmp_path / "run.pt").read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.pt"]


def test_a_run_that_breaks_inside_a_step_keeps_the_last_written_state(tmp_path):
    net, path = Line(), tmp_path / "run.pt"
    inner = noisy_loss(net)

    def loss(generator):
        value = inner(generator)
        return value * np.nan if net.calls == 9 else value

    with pytest.raises(FloatingPointError, match="at step 9"):
        train(net, loss, n_steps=20, rng=0, checkpoint=path, checkpoint_every=4)
    assert torch.load(path, weights_only=True)["state"]["step"] == 8


class Cache:
    """A loss with state of its own: batches drawn every fourth call."""

    def __init__(self, net):
        self.net, self.batch, self.age = net, torch.zeros(0, dtype=torch.float64), 0

    def __call__(self, generator):
        if self.age % 4 == 0:
            self.batch = torch.randn(8, generator=generator, dtype=torch.float64)
        self.age += 1
        return ((self.net(self.batch) - 2 * self.batch) ** 2).mean()

    def state_dict(self):
        return {"batch": self.batch, "age": self.age}

    def load_state_dict(self, state):
        self.batch, self.age = state["batch"], state["age"]


def test_a_cache_of_the_loss_is_kept_too(tmp_path):
    finals = []
    for path, stop in ((None, None), (tmp_path / "run.pt", 6)):
        for callback in [None] if stop is None else [stop_at(stop), None]:
            net = Line()
            options = {"n_steps": 15, "rng": 0, "checkpoint": path, "callback": callback}
            try:
                _, losses = train(net, Cache(net), **options)
            except StoppedError:
                continue
            finals.append((net.a.detach().numpy(), losses))
    assert_same_run(*finals)


def test_two_learners_in_one_loop_go_on_bit_by_bit(tmp_path):
    """A game of two players, each with its own Adam, as an adversarial method has."""

    def play(path=None, callback=None):
        x, y = Line(1.0), Line(-0.5)
        one = Learner([x], n_steps=20, lr=0.05, ema=0.9)
        two = Learner([y], n_steps=20, lr=0.03, schedule="constant")

        def advance(generator):
            z = torch.randn(4, generator=generator, dtype=torch.float64)
            first = (x(z) * y(z)).mean() + (x.a**2).sum()
            one.step(first)
            second = -(x(z) * y(z)).mean() + (y.a**2).sum()
            two.step(second)
            return torch.stack([first, second])

        losses = run_steps(
            advance, [one, two], n_steps=20, generator=torch.Generator().manual_seed(0),
            checkpoint=path, callback=callback,
        )  # fmt: skip
        return x.a.detach(), y.a.detach(), one.trained()[0].a.detach(), losses

    with pytest.raises(StoppedError):
        play(tmp_path / "run.pt", stop_at(9))
    resumed = play(tmp_path / "run.pt")
    assert resumed[-1].shape == (20, 2)
    assert_same_run(resumed, play())


def test_fingerprint_tells_values_shapes_and_types_apart():
    x = np.arange(6.0)
    different = [x, x[::-1], x.reshape(2, 3), x.astype(np.float32)]
    assert len({fingerprint(array) for array in different}) == 4
    assert fingerprint(x) == fingerprint(torch.from_numpy(x))
    assert fingerprint(x, x) != fingerprint(x)


def test_nested_settings_are_compared_one_by_one(tmp_path):
    run(tmp_path / "run.pt", config={"data": {"n": 3, "d": 2}})
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    read_checkpoint(tmp_path / "run.pt", content["config"])
    with pytest.raises(ValueError, match="configuration: d was 2 and is now None; give"):
        run(tmp_path / "run.pt", config={"data": {"n": 3}})


# --- divergence ----------------------------------------------------------------------------------

MATRIX = torch.tensor([[2.0, 5.0, 0.0], [1.0, -3.0, 7.0], [4.0, 6.0, 0.5]])


def linear(t, x):
    return t * x @ MATRIX.T


def quadratic(t, x):
    """Divergence 2 x_0 + x_0 + x_1."""
    return torch.stack(
        [x[:, 0] ** 2 + x[:, 1] ** 2, x[:, 0] * x[:, 1], x[:, 0] + x[:, 1] * x[:, 2]], 1
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_exact_divergence_is_the_trace(mode):
    with mode():
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
        total, value = divergence(linear, torch.tensor(0.5), x, return_field=True)
        torch.testing.assert_close(total, torch.full((6,), 0.5 * -0.5))
        torch.testing.assert_close(value, linear(0.5, x))
        torch.testing.assert_close(divergence(quadratic, 0.0, x), 3 * x[:, 0] + x[:, 1])


def test_estimate_has_the_mean_and_variance_of_hutchinson():
    n = 20_000
    with torch.no_grad():
        draws = divergence(linear, 1.0, torch.ones(n, 3), exact=False, rng=0)
    symmetric = (MATRIX + MATRIX.T) / 2
    variance = 2 * (symmetric.square().sum() - symmetric.diag().square().sum()).item()
    assert abs(draws.mean().item() - MATRIX.trace().item()) <= 4.5 * (variance / n) ** 0.5
    assert abs(draws.var().item() / variance - 1) < 0.1


def test_many_dimensions_are_estimated_by_default():
    x = torch.ones(4, 17)
    mix = torch.ones(17, 17)
    with torch.no_grad():
        assert divergence(lambda t, x: x @ mix, 0.0, x[:, :16] @ mix[:16], rng=0).std() > 0
        same = [divergence(lambda t, x: x @ mix, 0.0, x, rng=3) for _ in range(2)]
        torch.testing.assert_close(*same)
        exact = divergence(lambda t, x: x @ mix, 0.0, x, exact=True)
    torch.testing.assert_close(exact, torch.full((4,), 17.0))


def test_sixteen_dimensions_are_exact_by_default():
    with torch.no_grad():
        mix = torch.ones(16, 16)
        total = divergence(lambda t, x: x @ mix, 0.0, torch.ones(4, 16))
    torch.testing.assert_close(total, torch.full((4,), 16.0))


@pytest.mark.parametrize("exact", [True, False])
def test_gradients_pass_through_the_divergence(exact):
    rate = torch.tensor(1.5, requires_grad=True)
    x = torch.full((2, 1), 0.7, requires_grad=True)
    total = divergence(lambda t, x: torch.sin(rate * x), 0.0, x, exact=exact, rng=0)
    total.sum().backward()
    r, z = 1.5, 0.7
    np.testing.assert_allclose(rate.grad, 2 * (np.cos(r * z) - r * z * np.sin(r * z)), rtol=1e-5)
    np.testing.assert_allclose(x.grad, np.full((2, 1), -(r**2) * np.sin(r * z)), rtol=1e-5)


def test_network_divergence_agrees_with_its_jacobian():
    net = TimeMLP(3, hidden=(16, 16), rng=0).double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        total = divergence(net, 0.4, x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: net(0.4, row[None])[0]))(x)
    torch.testing.assert_close(total, torch.einsum("nii->n", jacobian).detach())
    assert not total.requires_grad


def test_a_field_that_does_not_depend_on_the_point_has_no_divergence():
    with torch.no_grad():
        assert not divergence(lambda t, x: torch.ones(3, 2), 0.0, torch.zeros(3, 2)).any()


def test_bad_shapes_of_divergence_are_refused():
    with pytest.raises(ValueError, match=r"x must have shape \(n, d\)"):
        divergence(linear, 0.0, torch.zeros(3))
    with pytest.raises(ValueError, match=r"field\(t, x\) must have the shape of x"):
        divergence(lambda t, x: x[:, :1], 0.0, torch.zeros(3, 2))
