"""What an import loads: the heavy libraries only where they are needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"numpy", "scipy", "numba", "sklearn", "torch", "matplotlib", "pandas", "dask", "jinja2"}


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('\\n' + ' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_package_loads_nothing_heavy():
    assert not loaded("import thalweg") & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["papers"], ["show", "--help"]])
def test_light_commands_load_nothing_heavy(arguments):
    code = (
        "import sys\n"
        f"sys.argv = ['thalweg', *{arguments!r}]\n"
        "from thalweg.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert not loaded(code) & HEAVY


NETWORKS = {
    "descent": {
        "AdaGradNorm",
        "Constraint",
        "DifferentialMultipliers",
        "HeavyBall",
        "Muon",
        "MuonWithAdamW",
        "NormTrustRegion",
        "OnlineImitation",
        "PolyakMomentum",
        "PolyakSGD",
        "ProxyProx",
        "SMB",
        "SSO",
        "StepDecayLR",
        "StochasticLineSearch",
        "majorisation_bound",
        "smoothness",
        "split_parameters",
        "surrogate_value",
    },
    "linalg": {"CovariancePooling", "ZCAWhitening"},
    "transport": {
        "AdversarialBridge",
        "BridgeInterpolant",
        "BridgeMatching",
        "BridgeUnfolder",
        "CategoricalBridgeMatching",
        "DiffusionSchrodingerBridge",
        "FlowTransfer",
        "GaussianPathFlow",
        "GradientField",
        "MaskedAutoregressiveFlow",
        "OnlineCategoricalBridgeMatching",
        "RectifiedFlow",
        "StochasticInterpolant",
        "TimeMLP",
        "TokenMLP",
        "TokenTransformer",
        "WassersteinGradientFlow",
        "divergence",
        "flow_log_prob",
        "markovian_projection_step",
        "optimality_gap_bound",
        "variational_divergence",
    },
}
"""What is a torch module or trains one; all else in these domains works without torch."""


@pytest.mark.parametrize("domain", ["streams", "transport", "inference", "linalg", "descent"])
def test_what_needs_no_networks_does_not_load_torch(domain):
    code = (
        f"import thalweg.{domain} as domain\n"
        f"for name in set(domain.__all__) - {NETWORKS.get(domain, set())!r}: getattr(domain, name)"
    )
    assert not loaded(code) & {"torch", "matplotlib"}


def test_a_missing_extra_names_the_command(monkeypatch):
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "try:\n    import thalweg._torch\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "thalweg[torch]"' in done.stdout
