"""The training loop of this domain: Adam with a schedule, averages, and checkpoints to resume from.

A run is a function that makes one step, called `n_steps` times; what it changes (networks, their
optimisers and averages, the generator, the losses so far) goes to one file from time to time and on
the way out. Started again with that file, a run goes on as if it had never stopped, bit by bit.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from thalweg._torch import torch
from thalweg._validation import check_count, check_option, check_real

FINAL_SHARE = 0.01
"""Share of the learning rate that the cosine schedule ends with; chosen here."""
FUSED_DEVICES = ("cpu", "cuda", "mps")
CHECK_EVERY = 50
"""Steps between looks at the losses on an accelerator, since each look waits for the device."""
FORMAT = 1

Schedule = str | Callable[[float], float]


class Learner:
    """Networks that one Adam trains together, and the moving average of their parameters.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        The networks; they are trained in place.
    n_steps : int
        Steps that the schedule spans.
    lr : float, default 2e-3
        Learning rate at the start.
    schedule : {"cosine", "constant"} or callable, default "cosine"
        Cosine ends at a hundredth of `lr`; a callable maps the share of the run that is over, in
        [0, 1), to a factor.
    betas : (float, float), default (0.9, 0.999)
        Decay of Adam's averages.
    weight_decay : float, default 0.0
        Decoupled decay, as in AdamW.
    ema : float, optional
        Decay d of the average of parameters; after t steps ``min(d, (1+t)/(10+t))`` is used, so
        that the start is forgotten in short runs too.
    grad_clip : float, optional
        Largest norm of the gradient.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        *,
        n_steps: int,
        lr: float = 2e-3,
        schedule: Schedule = "cosine",
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        ema: float | None = None,
        grad_clip: float | None = None,
    ) -> None:
        self.modules = list(modules)
        self.n_steps = check_count("n_steps", n_steps)
        self.lr = check_real("lr", lr, above=0)
        if not callable(schedule):
            check_option("schedule", schedule, ["cosine", "constant"])
        self.schedule = schedule
        first, second = betas
        self.betas = tuple(check_real("betas", b, at_least=0, below=1) for b in (first, second))
        self.weight_decay = check_real("weight_decay", weight_decay, at_least=0)
        self.ema = None if ema is None else check_real("ema", ema, at_least=0, below=1)
        self.grad_clip = None if grad_clip is None else check_real("grad_clip", grad_clip, above=0)
        self.parameters: list[torch.Tensor] = [
            p for m in self.modules for p in m.parameters() if p.requires_grad
        ]
        if not self.parameters:
            raise ValueError("modules must have parameters that require gradients, got none")
        self.device = self.parameters[0].device
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.lr,
            betas=self.betas,  # type: ignore[arg-type]
            weight_decay=self.weight_decay,
            fused=all(p.device.type in FUSED_DEVICES for p in self.parameters),
        )
        self.averages = None if self.ema is None else [p.detach().clone() for p in self.parameters]
        self.taken = 0

    def step(self, loss: torch.Tensor) -> None:
        """Move the parameters along the gradient of `loss`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self._factor()
        self.optimizer.step()
        if self.averages is not None and self.ema is not None:
            decay = min(self.ema, (1 + self.taken) / (10 + self.taken))
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        self.taken += 1

    def trained(self) -> list[torch.nn.Module]:
        """Return the networks for use: copies with averaged parameters where `ema` is set."""
        if self.averages is None:
            return [module.eval() for module in self.modules]
        copies = copy.deepcopy(self.modules)
        theirs = (p for m in copies for p in m.parameters() if p.requires_grad)
        with torch.no_grad():
            for parameter, average in zip(theirs, self.averages, strict=True):
                parameter.copy_(average)
                parameter.grad = None
        return [module.eval() for module in copies]

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree in, as plain values."""
        return {
            "n_steps": self.n_steps,
            "lr": self.lr,
            "schedule": self.schedule if isinstance(self.schedule, str) else "callable",
            "betas": list(self.betas),
            "weight_decay": self.weight_decay,
            "ema": self.ema,
            "grad_clip": self.grad_clip,
            "parameters": [
                f"{i}.{name} {list(p.shape)} {p.dtype}"
                for i, module in enumerate(self.modules)
                for name, p in module.named_parameters()
            ],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes from step to step."""
        return {
            "modules": [module.state_dict() for module in self.modules],
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages,
            "taken": self.taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of another run of the same settings."""
        for module, kept in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(kept)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averages is not None:
            for average, kept in zip(self.averages, state["averages"], strict=True):
                average.copy_(kept)
        self.taken = state["taken"]

    def _factor(self) -> float:
        share = self.taken / self.n_steps
        if callable(self.schedule):
            return self.schedule(share)
        if self.schedule == "constant":
            return 1.0
        return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * share)) / 2


def run_steps(
    advance: Callable[[torch.Generator], torch.Tensor],
    learners: Sequence[Learner],
    *,
    n_steps: int,
    generator: torch.Generator,
    callback: Callable[[Any], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    config: dict[str, Any] | None = None,
    extra: Any = None,
) -> NDArray[np.float64]:
    """Call ``advance(generator)`` `n_steps` times and return the losses that it returned.

    Parameters
    ----------
    advance : callable
        Makes one step (calls `Learner.step` once or more) and returns its losses: a tensor, the
        same shape each time.
    learners : sequence of Learner
        All that `advance` trains.
    n_steps : int
        Steps of the whole run, those before an interruption included.
    generator : torch.Generator
        The only source of randomness of `advance`.
    callback : callable, optional
        Called after each step with ``state.step`` (from 1), ``state.n_steps`` and ``state.loss``;
        StopIteration ends the run.
    checkpoint : path, optional
        File that the run is kept in, and goes on from if it exists. It is replaced as a whole every
        `checkpoint_every` steps, at the end, and when `callback` raises or the keyboard interrupts
        (once the step in progress is done; a second interrupt stops at once).
    checkpoint_every : int, default 500
        Steps between two writes.
    config : dict, optional
        Plain values that a checkpoint must agree in, beside the settings of the learners.
    extra : object, optional
        With ``state_dict()`` and ``load_state_dict(state)``: kept too.

    Returns
    -------
    array (steps,) or (steps, ...)

    Raises
    ------
    ValueError
        If the checkpoint is of another configuration or cannot be read.
    FloatingPointError
        If a loss is not finite; it names the step. The file then keeps the last good state.
    """
    n_steps = check_count("n_steps", n_steps)
    check_count("checkpoint_every", checkpoint_every)
    config = {**(config or {}), "learners": [learner.settings() for learner in learners]}
    path = None if checkpoint is None else Path(checkpoint)
    losses = _Losses(look_every=1 if learners[0].device.type == "cpu" else CHECK_EVERY)
    done = 0
    if path is not None and path.exists():
        state = read_checkpoint(path, config)
        done, losses.seen = state["step"], list(state["losses"].numpy())
        generator.set_state(state["generator"])
        for learner, kept in zip(learners, state["learners"], strict=True):
            learner.load_state_dict(kept)
        if extra is not None:
            extra.load_state_dict(state["extra"])

    def save(step: int) -> None:
        losses.look()
        if path is None:
            return
        state = {
            "step": step,
            "losses": torch.from_numpy(losses.as_array()),
            "generator": generator.get_state(),
            "learners": [learner.state_dict() for learner in learners],
            "extra": None if extra is None else extra.state_dict(),
        }
        write_checkpoint(path, config, state)

    with _interrupts_between_steps(path is not None) as raise_interrupt:
        for step in range(done + 1, n_steps + 1):
            losses.add(advance(generator))
            try:
                if callback is not None:
                    callback(SimpleNamespace(step=step, n_steps=n_steps, loss=losses.last()))
                raise_interrupt()
            except StopIteration:
                save(step)
                break
            except BaseException:
                save(step)
                raise
            if step % checkpoint_every == 0 or step == n_steps:
                save(step)
        raise_interrupt()
    return losses.as_array()


def fingerprint(*arrays: Any) -> str:
    """Return a short digest of arrays or tensors, for the `config` of a run on these data."""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        array = np.ascontiguousarray(array.cpu() if hasattr(array, "cpu") else array)
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def write_checkpoint(path: Path, config: dict[str, Any], state: dict[str, Any]) -> None:
    """Write `config` and `state` to `path`, all or nothing."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
        try:
            torch.save({"format": FORMAT, "config": config, "state": state}, out)
            out.flush()
            os.fsync(out.fileno())
            os.replace(out.name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(out.name)
            raise


def read_checkpoint(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the state in `path`; ValueError if it is not a checkpoint of this configuration."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"checkpoint {str(path)!r} is not a checkpoint of this library") from error
    if not isinstance(content, dict) or not {"format", "config", "state"} <= content.keys():
        raise ValueError(f"checkpoint {str(path)!r} is not a checkpoint of this library")
    if content["format"] != FORMAT:
        raise ValueError(
            f"checkpoint {str(path)!r} has format {content['format']}, this version reads {FORMAT}"
        )
    differing = _differences(content["config"], config)
    if differing:
        raise ValueError(
            f"checkpoint {str(path)!r} is of another configuration: {'; '.join(differing)}; give "
            "another path or remove the file"
        )
    return cast(dict[str, Any], content["state"])


def _differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    if theirs == ours:
        return []
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [
            text
            for key in sorted({*theirs, *ours})
            for text in _differences(theirs.get(key), ours.get(key), key)
        ]
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        pairs = zip(theirs, ours, strict=True)
        return [text for one, other in pairs for text in _differences(one, other, name)]
    return [f"{name} was {theirs!r} and is now {ours!r}"]


class _Losses:
    """Losses of all steps; those on a device are looked at together."""

    def __init__(self, look_every: int) -> None:
        self.look_every = look_every
        self.seen: list[Any] = []
        self.waiting: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor) -> None:
        self.waiting.append(loss.detach())
        if len(self.waiting) >= self.look_every:
            self.look()

    def look(self) -> None:
        if not self.waiting:
            return
        values = torch.stack(self.waiting).to("cpu", torch.float64).numpy()
        self.waiting.clear()
        if not np.isfinite(values).all():
            bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
            first = int(np.argmax(bad))
            raise FloatingPointError(
                f"the loss is {values[first]} at step {len(self.seen) + first + 1}; lower the "
                "learning rate or check the data"
            )
        self.seen.extend(values)

    def last(self) -> Any:
        self.look()
        return float(self.seen[-1]) if np.ndim(self.seen[-1]) == 0 else self.seen[-1]

    def as_array(self) -> NDArray[np.float64]:
        self.look()
        return np.array(self.seen)


@contextmanager
def _interrupts_between_steps(active: bool) -> Iterator[Callable[[], None]]:
    """Hold the first KeyboardInterrupt back until the yielded function is called.

    Only in the main thread and where nobody else has taken the signal.
    """
    ours = (
        active
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    came = False

    def note(_signal: int, _frame: Any) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def raise_interrupt() -> None:
        nonlocal came
        if came:
            came = False
            raise KeyboardInterrupt

    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield raise_interrupt
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def placed(callback: Callable[[Any], Any] | None, **place: Any) -> Callable[[Any], Any] | None:
    """Return the callback, told in its state which part of a larger fit is under way."""
    if callback is None:
        return None

    def told(state: Any) -> None:
        vars(state).update(place)
        callback(state)

    return told
