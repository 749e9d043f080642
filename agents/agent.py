"""A trained agent, as a simulator uses it: `agent.reset()`, `agent.act(obs)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snn_rl.agents.acting import Actor, EngineName, KnownState
from snn_rl.agents.looks import Looks
from snn_rl.core.state import State, rows_of
from snn_rl.errors import EngineError, SnnRlError
from snn_rl.inference.observation import ObservationPipeline, as_array
from snn_rl.inference.reader import DIGEST

if TYPE_CHECKING:
    import torch

    from snn_rl.agents.policy import Policy
    from snn_rl.core.network import Network

IMPORTED = "imported"
"""Where a card says that its agent was trained elsewhere."""


class Agent:
    """Chooses greedy actions and remembers, per environment, what its membranes hold.

    Attributes:
        actor: what runs the network, torch or the event-driven engine.
        pipeline: from observations to frames.
        card: what is known of the agent (environment, training, results), plain data.
    """

    def __init__(
        self,
        actor: Actor,
        pipeline: ObservationPipeline,
        card: Mapping[str, Any],
        *,
        load_network: Callable[[], Network] | None = None,
        falls_back: bool = True,
    ) -> None:
        """An agent.

        Args:
            load_network: gives the torch network, always the same, where the actor is not
                torch's.
            falls_back: torch may take over where the actor cannot do what is asked.
        """
        self.actor, self.pipeline, self.card = actor, pipeline, dict(card)
        self._load_network, self._falls_back = load_network, falls_back
        self._state: Any = None
        self._sees = pipeline
        if actor.privileged:
            self._sees = ObservationPipeline("vector", actor.input_shape)
        self._looks = Looks(self._sees, self.card)

    def __repr__(self) -> str:
        how = f"timesteps={self.timesteps}" if self.actor.spiking else "ANN"
        shape = "x".join(map(str, self.pipeline.frame_shape))
        return (
            f"<snn_rl.Agent for {self.env_id}: {how}, {shape} -> {self.num_actions} actions, "
            f"engine {self.engine}>"
        )

    @property
    def engine(self) -> EngineName:
        """What runs the network: "event", without torch, or "torch"."""
        return self.actor.engine

    @property
    def policy(self) -> Policy:
        """The network in torch, to train or inspect; loaded when it is first asked for.

        An agent that the event-driven engine runs does not follow changes to it.
        """
        from snn_rl.agents.policy import Policy as TorchPolicy

        actor = self.actor
        if isinstance(actor, TorchPolicy):
            return actor
        assert self._load_network is not None
        network = self._load_network()
        return TorchPolicy(network, actor.timesteps, actor.carry_membrane, actor.privileged)

    @property
    def env_id(self) -> str:
        """The environment it was trained for."""
        return str(self.card["environment"]["env_id"])

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """For the constructor of its environment."""
        return dict(self.card["environment"].get("env_kwargs", {}))

    @property
    def num_actions(self) -> int:
        """Actions are 0 ... num_actions - 1."""
        return int(self.card["environment"]["num_actions"])

    @property
    def maxpool(self) -> bool:
        """Whether its Atari frames show the maximum of the last two raw frames."""
        return bool(self.card["environment"].get("maxpool", False))

    @property
    def fire_reset(self) -> bool:
        """Whether FIRE opens every life of its Atari game, whatever it chooses."""
        return bool(self.card["environment"].get("fire_reset", False))

    @property
    def imported(self) -> bool:
        """Whether this very network was trained elsewhere (see snn_rl.exchange)."""
        return IMPORTED in self.card

    @property
    def timesteps(self) -> int:
        """Spiking steps per frame."""
        return self.actor.timesteps

    @property
    def state(self) -> Any:
        """A copy of the memory after the last observation; None after `reset`.

        Assign it back to return to that moment, e.g. to branch a simulation, or to another agent
        of the same network, whatever engine runs it. Its arrays, [environments, ...], are NumPy's;
        tensors may be assigned. See `snn_rl.core.state.State`: the frames before this one, and
        what every spiking layer keeps, by name. One that an agent with other weights gave is
        refused.
        """
        if self._state is None:
            return None
        arrays = self.actor.to_arrays(self._state)
        if type(arrays) is State:
            arrays = KnownState(*arrays)
            arrays.of = self._weights
        return arrays

    @state.setter
    def state(self, state: Any) -> None:
        of = getattr(state, "of", "")
        if of and self._weights and of != self._weights:
            raise ValueError("the state is of an agent with other weights: it means nothing here")
        self._state = None if state is None else self.actor.from_arrays(state)

    @property
    def _weights(self) -> str:
        """What tells the agent's weights from others; "" where they were not loaded."""
        return str(self.card.get(DIGEST, ""))

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
            SnnRlError: the Q-values are not finite.
        """
        q = self.q_values(observation, episode_start)
        return int(q.argmax()) if q.ndim == 1 else q.argmax(1)

    def q_values(
        self, observation: NDArray[Any], episode_start: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float32]:
        """Q-values float32 [actions] of one observation or [batch, actions]; see `act`.

        They advance the memory like `act` does: ask for one or the other at a moment.

        Args:
            observation: what the agent's environment returns, or its frame; single or batched.
            episode_start: bool [batch]; forgets those environments before this observation.

        Raises:
            ValueError: an observation of another shape or type, or a batch size that changed
                without a `reset`.
            SnnRlError: the Q-values are not finite.
        """
        q, self._state = self._step(observation, self._state, episode_start)
        return q

    def _step(
        self, observation: Any, state: Any, episode_start: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], Any]:
        array = as_array(observation)
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
        fresh = state is None
        if fresh:
            state = self.actor.initial_state(len(frames))
        elif (known := rows_of(state)) not in (None, len(frames)):
            raise ValueError(
                f"got {len(frames)} observations, but the agent remembers {known} environments: "
                "call reset() first"
            )
        if not self._looks.over:
            self._looks.observe(array.shape, frames, start | fresh)
        q, state = self.actor.q_values(frames, state, start)
        # The event-driven engine runs finite weights on finite frames, within bounds, alone.
        if self.engine == "torch" and not np.isfinite(q).all():
            raise SnnRlError("the agent's Q-values are not finite: no action can be chosen by them")
        return (q[0] if single else q), state

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
        q, state = self._step(observation, state, episode_start)
        return np.asarray(q.argmax(-1)), state

    def to(self, device: str | torch.device) -> Agent:
        """Move the network to a device and forget the memory; returns the agent.

        Torch runs it there, unless it is the CPU, where whatever runs it goes on.
        """
        if self.engine == "torch" or str(device) != "cpu":
            policy = self.policy
            try:
                policy.network.to(device)
            except (AssertionError, RuntimeError) as error:
                reason = str(error).partition("\n")[0]
                raise SnnRlError(f"device {str(device)!r} is not available: {reason}") from None
            self.actor = policy
        self.reset()
        return self

    def with_options(
        self, *, timesteps: int | None = None, carry_membrane: bool | None = None
    ) -> Agent:
        """The same agent run at another T, or with membranes zeroed at every frame.

        Raises:
            ValueError: timesteps below 1.
            EngineError: the engine that was asked for cannot run it so.
        """
        if timesteps is not None and timesteps < 1:
            raise ValueError(f"timesteps must be at least 1, not {timesteps}")
        actor: Actor = self.actor
        carry = actor.carry_membrane if carry_membrane is None else carry_membrane
        try:
            actor = actor.with_options(timesteps or actor.timesteps, carry)
        except EngineError:
            if not self._falls_back:
                raise
            actor = self.policy.with_options(timesteps or actor.timesteps, carry)
        return Agent(
            actor,
            self.pipeline,
            self.card,
            load_network=self._load_network,
            falls_back=self._falls_back,
        )

    def save(self, folder: str | Path) -> None:
        """Write the agent to `folder`, its weights snapped to their grid (see snn_rl.core.grid).

        The weights of an imported ANN stay as they are: no bits are promised for ANNs, and it is
        to play as it did at home.
        """
        from snn_rl.runs import checkpoint

        card = {
            **self.card,
            "carry_membrane": self.actor.carry_membrane,
            "privileged": self.actor.privileged,
            "observation": self.pipeline.to_dict(),
        }
        on_grid = self.actor.spiking or not self.imported
        checkpoint.save(Path(folder), self.policy.network, self.timesteps, card, on_grid=on_grid)
