"""Saved agents: exact round trips, refusals, atomic writes; loading executes nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from snn_rl import checkpoint
from snn_rl.checkpoint import CARD, DIGEST, WEIGHTS, load, read_card, save
from snn_rl.errors import CheckpointError
from snn_rl.graph import Node
from snn_rl.network import Network
from snn_rl.neuron import Surrogate


@st.composite
def networks(draw: Callable[[Any], Any]) -> Network:
    """Small random networks: pixels or features, spiking or not, convolutions, a residual add."""
    spiking, image = draw(st.booleans()), draw(st.booleans())
    granularity = st.sampled_from(["layer", "channel", "neuron"])
    shape = [draw(st.integers(1, 2)), 5, 5] if image else [draw(st.integers(1, 4))]
    options = {"shape": shape, "pixels": image and draw(st.booleans()), "stack": 1}
    options["stack"] = draw(st.integers(1, 3))
    nodes = [Node("input", "input", (), options)]

    def activation(name: str, source: str, size: list[int]) -> None:
        lif = {"shape": size, "threshold": draw(granularity), "leak": draw(granularity)}
        nodes.append(
            Node(name, "lif", (source,), lif) if spiking else Node(name, "relu", (source,))
        )

    wide, hidden = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    features = options["stack"] * shape[0]
    last = "input"
    if image:
        conv = {"in_channels": features, "out_channels": wide, "kernel_size": [3, 3]}
        nodes.append(Node("conv", "conv", ("input",), conv | {"bias": draw(st.booleans())}))
        if not spiking and draw(st.booleans()):
            norm = {"num_features": wide, "eps": 1e-5, "dimensions": 2}
            nodes.append(Node("norm", "batchnorm", ("conv",), norm))
        activation("act0", nodes[-1].name, [wide, 3, 3])
        nodes.append(
            Node("pool", "sumpool" if spiking else "avgpool", ("act0",), {"kernel_size": 2})
        )
        nodes.append(Node("flat", "flatten", ("pool",)))
        last, features = "flat", wide
    nodes.append(Node("fc1", "linear", (last,), {"in_features": features, "out_features": hidden}))
    activation("act1", "fc1", [hidden])
    nodes.append(Node("fc2", "linear", ("act1",), {"in_features": hidden, "out_features": hidden}))
    nodes.append(Node("scale", "scale", ("act1",)))
    nodes.append(Node("sum", "add", ("fc2", "scale")))
    activation("act2", "sum", [hidden])
    nodes.append(Node("out", "linear", ("act2",), {"in_features": hidden, "out_features": 2}))
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


def example(seed: int = 0, hidden: int = 4) -> Network:
    nodes = [
        Node("input", "input", (), {"shape": [3], "pixels": False, "stack": 1}),
        Node("fc", "linear", ("input",), {"in_features": 3, "out_features": hidden}),
        Node("lif", "lif", ("fc",), {"shape": [hidden], "threshold": "layer", "leak": "neuron"}),
        Node("out", "linear", ("lif",), {"in_features": hidden, "out_features": 2}),
    ]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(nodes).eval()


def saved(folder: Path, seed: int = 0, **card: Any) -> Network:
    network = example(seed)
    save(folder, network, 3, card)
    return network


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
        before = network(x, network.initial_state(3), timesteps=timesteps)
        after = loaded(x, loaded.initial_state(3), timesteps=timesteps)
    assert torch.equal(before[0], after[0])

    save(folder, loaded, timesteps, read)  # a card may be saved again
    assert same(load(folder)[0], network)


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load(folder)
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 500
    return message


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    for name in (CARD, WEIGHTS):
        path = tmp_path / "a" / name
        whole = path.read_bytes()
        for length in [*range(0, 12), *range(12, len(whole), 29), len(whole) - 1]:
            path.write_bytes(whole[:length])
            assert name in refused(tmp_path / "a")
        path.write_bytes(whole)
    load(tmp_path / "a")


def test_flipped_bytes_are_refused(tmp_path: Path) -> None:
    """Any damage to the weights is seen, even where the numbers still make sense."""
    saved(tmp_path / "a")
    path = tmp_path / "a" / WEIGHTS
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        refused(tmp_path / "a")


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({"weight": [1, 2]}))
    return buffer.getvalue()


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b"\xff\xfe" * 20,
        pickle.dumps({"format": checkpoint.FORMAT}),
        zipped(),
        b"{}",
        b"[]",
        b"null",
        b'{"format": "another program", "version": 1}',
        b"[" * 100_000,
    ],
    ids=["empty", "zeros", "binary", "pickle", "zip", "object", "list", "null", "other", "deep"],
)
def test_foreign_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    saved(tmp_path / "a")
    (tmp_path / "a" / name).write_bytes(content)
    assert name in refused(tmp_path / "a")


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_loading_never_unpickles(tmp_path: Path, name: str, how: str) -> None:
    saved(tmp_path / "a")
    target, victim = tmp_path / "executed", tmp_path / "a" / name
    if how == "pickle":
        victim.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save(Bomb(target), victim)
    refused(tmp_path / "a")
    assert not target.exists()
    if how == "pickle":  # the bomb does go off where something unpickles it
        pickle.loads(victim.read_bytes())
        assert target.exists()


def edit(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    for key, value in changes.items():
        if value is None:
            del card[key]
        else:
            card[key] = value
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")


def graph_with(**options: Any) -> list[dict[str, Any]]:
    nodes = [node.to_dict() for node in example().nodes]
    nodes[2]["options"] = nodes[2]["options"] | options
    return nodes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2.*reads version 1"),
        ({"version": "x" * 1000}, "version x+;"),
        ({"version": None}, "version None"),
        ({"format": "other"}, "does not describe"),
        ({"timesteps": 0}, "timesteps"),
        ({"timesteps": "5"}, "timesteps"),
        ({"graph": None}, "damaged"),
        ({"graph": []}, "damaged.*graph is empty"),
        ({"graph": "input"}, "damaged node"),
        ({"graph": [{"name": "a"}]}, "damaged node"),
        ({"graph": graph_with()[:-1]}, "do not fit"),
        ({"graph": graph_with(shape=[5])}, "do not fit"),
        ({"graph": graph_with(shape=[])}, "do not fit"),
        ({"graph": graph_with(shape="four")}, "do not fit"),
        ({"graph": graph_with(leak="galaxy")}, "granularity"),
        ({"graph": graph_with()[:1]}, "do not fit"),
        ({"graph": [{**graph_with()[0], "op": "exec"}]}, "unknown operation 'exec'"),
        ({"grid": None}, "damaged"),
        ({"grid": {}}, "damaged"),
        ({"grid": {"fc": 10**9, "out": 3}}, "damaged"),
        ({"grid": [1]}, "damaged"),
        ({"surrogate": {"kind": "triangle", "gamma": "big"}}, "damaged"),
        ({"surrogate": {"kind": "magic", "gamma": 1}}, "surrogate kind"),
        ({"surrogate": {"kind": "triangle", "gamma": 1, "more": 1}}, "damaged"),
        ({DIGEST: None}, "damaged or belongs to another"),
    ],
)
def test_damaged_cards_are_refused(tmp_path: Path, changes: Any, message: str) -> None:
    saved(tmp_path / "a")
    edit(tmp_path / "a", **changes)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "a")
    refused(tmp_path / "a")


@pytest.mark.parametrize("hidden", [4, 5])
def test_weights_of_another_agent_are_refused(tmp_path: Path, hidden: int) -> None:
    """Of the same architecture or of another one; also with a matching digest."""
    saved(tmp_path / "a")
    save(tmp_path / "b", example(1, hidden), 3, {})
    foreign = (tmp_path / "b" / WEIGHTS).read_bytes()
    (tmp_path / "a" / WEIGHTS).write_bytes(foreign)
    assert "belongs to another agent" in refused(tmp_path / "a")
    if hidden == 5:
        edit(tmp_path / "a", **{DIGEST: hashlib.sha256(foreign).hexdigest()})
        assert "do not fit together" in refused(tmp_path / "a")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    saved(tmp_path / "a")
    path = tmp_path / "a" / WEIGHTS
    tensors = load_file(path)
    tensors["lif.threshold"][0] = bad
    save_file(tensors, path)
    edit(tmp_path / "a", **{DIGEST: hashlib.sha256(path.read_bytes()).hexdigest()})
    assert "not finite" in refused(tmp_path / "a")


@pytest.mark.parametrize("missing", [CARD, WEIGHTS, "everything"])
def test_missing_files_are_named(tmp_path: Path, missing: str) -> None:
    saved(tmp_path / "a")
    if missing == "everything":
        assert "holds no agent" in refused(tmp_path / "b")
        (tmp_path / "file").touch()
        assert "holds no agent" in refused(tmp_path / "file")
    else:
        (tmp_path / "a" / missing).unlink()
        assert missing in refused(tmp_path / "a")


def fails(*args: Any, **kwargs: Any) -> None:
    raise OSError("no space left on device")


@pytest.mark.parametrize("when", ["save_file", "write_text", "_replace_folder", "rename"])
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
from test_checkpoint import example
from snn_rl import checkpoint

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
