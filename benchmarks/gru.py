"""A recurrent rival: the ANN with its last hidden layer made a GRU, trained by the same loop.

As in DRQN (Hausknecht and Stone 2015) the recurrent layer stands where the ANN has its last hidden
one, as wide as that: 128 units for vectors by default, 512 behind the Nature CNN's convolutions.
"""

from __future__ import annotations

import copy
import shutil
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from comparing import say
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.agents.agent import Agent
from snn_rl.agents.config import TrainConfig, read_config
from snn_rl.agents.dqn.plan import StagePlan
from snn_rl.agents.dqn.stage import Result, StageTrainer
from snn_rl.agents.monitor import file_monitor
from snn_rl.agents.policy import Policy
from snn_rl.agents.qnetwork import mlp, nature_cnn
from snn_rl.agents.setup import Setup, stage_seed
from snn_rl.core.graph import Node
from snn_rl.core.network import Network, SpikeHook, State
from snn_rl.core.stacking import scale_pixels
from snn_rl.runs.folder import Interrupted, begin
from snn_rl.runs.monitor import MonitorGroup, StopFlag
from snn_rl.runs.owner import own
from snn_rl.runs.resume import RESUME, Saver

STAGE = "gru"


class GRU(nn.Module):
    """Recurrent Q-network on one frame at a time.

    It offers what training and evaluation ask of `snn_rl.core.network.Network`; its state is the
    hidden vector. `spiking` names the layer that remembers, which is what the learner runs in
    sequence; without `nodes` there is no weight grid to snap to.
    """

    def __init__(
        self, frame_shape: tuple[int, ...], actions: int, *, hidden: list[int], offset: int = 0
    ) -> None:
        super().__init__()
        self.input_shape, self.offset, self.stack = frame_shape, offset, 1
        self.pixels = len(frame_shape) == 3
        if self.pixels:
            ann = nature_cnn(frame_shape[0], frame_shape[1], actions)
        else:
            ann = mlp(frame_shape[0], hidden, actions)
        layers: list[Any] = list(ann.children())
        *encoder, last, _, read_out = layers
        self.encoder = nn.Sequential(*encoder)
        self.cell = nn.GRUCell(last.in_features, last.out_features)
        self.read_out = read_out
        self.nodes: list[Node] = []
        self.spiking = {STAGE: SimpleNamespace(size=self.cell.hidden_size)}
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.cell.weight_ih.device

    def initial_state(self, batch: int) -> State:
        """A hidden vector of zeros."""
        return (torch.zeros(batch, self.cell.hidden_size, device=self.device),)

    def constrain(self) -> None:
        """Nothing is bounded here."""

    def clone(self) -> GRU:
        """An independent copy with the same parameters."""
        return copy.deepcopy(self)

    def forward(
        self,
        x: Tensor,
        state: State,
        episode_start: Tensor | None = None,
        *,
        timesteps: int = 1,
        carry_membrane: bool = True,
        on_spikes: SpikeHook | None = None,
    ) -> tuple[Tensor, State]:
        """Q-values [frames, batch, actions] and the new state; arguments as of `Network`.

        `carry_membrane` False zeroes the hidden vector before every frame; `timesteps` and
        `on_spikes` mean nothing here.
        """
        frames, batch = x.shape[:2]
        features = self.encoder(scale_pixels(x, self.offset).flatten(0, 1))
        # What the frames contribute depends on no earlier frame: one product for all of them.
        driven = functional.linear(features, self.cell.weight_ih, self.cell.bias_ih)
        (hidden,) = state
        outputs = []
        for frame, drive in enumerate(driven.view(frames, batch, -1)):
            if not carry_membrane:
                hidden = torch.zeros_like(hidden)
            elif episode_start is not None:
                hidden = hidden.masked_fill(episode_start[frame].unsqueeze(1), 0)
            hidden = self._step(drive, hidden)
            outputs.append(hidden)
        return self.read_out(torch.stack(outputs)), (hidden,)

    def _step(self, drive: Tensor, hidden: Tensor) -> Tensor:
        """torch.nn.GRUCell, given its frame's share of the gates."""
        recurrent = functional.linear(hidden, self.cell.weight_hh, self.cell.bias_hh)
        reset, update, new = drive.chunk(3, 1)
        own_reset, own_update, own_new = recurrent.chunk(3, 1)
        proposed = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
        return proposed + torch.sigmoid(update + own_update) * (hidden - proposed)


def train_gru(config: TrainConfig, folder: Path) -> Agent:
    """The GRU trained in `folder` as `config.ann` says; a finished one is read, one that was
    stopped goes on.

    Raises:
        Interrupted: a signal arrived; what was reached is saved.
        SnnRlError: the folder holds a run with other settings.
    """
    setup = Setup(config)
    with own(folder):
        begin(folder, config, "benchmarks/memory.py", read_config, fresh=False)
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        network: Any = GRU(
            setup.pipeline.frame_shape,
            setup.spec.num_actions,
            hidden=config.hidden,
            offset=setup.background,
        ).to(setup.device)
        finished = Saver(folder / STAGE, 0)
        state = finished.load()
        if state is None:
            say(f"training {folder}")
            state = _keep(finished, _train(setup, network, folder))
            shutil.rmtree(folder / RESUME, ignore_errors=True)
    network.load_state_dict(state["network"])
    return Agent(Policy(network.eval()), setup.pipeline, _card(setup, state))


def _train(setup: Setup, network: Network, folder: Path) -> Result:
    config, stop = setup.config, StopFlag()
    seed = stage_seed(config.seed, 1)
    policy = Policy(network)
    plan = StagePlan(STAGE, policy, setup.task, config.ann, config.validation, seed, setup.teacher)
    saver = Saver(folder / RESUME, config.save_every)
    with closing(file_monitor(folder)) as files, stop.on_signals():
        result = StageTrainer(plan, MonitorGroup([files], stop), saver).run()
    if result.interrupted:
        raise Interrupted(STAGE)
    return result


def _keep(finished: Saver, result: Result) -> dict[str, Any]:
    state = {
        "network": result.network.state_dict(),
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "validation": round(result.validation, 2),
    }
    finished.save(state)
    finished.wait()
    return state


def _card(setup: Setup, state: dict[str, Any]) -> dict[str, Any]:
    """What a saved agent's card would say."""
    config = setup.config
    return {
        "stage": STAGE,
        "environment": {
            "env_id": config.env,
            "num_actions": setup.spec.num_actions,
            "maxpool": config.maxpool,
        },
        "teacher": config.teacher,
        "provenance": {"steps": state["steps"], "seconds": state["seconds"]},
        "results": {"validation": state["validation"]},
    }
