"""Saved agents: exact round trips, refusals, atomic writes; loading executes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import node_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from saved_agents import example, saved

from snn_rl.core.network import Network
from snn_rl.core.surrogates import Surrogate
from snn_rl.runs import checkpoint
from snn_rl.runs.checkpoint import CARD, WEIGHTS, load, read_card, save


@st.composite
def networks(draw: Callable[[Any], Any]) -> Network:
    """Small random networks: pixels or features, spiking or not, convolutions, a residual add."""
    spiking, image = draw(st.booleans()), draw(st.booleans())
    granularity = st.sampled_from(["layer", "channel", "neuron"])
    shape = [draw(st.integers(1, 2)), 5, 5] if image else [draw(st.integers(1, 4))]
    options = {"shape": shape, "pixels": image and draw(st.booleans()), "stack": 1}
    options["stack"] = draw(st.integers(1, 3))
    nodes = [node_of("input", "input", (), options)]

    def activation(name: str, source: str, size: list[int]) -> None:
        lif = {"shape": size, "threshold": draw(granularity), "leak": draw(granularity)}
        nodes.append(
            node_of(name, "lif", (source,), lif) if spiking else node_of(name, "relu", (source,))
        )

    wide, hidden = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    features = options["stack"] * shape[0]
    last = "input"
    if image:
        conv = {"in_channels": features, "out_channels": wide, "kernel_size": [3, 3]}
        nodes.append(node_of("conv", "conv", ("input",), conv | {"bias": draw(st.booleans())}))
        if not spiking and draw(st.booleans()):
            norm = {"num_features": wide, "eps": 1e-5, "dimensions": 2}
            nodes.append(node_of("norm", "batchnorm", ("conv",), norm))
        activation("act0", nodes[-1].name, [wide, 3, 3])
        nodes.append(
            node_of("pool", "sumpool" if spiking else "avgpool", ("act0",), {"kernel_size": 2})
        )
        nodes.append(node_of("flat", "flatten", ("pool",)))
        last, features = "flat", wide
    nodes.append(
        node_of("fc1", "linear", (last,), {"in_features": features, "out_features": hidden})
    )
    activation("act1", "fc1", [hidden])
    nodes.append(
        node_of("fc2", "linear", ("act1",), {"in_features": hidden, "out_features": hidden})
    )
    nodes.append(node_of("scale", "scale", ("act1",)))
    nodes.append(node_of("sum", "add", ("fc2", "scale")))
    activation("act2", "sum", [hidden])
    nodes.append(node_of("out", "linear", ("act2",), {"in_features": hidden, "out_features": 2}))
    surrogate = Surrogate(draw(st.sampled_from(["triangle", "arctan"])), draw(st.floats(0.01, 9)))
    network = Network(nodes, surrogate)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = 10.0 ** draw(st.integers(-4, 2))
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.abs_()
    network.constrain()
    return network.eval()


def same(a: Network, b: Network) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return list(one) == list(other) and all(
        torch.equal(value, other[name]) and value.dtype == other[name].dtype
        for name, value in one.items()
    )


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(network=networks(), timesteps=st.integers(1, 6))
def test_round_trip_is_exact(tmp_path: Path, network: Network, timesteps: int) -> None:
    folder = tmp_path / "agent"
    card = {"environment": "Pong", "rewards": [1.5, 20.0], "note": "ü"}
    save(folder, network, timesteps, card)
    loaded, read = load(folder)
    assert same(network, loaded) and not loaded.training
    assert loaded.nodes == network.nodes and loaded.surrogate == network.surrogate
    assert {key: read[key] for key in card} == card and read["timesteps"] == timesteps
    assert read == read_card(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent"]
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]

    stored = load_file(folder / WEIGHTS)
    for name, value in stored.items():
        kind, layer = name.rpartition(".")[2], name.rpartition(".")[0]
        gridded = kind in ("weight", "bias") and layer != "norm"
        assert (value.dtype == torch.int16) == gridded, name

    x = torch.zeros(2, 3, *network.input_shape) + 7
    x = x.to(torch.uint8 if network.pixels else torch.float32)
    with torch.no_grad():
        how = {"timesteps": timesteps, "carry_membrane": True}
        before = network(x, network.initial_state(3), **how)
        after = loaded(x, loaded.initial_state(3), **how)
    assert torch.equal(before[0], after[0])

    save(folder, loaded, timesteps, read)  # a card may be saved again
    assert same(load(folder)[0], network)


def fails(*args: Any, **kwargs: Any) -> None:
    raise OSError("no space left on device")


@pytest.mark.parametrize("when", ["save_file", "write_text", "_put", "rename"])
@pytest.mark.parametrize("exists", [True, False])
def test_failing_save_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, exists: bool
) -> None:
    old = saved(tmp_path / "a") if exists else None
    with monkeypatch.context() as patch:
        if when == "rename":  # the new folder cannot take its place
            rename = Path.rename
            patch.setattr(
                Path,
                "rename",
                lambda self, to: fails() if (self / CARD).exists() and to == tmp_path / "a"
                and self.name != ".a.old" else rename(self, to),
            )  # fmt: skip
        else:
            patch.setattr(checkpoint, when, fails)
        with pytest.raises(OSError, match="no space"):
            save(tmp_path / "a", example(1), 3, {})
    assert [path.name for path in tmp_path.iterdir()] == (["a"] if exists else [])
    if old is not None:
        assert same(load(tmp_path / "a")[0], old)
    new = saved(tmp_path / "a", 1)
    assert same(load(tmp_path / "a")[0], new)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from saved_agents import example
from snn_rl.runs import checkpoint

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

where, folder = sys.argv[1], Path(sys.argv[2])
if where == "between":  # the old folder is moved aside, the new one not yet in its place
    rename = Path.rename
    Path.rename = lambda self, to: rename(self, to) if self == folder else die()
else:
    setattr(checkpoint, where, die)
checkpoint.save(folder, example(1), 3, {{}})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("where", ["write_text", "between"])
def test_killed_save_leaves_the_old_agent(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "a"
    old = saved(folder)
    here = Path(__file__).parent
    script = KILLED.format(tests=str(here))
    done = subprocess.run(
        [sys.executable, "-c", script, where, str(folder)], cwd=here.parent, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-500:]
    assert folder.exists() == (where != "between")
    assert same(load(folder)[0], old)
    assert read_card(folder)["timesteps"] == 3
    new = saved(folder, 2)
    assert same(load(folder)[0], new)
    assert not (tmp_path / ".a.old").exists()


def test_saving_snaps_what_was_given(tmp_path: Path) -> None:
    network = example()
    before = network.clone()
    save(tmp_path / "a", network, 3, {})
    assert not same(network, before)
    assert same(load(tmp_path / "a")[0], network)


def test_folders_are_made_and_the_card_cannot_change_the_format(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "Pong" / "T3"
    saved(folder, format="mine", version=7)
    assert load(folder)[1]["version"] == checkpoint.VERSION
    assert os.stat(folder).st_mode & 0o777 == 0o755
    card, weights = (
        os.stat(folder / name).st_mode for name in ("agent.json", "weights.safetensors")
    )
    assert weights == card
