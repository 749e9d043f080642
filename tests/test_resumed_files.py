"""A resume trusts nothing that it finds: states, replays, settings, links; and always gets on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from test_resume import CARTPOLE, SPIKING_REPLAY, StopAfter, config, train_in_pieces
from torch import nn

from snn_rl import cli
from snn_rl.agents.config import TrainConfig
from snn_rl.agents.dqn.replay import SegmentReplay, Step
from snn_rl.agents.run import Run
from snn_rl.errors import CheckpointError, SnnRlError
from snn_rl.runs.folder import CONFIG, Interrupted
from snn_rl.runs.resume import REPLAY, RESUME, STATE, Saver, read_state
from snn_rl.support.settings import merge

SETTINGS = config(merge(CARTPOLE, SPIKING_REPLAY))
IN_ANN, IN_T2 = 12, 24
"""Roll-outs after which a stage with a replay of its own is interrupted."""


def interrupted(folder: Path, roll_outs: int = IN_ANN, settings: TrainConfig = SETTINGS) -> Path:
    with pytest.raises(Interrupted):
        Run(settings, folder, StopAfter(roll_outs)).train()
    return folder


@pytest.fixture(scope="module", params=[IN_ANN, IN_T2])
def stopped(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interrupted(tmp_path_factory.mktemp("stopped") / "run", request.param)


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run"


def refused(run: Path, settings: TrainConfig = SETTINGS, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        Run(settings, run, StopAfter(), **options).train()
    return str(caught.value)


def test_every_flipped_byte_of_a_state_is_noticed(run: Path) -> None:
    state = run / RESUME / STATE
    whole = state.read_bytes()
    for place in np.random.default_rng(0).integers(len(whole), size=40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(place) % 8
        state.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged: remove|another version"):
            read_state(state)


def test_a_state_is_not_mapped_beyond_its_header(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = run / RESUME / STATE
    os.truncate(state, 2**36)  # sparse
    monkeypatch.setattr("snn_rl.runs.resume.safe_open", None)
    with pytest.raises(CheckpointError, match=r"damaged: remove"):
        read_state(state)


@pytest.mark.parametrize("harm", ["missing", "truncated", "flipped"])
def test_a_damaged_replay_is_refused(run: Path, harm: str) -> None:
    files = sorted(file for file in (run / RESUME / REPLAY).iterdir() if file.stat().st_size)
    names = {file.name for file in files}
    assert {"frames", "reward", "last", "sums"} <= names
    for file in files:
        whole = file.read_bytes()
        kept = 0 if harm == "missing" else len(whole) // 2
        if not any(whole[kept:]):
            continue  # zeros, which a longer file is filled with
        if harm == "flipped":
            file.write_bytes(bytes(byte ^ 1 for byte in whole))
        else:
            file.unlink()
        if harm == "truncated":
            file.write_bytes(whole[:kept])
        assert f"{RESUME}/{REPLAY} is damaged: remove " in refused(run), file
        file.write_bytes(whole)


def test_other_settings_are_refused_and_free_ones_taken(run: Path) -> None:
    changed = SETTINGS.model_copy(update={"seed": 5, "flicker": 0.5})
    with pytest.raises(SnnRlError, match=r"holds a run with other settings \(seed, flicker\)"):
        Run(changed, run, StopAfter()).train()
    whole = (run / CONFIG).read_text()
    (run / CONFIG).write_text(yaml.safe_dump(changed.model_dump()))  # as by an editor
    assert "(other flicker, seed): put them back" in refused(run, changed)
    (run / CONFIG).write_text(whole)
    Run(SETTINGS.model_copy(update={"save_every": 60.0}), run, StopAfter()).train()


@pytest.mark.parametrize("name", [f"{REPLAY}/frames", REPLAY, STATE])
def test_links_are_not_followed(run: Path, tmp_path: Path, name: str) -> None:
    link, target = run / RESUME / name, tmp_path / "another's"
    link.rename(target)
    link.symlink_to(target)
    before = {p: p.read_bytes() for p in [target, *target.glob("*")] if p.is_file()}
    assert "is a link, which no run makes" in refused(run)
    assert before == {p: p.read_bytes() for p in before}


def test_a_replay_opens_no_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / REPLAY).mkdir()
    (tmp_path / REPLAY / "frames").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"):
        SegmentReplay(1, 4, (2,), pixels=False, files=tmp_path / REPLAY)
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_resume_without_the_own_network_names_it(tmp_path: Path) -> None:
    def network(shape: tuple[int, ...], actions: int) -> nn.Module:
        return nn.Sequential(nn.Linear(shape[0], 7), nn.ReLU(), nn.Linear(7, actions))

    with pytest.raises(Interrupted):
        Run(SETTINGS, tmp_path / "run", StopAfter(IN_ANN), q_network=network).train()
    assert "goes on with the same q_network" in refused(tmp_path / "run")
    Run(SETTINGS, tmp_path / "run", StopAfter(), q_network=network).train()


class Unseeded(CartPoleEnv):
    """Does not repeat from its seed."""

    def reset(self, **_: Any) -> Any:
        return super().reset(seed=int(np.random.randint(2**30)))


@pytest.fixture
def unseeded() -> Iterator[str]:
    gym.register("Unseeded-v0", entry_point=Unseeded, max_episode_steps=60)
    yield "Unseeded-v0"
    del gym.registry["Unseeded-v0"]


def test_what_does_not_repeat_goes_on_with_fresh_episodes(
    tmp_path: Path, unseeded: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(CARTPOLE, env=unseeded)
    agents, _ = train_in_pieces(settings, tmp_path / "run", [12, 20])
    assert agents.keys() == {"ann", "T2", "T1"}
    told = [r.getMessage() for r in caplog.records if "begin anew" in r.getMessage()]
    assert told, caplog.text
    assert all("does not repeat from its seed and actions" in text for text in told)
    assert all("--from RUN/STAGE" in text for text in told)


def test_a_cut_ends_episodes_without_joining_them(tmp_path: Path) -> None:
    """The last frame bootstraps the transition before it; none leads into the next episode."""
    replay = SegmentReplay(1, 8, (1,), pixels=False, files=tmp_path)
    no, yes = np.zeros(1, np.bool_), np.ones(1, np.bool_)

    def add(value: float, start: Any = no) -> None:
        frame, reward = np.full((1, 1), value, np.float32), np.ones(1, np.float32)
        replay.append(Step(frame, start, no, np.zeros(1, np.int64), reward, no, no))

    add(0, yes)
    add(1)
    add(2)
    replay.cut()
    add(3, yes)
    assert replay.last[0, :4].tolist() == [False, False, True, False]
    assert replay.truncated[0, :4].tolist() == [False, True, False, False]
    replay.check()
    again = SegmentReplay(1, 8, (1,), pixels=False, files=tmp_path)
    again.written = 4
    again.check()
    again.frames[0, 1] = 9
    with pytest.raises(CheckpointError, match="damaged: remove"):
        again.check()


def test_a_resume_saves_soon_then_more_and_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each save within a long pause comes when as much time has passed as before the last one."""
    Saver(tmp_path, every=10.0).save({"steps": 1})
    now = 100.0
    monkeypatch.setattr("snn_rl.runs.resume.time.monotonic", lambda: now)
    saver, saves = Saver(tmp_path, every=10.0), []
    saver.cost = 1.0
    while not (tmp_path / STATE).exists():
        pass
    assert saver.load() == {"steps": 1}
    while now < 300:
        if saver.due():
            saver.save({"steps": 2})
            saver.wait()
            saver.cost = 1.0
            saves.append(now - 100)
        now += 0.25
    assert saves == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 124.0, 184.0]


def test_the_command_line_refuses_in_one_sentence(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file = run / "config.yaml"
    config_file.write_text(config_file.read_text().replace("seed: 0", "seed: 4"))
    monkeypatch.setattr("sys.argv", ["snn-rl", "train", "--resume", "--run-dir", str(run)])
    torch.set_num_threads(1)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert ended.value.code == 2
    assert "(other seed): put them back, or start a new run" in line
