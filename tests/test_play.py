"""Watching an agent play: the game is evaluation's, panels show what happened, videos play."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray
from PIL import Image
from test_videos import mp4_frames, pictures
from torch import nn
from untrained import untrained_agent, untrained_ann

from snn_rl import cli
from snn_rl.agents.agent import Agent
from snn_rl.agents.conditions import STANDARD, Conditions
from snn_rl.agents.evaluation import evaluate
from snn_rl.agents.loading import load_agent
from snn_rl.agents.seeds import evaluation_seeds
from snn_rl.agents.show.canvas import BACKGROUND, REST, Box, Canvas
from snn_rl.agents.show.drawing import SIZE, draw
from snn_rl.agents.show.game import LayerActivity, Moment, Player, Show
from snn_rl.agents.show.outputs import open_screen
from snn_rl.envs import UnsupportedEnvironment
from snn_rl.errors import SnnRlError

CARTPOLE, PIXELS = "CartPole-v1", "PixelCartPole-v1"


LIVELY = Conditions(flicker=0.2, sticky=0.3)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """CartPole draws itself without pygame."""
    monkeypatch.setattr(CartPoleEnv, "render", lambda _: np.full((40, 60, 3), 200, np.uint8))


@pytest.fixture
def short_pong() -> Iterator[str]:
    """Pong, sticky, that is cut off after 90 decisions."""
    name = "ShortPong-v0"
    options = {"game": "pong", "frameskip": 4, "max_num_frames_per_episode": 360}
    gym.register(name, entry_point="ale_py.env:AtariEnv", kwargs=options)
    yield name
    del gym.registry[name]


def watch(agent: Agent, trials: int = 1, conditions: Conditions = STANDARD) -> list[list[Moment]]:
    """The moments of the first evaluation games, game by game."""
    with closing(Show(agent, conditions)) as show:
        return [list(show.play([seed])) for seed in evaluation_seeds(0, trials)]


def moment(
    layers: tuple[NDArray[Any], ...] = (np.eye(3, 4, dtype=np.float32),),
    picture: NDArray[np.uint8] | None = None,
    seen: NDArray[Any] | None = None,
    actions: int = 2,
    **changes: Any,
) -> Moment:
    shown = tuple(LayerActivity(f"l{i}", x, x, float(x.mean())) for i, x in enumerate(layers))
    names = tuple(f"action {i}" for i in range(actions))
    player = Player("Some-v0", 2, True, True, names)
    features = np.array([0.5, -3], np.float32) if seen is None else seen
    q = np.linspace(-1, 2, actions, dtype=np.float32)
    made = Moment(player, picture, features, shown, q, 1.5, actions - 1, 7.0, 12)
    return replace(made, **changes)


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("conditions", [STANDARD, LIVELY])
@pytest.mark.parametrize("agent", ["zoo:CartPole-v1/T1", "zoo:CartPole-v1/ann", PIXELS])
def test_the_games_are_those_of_evaluate(agent: str, conditions: Conditions) -> None:
    player = load_agent(agent) if agent.startswith("zoo:") else untrained_agent(agent, 2)
    expected = evaluate(
        player.policy, player.env_id, player.pipeline, evaluation_seeds(0, 3), conditions
    )
    games = watch(player, 3, conditions)
    assert [game[-1].score for game in games] == expected.rewards
    assert [game[-1].frame for game in games] == expected.lengths
    assert [[m.frame for m in game] for game in games] == [
        list(range(length + 1)) for length in expected.lengths
    ]
    assert all([m.over for m in game] == [False] * (len(game) - 1) + [True] for game in games)
    decisions = [m for game in games for m in game[:-1]]
    for i, (layer, rate) in enumerate(expected.spike_rates.items()):
        assert {m.layers[i].name for m in decisions} == {layer}
        assert np.mean([m.layers[i].rate for m in decisions]) == pytest.approx(rate)


@pytest.mark.parametrize("conditions", [STANDARD, LIVELY])
def test_atari_games_are_those_of_evaluate(short_pong: str, conditions: Conditions) -> None:
    agent = untrained_agent(short_pong)
    expected = evaluate(
        agent.policy, agent.env_id, agent.pipeline, evaluation_seeds(0, 3), conditions
    )
    games = watch(agent, 3, conditions)
    assert [game[-1].score for game in games] == expected.rewards
    assert [game[-1].frame for game in games] == expected.lengths == [90] * 3
    for i, rate in enumerate(expected.spike_rates.values()):
        rates = [m.layers[i].rate for game in games for m in game[:-1]]
        assert np.mean(rates) == pytest.approx(rate)
    names = ("noop", "fire", "right", "left", "right fire", "left fire")
    assert {m.player.actions for game in games for m in game} == {names}
    blank = 0
    for m in (m for game in games for m in game[:-1]):
        assert m.picture is not None
        assert m.picture.shape == (210, 160, 3)
        if m.seen.any():
            np.testing.assert_array_equal(agent.pipeline.encode(m.picture[None])[0], m.seen)
        else:
            blank += 1
    assert (blank > 0) == (conditions.flicker > 0)


@pytest.mark.usefixtures("drawn")
def test_spikes_and_their_afterglow() -> None:
    agent = untrained_agent(CARTPOLE, timesteps=4)
    (game,) = watch(agent)
    assert [layer.activity.shape for layer in game[0].layers] == [(24,), (12,)]
    for before, after in pairwise(game[:-1]):
        for old, new in zip(before.layers, after.layers, strict=True):
            np.testing.assert_array_equal(4 * new.activity, np.round(4 * new.activity))
            assert new.rate == pytest.approx(4 * new.activity.mean())
            np.testing.assert_allclose(new.glow, np.maximum(new.activity, 0.8 * old.glow))
    assert any(layer.rate > 0 for m in game for layer in m.layers)


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("stack", [1, 3])
def test_an_ann_shows_its_relus(stack: int) -> None:
    agent = untrained_ann(CARTPOLE, stack=stack)
    (game,) = watch(agent)
    assert not game[0].player.spiking
    history = [np.zeros(4, np.float32)] * (stack - 1)
    layers = [agent.policy.network.layers[name] for name in ("fc1", "fc2")]
    peaks = [0.0, 0.0]
    for m in game[:-1]:
        history = [*history[-stack + 1 :], m.seen] if stack > 1 else [m.seen]
        x = torch.from_numpy(np.concatenate(history))
        for i, (linear, shown) in enumerate(zip(layers, m.layers, strict=True)):
            x = nn.functional.relu(linear(x)).detach()
            peaks[i] = max(0.97 * peaks[i], float(x.max()))
            expected = x.numpy() / peaks[i]
            np.testing.assert_allclose(shown.activity, expected, rtol=1e-4, atol=1e-6)
            assert shown.rate == pytest.approx(float((x > 0).float().mean()))


def test_environments_need_not_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CartPoleEnv.metadata, "render_modes", [])
    assert watch(untrained_agent(CARTPOLE))[0][0].picture is None
    monkeypatch.setitem(CartPoleEnv.metadata, "render_modes", ["rgb_array"])
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UnsupportedEnvironment, match=r"'CartPole-v1' cannot be drawn: .*install"):
        watch(untrained_agent(CARTPOLE))


def test_cartpole_draws_itself() -> None:
    pytest.importorskip("pygame")
    first, *_ = watch(untrained_agent(PIXELS))[0]
    assert first.player.actions == ("left", "right")
    assert first.seen.shape == (1, 84, 84)
    assert first.picture is not None
    assert first.picture.shape == (400, 600, 3)
    assert len(np.unique(first.picture.reshape(-1, 3), axis=0)) > 3


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("env_id", [CARTPOLE, "PositionOnlyCartPole-v1", PIXELS])
def test_drawings_are_pure(env_id: str) -> None:
    for m in watch(untrained_agent(env_id, 3))[0]:
        image = draw(m)
        assert (image.shape, image.dtype) == ((SIZE[1], SIZE[0], 3), np.uint8)
        np.testing.assert_array_equal(image, draw(m))


def test_anything_can_be_drawn() -> None:
    generator = np.random.default_rng(0)

    def random(*shape: int) -> NDArray[np.float32]:
        return generator.random(shape, np.float32)

    tall = np.full((210, 160, 3), 90, np.uint8)
    pixels = np.zeros((1, 84, 84), np.uint8)
    drawings = [
        draw(changed)
        for changed in (
            moment(),
            moment(layers=()),
            moment(layers=(random(100_000), random(1), random(512, 30, 20))),
            moment(layers=tuple(random(8, 6, 6) for _ in range(9))),
            moment(layers=tuple(random(20) for _ in range(40))),
            moment(picture=tall, seen=pixels, actions=18),
            moment(picture=tall[:2], actions=1),
            moment(actions=300, seen=random(500)),
            moment(q_scale=0.0, q=np.zeros(2, np.float32)),
            moment(score=-12345.5, frame=26_999, over=True),
            moment(player=Player("Environment" * 9 + "-v0", 5, False, False, ("a" * 50, "b"))),
        )
    ]
    assert len({drawing.tobytes() for drawing in drawings}) == len(drawings)


def test_neurons_glow_where_they_spike() -> None:
    canvas = Canvas(100, 60)
    canvas.mosaic(Box(10, 10, 80, 20), np.array([0, 1, 0, 0.5], np.float32))
    cells = [canvas.pixels[20, 20 + 20 * i].astype(int).sum() for i in range(4)]
    assert cells[0] == cells[2] == sum(REST) < cells[3] < cells[1]
    maps = np.zeros((2, 4, 5), np.float32)
    maps[1, 3, 0] = 1
    canvas = Canvas(100, 60)
    canvas.mosaic(Box(0, 0, 100, 60), maps)
    bright = np.argwhere(canvas.pixels.sum(2) > 400)
    edge = 49  # pixels along five neurons, one free line between the maps
    assert bright.min(0).tolist() == [39 * 3 // 4 + 1, edge + 1]
    assert (canvas.pixels[:, edge] == BACKGROUND).all()


def test_window(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    for event in (pygame.QUIT, pygame.KEYDOWN):
        with open_screen(None, (80, 60), 100, scale=2.0, title="play") as window:
            begun = time.monotonic()
            assert all([window.show(frame) for frame in pictures(5)])
            assert time.monotonic() - begun > 0.03
            shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
            assert shown.shape == (120, 160, 3)
            assert shown[60, 40].tolist() == [255] * 3
            pygame.event.post(pygame.event.Event(event, {"key": pygame.K_ESCAPE}))
            assert not window.show(pictures(1)[0])


def test_no_display_or_no_pygame(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(SnnRlError, match="no display for a window: write a file"):
        open_screen(None, (80, 60), 20)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(SnnRlError, match=r"needs pygame: pip install \"snn-rl\[play\]\""):
        open_screen(None, (80, 60), 20)


@pytest.mark.usefixtures("drawn")
def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def play(*options: str) -> tuple[int, str, str]:
        arguments = ["snn-rl", "play", "--agent", str(tmp_path / "agent"), *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    monkeypatch.chdir(tmp_path)
    agent = untrained_agent(CARTPOLE, 2)
    agent.save(tmp_path / "agent")
    lengths = [game[-1].frame for game in watch(load_agent(tmp_path / "agent"), 3)]
    code, out, err = play("--video", "a.mp4", "--seed", "1", "--episodes", "2", "--scale", "0.25")
    assert (code, out) == (0, "a.mp4\n")
    for length in lengths[1:]:
        assert f"score {length} after {length} frames" in err
    assert len(mp4_frames(tmp_path / "a.mp4")) == sum(lengths[1:]) + 2
    options = ("--timesteps", "1", "--no-carry", "--sticky", "0.1", "--flicker", "0.1")
    assert play("--video", "b.gif", "--max-frames", "3", "--fps", "5", *options)[0] == 0
    with Image.open(tmp_path / "b.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (3, (480, 270), 200)
    code, out, err = play("--video", "c.avi")
    assert (code, out) == (2, "")
    assert "error: a video's name ends in .mp4 or .gif" in err
    assert {file.name for file in tmp_path.iterdir()} == {"agent", "a.mp4", "b.gif"}


def test_ctrl_c_keeps_the_video(tmp_path: Path) -> None:
    untrained_agent("PongNoFrameskip-v4").save(tmp_path / "agent")
    command = [sys.executable, "-m", "snn_rl", "play", "--agent", "agent", "--video", "a.mp4"]
    process = subprocess.Popen(
        [*command, "--episodes", "99", "--scale", "0.25"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    while "playing agent" not in process.stderr.readline():
        assert process.poll() is None
    deadline = time.monotonic() + 60
    while max(file.stat().st_size for file in tmp_path.glob(".a.*.mp4")) < 10_000:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "a.mp4\n"), err
    assert "Traceback" not in err
    assert {file.name for file in tmp_path.iterdir()} == {"agent", "a.mp4"}
    frames = mp4_frames(tmp_path / "a.mp4")
    assert frames
    assert frames[0].shape == (136, 240, 3)
