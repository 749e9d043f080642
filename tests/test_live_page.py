"""The live page in a real browser: the same network, the same game, no way out to any server."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import snn_rl.envs  # noqa: F401  (registers the environment)
from snn_rl.agents.loading import load_agent

PAGE = Path(__file__).parent.parent / "docs" / "live"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="chromium is not installed"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    runpy.run_path(str(PAGE / "make.py"))["main"](folder)
    return folder


def run_in_browser(page: Path, html: str) -> Any:
    """What a page leaves as JSON in its element `result`."""
    assert CHROMIUM is not None, "continuous integration must install chromium"
    (page / "test.html").write_text(html, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={page / 'profile'}", (page / "test.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the page left no result: {done.stdout[-500:]} {done.stderr[-500:]}"
    return json.loads(found[1])


def harness(body: str) -> str:
    scripts = "".join(f'<script src="{n}.js"></script>' for n in ("weights", "network", "cartpole"))
    return (
        f'<!doctype html><meta charset="utf-8"><pre id="result"></pre>{scripts}<script>{body}'
        'document.getElementById("result").textContent = JSON.stringify(result);</script>'
    )


def recorded_trace(frames: int) -> dict[str, list[Any]]:
    """Python's frames of play, with a push now and then so that the pole leans far, too."""
    env, agent = gym.make("PositionOnlyCartPole-v1"), load_agent("zoo:PositionOnlyCartPole-v1/T1")
    core: Any = env.unwrapped
    rng = np.random.default_rng(0)
    keys = ("start", "state", "observation", "q", "spikes", "action", "next")
    trace: dict[str, list[Any]] = {key: [] for key in keys}
    done, seed = True, 0
    state = agent.policy.initial_state(1)
    while len(trace["action"]) < frames:
        start = done
        if start:
            observation, _ = env.reset(seed=seed)
            agent.reset()
            seed += 1
        elif rng.random() < 0.02:
            core.state = core.state + np.array([0, 0, 0, rng.choice([-0.2, 0.2])])
        before = [float(value) for value in core.state]
        spikes: list[int] = []
        seen = agent.pipeline.encode(observation[None])
        _, state = agent.policy.q_values(
            seen, state, np.array([start]), lambda _, s, kept=spikes: kept.append(int(s.sum()))
        )
        q = agent.q_values(observation)
        action = int(q.argmax())
        trace["start"].append(start)
        trace["state"].append(before)
        trace["observation"].append([float(value) for value in observation])
        trace["q"].append([float(value) for value in q])
        trace["spikes"].append(spikes)
        trace["action"].append(action)
        observation, _, terminated, truncated, _ = env.step(action)
        trace["next"].append([float(value) for value in core.state])
        done = terminated or truncated
    return trace


@needs_chromium
def test_the_page_chooses_the_actions_of_python_bit_for_bit(page: Path) -> None:
    trace = recorded_trace(1000)
    assert 0.3 < np.mean(trace["action"]) < 0.7 and sum(trace["start"]) > 1
    given = json.dumps({key: trace[key] for key in ("start", "observation", "state", "action")})
    result = run_in_browser(
        page,
        harness(f"""
const given = {given}; const network = new SpikingNetwork(WEIGHTS);
const result = {{ q: [], spikes: [], action: [], next: [] }};
given.observation.forEach((observation, frame) => {{
  if (given.start[frame]) network.reset();
  const q = network.step(observation);
  result.q.push([...q]);
  result.action.push(argmax(q));
  result.spikes.push(network.spikes.map((layer) => layer.reduce((a, b) => a + b, 0)));
  result.next.push(CartPole.step(given.state[frame], given.action[frame] ? 10 : -10));
}});"""),
    )
    assert result["action"] == trace["action"]
    assert result["q"] == trace["q"]
    assert result["spikes"] == trace["spikes"]
    # Sine and cosine may differ in their last bit, and nothing else.
    assert np.allclose(result["next"], trace["next"], rtol=0, atol=1e-14)


@needs_chromium
def test_the_pole_stands_until_the_membranes_are_zeroed(page: Path) -> None:
    script = """<pre id="result"></pre><script>
live.pause(true);
const result = { errors: [] };
for (let i = 0; i < 1000; i++) live.tick();
result.carried = live.score();
document.getElementById("zero").checked = true;
for (let i = 0; i < 300 && !live.score().fallen; i++) live.tick();
result.zeroed = live.score();
document.getElementById("zero").checked = false;
for (let i = 0; i < 500; i++) live.tick();
result.again = live.score();
document.getElementById("result").textContent = JSON.stringify(result);
</script></body>"""
    html = (page / "index.html").read_text(encoding="utf-8").replace("</body>", script)
    always = "<script>let r = 0; Math.random = () => (r = (r + 0.37) % 1);</script>"
    result = run_in_browser(page, html.replace("<head>", f"<head>{always}"))
    assert result["carried"] == {"frames": 1250, "fallen": 0, "best": 1250}
    assert result["zeroed"]["fallen"] == 1
    assert result["again"]["fallen"] == 0 and result["again"]["frames"] > 400


def test_the_page_needs_nothing_from_outside(page: Path) -> None:
    for file in page.iterdir():
        if file.suffix in (".html", ".css", ".js"):
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest", text), file


def test_the_limits_of_the_page_are_gymnasiums() -> None:
    core: Any = gym.make("PositionOnlyCartPole-v1").unwrapped
    assert core.x_threshold == 2.4
    assert math.isclose(core.theta_threshold_radians, 12 * math.pi / 180)
