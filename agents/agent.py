"""A trained agent, as a simulator uses it: `agent.reset()`, `agent.act(obs)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_rl.agents.policy import Policy
from snn_rl.core.network import State
from snn_rl.envs.observation import ObservationPipeline, pipeline_from_dict
from snn_rl.errors import CheckpointError
from snn_rl.runs import checkpoint

ZOO = "zoo:"
IMPORTED = "imported"
"""Where a card says that its agent was trained elsewhere."""


class Agent:
    """Chooses greedy actions and remembers, per environment, what its membranes hold.

    Attributes:
        policy: network, timesteps, carry of membranes.
        pipeline: from observations to frames.
        card: what is known of the agent (environment, training, results), plain data.
    """

    def __init__(
        self, policy: Policy, pipeline: ObservationPipeline, card: Mapping[str, Any]
    ) -> None:
        self.policy, self.pipeline, self.card = policy, pipeline, dict(card)
        self._state: State | None = None
        self._sees = pipeline
        if policy.privileged:
            self._sees = ObservationPipeline("vector", policy.network.input_shape)

    @property
    def env_id(self) -> str:
        """The environment it was trained for."""
        return str(self.card["environment"]["env_id"])

    @property
    def num_actions(self) -> int:
        """Actions are 0 ... num_actions - 1."""
        return int(self.card["environment"]["num_actions"])

    @property
    def maxpool(self) -> bool:
        """Whether its Atari frames show the maximum of the last two raw frames."""
        return bool(self.card["environment"].get("maxpool", False))

    @property
    def imported(self) -> bool:
        """Whether this very network was trained elsewhere (see snn_rl.exchange)."""
        return IMPORTED in self.card

    @property
    def timesteps(self) -> int:
        """Spiking steps per frame."""
        return self.policy.timesteps

    @property
    def state(self) -> State | None:
        """A copy of the memory (membranes) after the last observation; None after `reset`.

        Assign it back to return to that moment, e.g. to branch a simulation.
        """
        return None if self._state is None else tuple(t.clone() for t in self._state)

    @state.setter
    def state(self, state: State | None) -> None:
        self._state = None if state is None else tuple(t.clone() for t in state)

    def reset(self) -> None:
        """Forget everything: the next observation begins an episode, in any batch size."""
        self._state = None

    def act(self, observation: NDArray[Any], episode_start: NDArray[np.bool_] | None = None) -> Any:
        """Greedy action for one observation (an int), or actions for a batch ([batch] int64).

        Args:
            observation: what the agent's environment returns, or its frame; single or batched. A
                privileged agent takes info["full_state"] in its place.
            episode_start: bool [batch]; forgets those environments before this observation.

        Raises:
            ValueError: an observation of another shape or type, or a batch size that changed
                without a `reset`.
        """
        q = self.q_values(observation, episode_start)
        return int(q.argmax()) if q.ndim == 1 else q.argmax(1)

    def q_values(
        self, observation: NDArray[Any], episode_start: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Q-values [actions] or [batch, actions]; advances the memory like `act`."""
        array = np.asarray(observation)
        single = self._sees.is_single(array)
        frames = self._sees.encode(array[None] if single else array)
        start = np.zeros(len(frames), np.bool_)
        if episode_start is not None:
            start = np.atleast_1d(np.asarray(episode_start, np.bool_))
            if start.shape != (len(frames),):
                raise ValueError(
                    f"episode_start is {start.shape}; expected one flag for each of "
                    f"{len(frames)} observations"
                )
        state = self._state
        if state is None:
            state = self.policy.initial_state(len(frames))
        elif state and len(state[0]) != len(frames):
            raise ValueError(
                f"got {len(frames)} observations, but the agent remembers {len(state[0])} "
                "environments: call reset() first"
            )
        q, self._state = self.policy.q_values(frames, state, start)
        return q[0] if single else q

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[Any], Any]:
        """Stable-Baselines3's PolicyPredictor: the caller keeps the state.

        Always greedy; `deterministic` is accepted for compatibility. The agent's own memory is
        left untouched.
        """
        own, self._state = self._state, state
        try:
            action = np.asarray(self.act(observation, episode_start))
            return action, self._state
        finally:
            self._state = own

    def to(self, device: str | torch.device) -> Agent:
        """Move the network to a device and forget the memory; returns the agent."""
        self.policy.network.to(device)
        self.reset()
        return self

    def with_options(
        self, *, timesteps: int | None = None, carry_membrane: bool | None = None
    ) -> Agent:
        """The same agent run at another T, or with membranes zeroed at every frame.

        Raises:
            ValueError: timesteps below 1.
        """
        if timesteps is not None and timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, not {timesteps}")
        carry = self.policy.carry_membrane if carry_membrane is None else carry_membrane
        policy = replace(
            self.policy, timesteps=timesteps or self.policy.timesteps, carry_membrane=carry
        )
        return Agent(policy, self.pipeline, self.card)

    def save(self, folder: str | Path) -> None:
        """Write the agent to `folder`, its weights snapped to their grid (see snn_rl.core.grid).

        The weights of an imported ANN stay as they are: no bits are promised for ANNs, and it is
        to play as it did at home.
        """
        card = {
            **self.card,
            "carry_membrane": self.policy.carry_membrane,
            "privileged": self.policy.privileged,
            "observation": self.pipeline.to_dict(),
        }
        network = self.policy.network
        on_grid = bool(network.spiking) or not self.imported
        checkpoint.save(Path(folder), network, self.policy.timesteps, card, on_grid=on_grid)


def load_agent(source: str | Path) -> Agent:
    """Agent from a folder, or from the shipped ones as "zoo:<env>/<stage>".

    Nothing in the files is executed.

    Raises:
        CheckpointError: one sentence on what is missing or damaged.
    """
    folder = find_agent(source)
    network, card = checkpoint.load(folder)
    try:
        environment = card["environment"]
        pipeline = pipeline_from_dict(card["observation"])
        carry, privileged = bool(card["carry_membrane"]), bool(card["privileged"])
        known = isinstance(environment["env_id"], str) and int(environment["num_actions"]) > 0
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is damaged: its card lacks {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from error
    outputs = network.shapes()[network.nodes[-1].name]
    if not known or outputs != (int(environment["num_actions"]),):
        raise CheckpointError(f"{folder} is damaged: its network does not fit its environment")
    if not privileged and network.input_shape != pipeline.frame_shape:
        raise CheckpointError(f"{folder} is damaged: its network does not fit its observations")
    return Agent(Policy(network, int(card["timesteps"]), carry, privileged), pipeline, card)


def zoo() -> list[str]:
    """Names of the shipped agents, e.g. "CartPole-v1/T1"."""
    root = _zoo_folder()
    return sorted(
        str(card.parent.relative_to(root).as_posix()) for card in root.rglob(checkpoint.CARD)
    )


def find_agent(source: str | Path) -> Path:
    """Folder of an agent given by path or as "zoo:<env>/<stage>".

    Raises:
        CheckpointError: there is none; names what there is.
    """
    text = str(source)
    if not text.startswith(ZOO):
        folder = Path(source)
        if folder.name == checkpoint.CARD:
            folder = folder.parent
        if not folder.exists():
            raise CheckpointError(f"no agent at {folder}: there is no such folder")
        return folder
    name, known = text.removeprefix(ZOO), zoo()
    if name not in known:
        listed = ", ".join(known) or "none"
        raise CheckpointError(f"the zoo has no agent {name!r}; it holds {listed}")
    return _zoo_folder() / name


def _zoo_folder() -> Path:
    return Path(str(resources.files("snn_rl.agents"))) / "zoo"
