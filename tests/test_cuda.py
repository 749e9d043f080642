"""What a GPU computes: agents act alike there, agents and classifiers train and resume there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import Watcher, short, weights
from short_vision import DATA, QUICK, Recorder

import snn_rl
from snn_rl.agents.loading import load_agent
from snn_rl.agents.run import Run as AgentRun
from snn_rl.conversion.batch_norm import measure_batch_norm
from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.core.scan import lif_scan
from snn_rl.core.surrogates import Surrogate
from snn_rl.runs.folder import Interrupted
from snn_rl.support.settings import validate
from snn_rl.vision.config import VisionConfig
from snn_rl.vision.evaluation import classify
from snn_rl.vision.models import build_model
from snn_rl.vision.process import open_process
from snn_rl.vision.run import Run as VisionRun

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("timesteps", [1, 3])
def test_spikes_and_gradients_are_those_of_the_cpu(timesteps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(6, timesteps, 4, 50, generator=generator)
    start = torch.rand(6, 4, generator=generator) < 0.3
    found = []
    for device in ("cpu", "cuda"):
        x = current.clone().to(device).requires_grad_()
        threshold = torch.full((50,), 0.7, device=device, requires_grad=True)
        leak = torch.full((50,), 0.8, device=device, requires_grad=True)
        membrane = torch.zeros(4, 50, device=device)
        spikes, after = lif_scan(
            x,
            membrane,
            threshold,
            leak,
            start.to(device),
            timesteps=timesteps,
            surrogate=Surrogate("triangle"),
        )
        (spikes.sum() + after.square().sum()).backward()
        gradients = [value.grad for value in (x, threshold, leak)]
        found.append([v.detach().cpu() for v in (spikes, after, *gradients) if v is not None])
        assert len(found[-1]) == 5
    assert found[0][0].any() and torch.equal(found[0][0], found[1][0])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["zoo:CartPole-v1/T5", "zoo:CartPole-v1/ann"])
def test_agents_act_alike(name: str) -> None:
    here, there = load_agent(name, engine="torch"), load_agent(name, engine="torch").to("cuda")
    frames = np.random.default_rng(0).uniform(-0.2, 0.2, (60, 4)).astype(np.float32)
    for frame in frames:
        np.testing.assert_allclose(here.q_values(frame), there.q_values(frame), atol=2e-2)
        here.act(frame)
        there.act(frame)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_run_trains_and_resumes_there(overlap: bool, tmp_path: Path) -> None:
    both = {"ann": {"overlap": overlap}, "spiking": {"overlap": overlap}}
    config = short(seed=5, device="cuda", **both)
    whole = snn_rl.train(config, run_dir=tmp_path / "whole")
    with pytest.raises(Interrupted):
        AgentRun(config, tmp_path / "parts", monitor=Watcher(stop_after=2)).train()
    parts = AgentRun(config, tmp_path / "parts", monitor=Watcher()).train()
    assert list(whole) == list(parts) == ["ann", "T2", "T1"]
    for name, agent in whole.items():
        other = weights(parts[name].policy.network)
        for key, value in weights(agent.policy.network).items():
            torch.testing.assert_close(value, other[key], msg=f"{name} {key}")


def vision_run(config: VisionConfig, folder: Path, monitor: Recorder) -> dict[str, Any]:
    with open_process("cuda", config.precision, channels_last=config.channels_last) as process:
        return VisionRun(config, DATA, folder, process, monitor).train()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_classifiers_train_and_resume_there(precision: str, tmp_path: Path) -> None:
    config = validate(VisionConfig, QUICK | {"precision": precision}, "test")
    whole = vision_run(config, tmp_path / "whole", Recorder())
    with pytest.raises(Interrupted):
        vision_run(config, tmp_path / "parts", Recorder(updates=10))
    parts = vision_run(config, tmp_path / "parts", Recorder())
    assert list(whole) == list(parts) == ["ann", "T3", "T1"]
    images = DATA.test.images  # type: ignore[attr-defined]
    for name, stage in whole.items():
        found = [
            classify(s.network.cpu().eval(), images, s.timesteps).argmax(1)
            for s in (stage, parts[name])
        ]
        assert (found[0] == found[1]).float().mean() > 0.9
        assert (found[0] == DATA.test.labels).float().mean() > 0.9


def test_conversion_there_gives_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    ann = trace(build_model("small", (3, 16, 16), 3), (3, 16, 16), pixels=True)
    frames = torch.randint(0, 256, (1, 20, 3, 16, 16), dtype=torch.uint8)
    measure_batch_norm(ann, frames)
    ann = ann.eval()
    here = convert(ann, Calibration(frames), timesteps=3)
    there = convert(ann.clone().to("cuda"), Calibration(frames.to("cuda")), timesteps=3)
    images = torch.randint(0, 256, (200, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        found = torch.stack([classify(n.cpu(), images, 3).flatten() for n in (here, there)])
    # A sum that differs in its last bit may move a spike, and with it a threshold.
    assert torch.corrcoef(found)[0, 1] > 0.98
