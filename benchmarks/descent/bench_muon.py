"""A step of Muon against that of torch, and two optimizers as one against two apart.

torch.optim.Muon always works in bfloat16. The ratios wanted are those of a processor that emulates
it; where the processor multiplies bfloat16, both do the same work and no ratio is wanted.
"""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from thalweg.descent import Muon, MuonWithAdamW, split_parameters  # noqa: E402
from thalweg.descent._work_dtype import multiplies_bfloat16  # noqa: E402

nn = torch.nn

NETWORKS = {"64-128-128-10": (64, 128, 128, 10), "512-512-512-512-512": (512,) * 5}
EMULATED = not multiplies_bfloat16(torch.device("cpu"))
WANTED = {"64-128-128-10": 5.0, "512-512-512-512-512": 50.0} if EMULATED else {}


def network(widths):
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    model(torch.randn(64, widths[0])).square().mean().backward()
    return model


def distance_from_exact(matrices):
    """Mean distance of the updates from the polar factor, relative, with momentum at its start."""
    total = 0.0
    for before, after, gradient in matrices:
        update = (before - after).double()
        u, _, v = torch.linalg.svd(gradient.double(), full_matrices=False)
        exact = u @ v
        total += ((update / update.norm() * exact.norm() - exact).norm() / exact.norm()).item()
    return total / len(matrices)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("entrant", ["thalweg", "torch.optim.Muon"])
def test_step(measure, name, entrant):
    model = network(NETWORKS[name])
    matrices = [p for p in model.parameters() if p.ndim == 2]
    start = [p.detach().clone() for p in matrices]
    if entrant == "thalweg":
        optimizer = Muon(matrices)
    else:
        optimizer = torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.0)

    def step():
        optimizer.step()
        return [(s, p.detach().clone(), p.grad) for s, p in zip(start, matrices, strict=True)]

    measure(
        step,
        workload=f"step of Muon, 5 polynomials, network {name}, bfloat16 "
        + ("emulated" if EMULATED else "in hardware"),
        entrant=entrant,
        accuracy=("distance from the exact step", distance_from_exact),
        peer=None if entrant == "thalweg" else "torch",
        target=WANTED.get(name),
        rounds=10,
    )


@pytest.mark.parametrize("entrant", ["thalweg, MuonWithAdamW", "Muon and AdamW apart"])
def test_one_or_two(measure, entrant):
    model = network(NETWORKS["64-128-128-10"])
    if entrant.startswith("thalweg"):
        optimizers = [MuonWithAdamW(model)]
    else:
        matrices, rest = split_parameters(model)
        optimizers = [Muon(matrices), torch.optim.AdamW(rest, lr=3e-4, weight_decay=0.0)]

    def step():
        for optimizer in optimizers:
            optimizer.step()

    measure(
        step,
        workload="step of Muon and AdamW, network 64-128-128-10",
        entrant=entrant,
        accuracy=("loss", lambda _: model(torch.ones(1, 64)).square().mean().item()),
        target=0.9,
        rounds=50,
    )
