"""Modules that register environments are imported where the user typed them, and nowhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from commands import SMALL

import snn_rl
from snn_rl.envs import UnsupportedEnvironment, import_environments

MODULE = """
from pathlib import Path
import gymnasium as gym
Path("executed").touch()
gym.register("Named-v0", entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
             max_episode_steps=20)
"""
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """A shipped agent whose card names a module in the current folder."""
    (tmp_path / "named.py").write_text(MODULE)
    folder = tmp_path / "agent"
    snn_rl.load_agent("zoo:CartPole-v1/T1").save(folder)
    name_environment(folder, "named:Named-v0")
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    sys.modules.pop("named", None)
    gym.registry.pop("Named-v0", None)


def name_environment(folder: Path, env_id: str) -> None:
    card = json.loads((folder / "agent.json").read_text())
    card["environment"]["env_id"] = env_id
    (folder / "agent.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    "command",
    [["evaluate", "--trials", "2"], ["energy", "--trials", "2"], ["play", "--video", "a.gif"]],
)
def test_an_agent_file_imports_nothing(agent: Path, call: Call, command: list[str]) -> None:
    status, _, err = call(*command, "--agent", str(agent))
    assert status == 2
    (line,) = (line for line in err.splitlines() if line.startswith("error"))
    assert line == (
        "error: 'named:Named-v0' needs the module 'named', which is not imported since a file "
        "names it: if you trust it, add --import named (in Python: import named)"
    )
    assert not Path("executed").exists()
    if command[0] != "play":
        status, _, err = call(*command, "--agent", str(agent), "--import", "named")
        assert (status, Path("executed").exists()) == (0, True), err


def test_not_even_of_the_standard_library(agent: Path, call: Call) -> None:
    """Its environment is registered, but the module that the file names would be run."""
    name_environment(agent, "this:CartPole-v1")
    sys.modules.pop("this", None)
    status, _, err = call("evaluate", "--agent", str(agent))
    assert (status, "--import this" in err, "this" in sys.modules) == (2, True, False)


def test_a_run_imports_what_was_typed_and_says_how_to_go_on(agent: Path, call: Call) -> None:
    small = [*SMALL[:1], *SMALL[3:]]  # without --env
    status, _, err = call(*small, "--env", "named:Named-v0", "--run-dir", "run")
    assert status == 0, err
    assert err.splitlines()[-1] == "done: snn-rl evaluate --agent run --import named"
    assert Path("executed").exists()
    Path("executed").unlink()
    del sys.modules["named"]
    for file in Path("run").glob("T1/*"):
        file.unlink()
    for arguments in (["--resume", "--run-dir", "run"], ["--config", "run.yaml"]):
        if "--config" in arguments:
            Path("run.yaml").write_text("env: named:Named-v0\n")
        status, _, err = call("train", *arguments)
        assert (status, "add --import named" in err) == (2, True), err
    assert not Path("executed").exists()


def test_the_workers_of_a_sweep_import_what_was_typed(agent: Path, call: Call) -> None:
    small = ["sweep", "--seeds", "1", *SMALL[5:], "--set", "timesteps=1", "--out", "all"]
    status, _, err = call(*small, "--env", "named:Named-v0")
    assert (status, "all --import named && snn-rl report" in err) == (0, True), err
    next(Path("all").rglob("T1/agent.json")).unlink()
    status, _, err = call("sweep", "--resume", "--out", "all")
    assert (status, "add --import named" in err) == (1, True), err
    status, _, err = call("sweep", "--resume", "--out", "all", "--import", "named")
    assert status == 0, err


def test_python_imports_what_train_is_given(agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(agent.parent)
    monkeypatch.syspath_prepend(str(agent.parent))
    with pytest.raises(UnsupportedEnvironment, match="did you mean 'Named-v0'"):
        snn_rl.train({"env": "named:Name-v0"}, run_dir=agent.parent / "run")
    assert Path("executed").exists()


@pytest.mark.parametrize("end", ["1 / 0", "raise SystemExit", "import nowhere"])
def test_a_module_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    (tmp_path / "breaking.py").write_text(end)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnsupportedEnvironment, match=r"module 'breaking' cannot be imported: .+"):
        import_environments("breaking")
