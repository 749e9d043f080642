"""Atari games in ALE's C++ vector environment, every episode seeded and resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from snn_rl.envs.seeding import (
    FLICKER_STREAM,
    check_probability,
    episode_seed,
)
from snn_rl.envs.spaces import UnsupportedEnvironment, find_spec

ENTRY_POINT = "ale_py.env:AtariEnv"
SIDE = 84
"""Height and width of a frame, in pixels."""

DECISION_FRAMES = 4
"""Raw frames per decision where an id leaves frame skipping to the agent (``NoFrameskip``)."""

_BLOCK = 512  # flicker draws made at a time
_NO_LIMIT = 2**31 - 2  # of frames per episode


@dataclass(frozen=True)
class AtariGame:
    """What a Gymnasium id promises of its game.

    Attributes:
        env_id: Gymnasium id.
        rom: name of the game's ROM.
        frame_skip: raw frames per decision.
        sticky: probability that a raw frame repeats the previous frame's action.
        full_action_space: all 18 actions instead of those that the game uses.
        decisions: an episode is truncated after so many decisions.
    """

    env_id: str
    rom: str
    frame_skip: int
    sticky: float
    full_action_space: bool
    decisions: int


def atari_game(env_id: str) -> AtariGame | None:
    """The game behind a Gymnasium id, or None if it is not one of ALE's.

    Raises:
        UnsupportedEnvironment: the id is unknown, asks for what the vector environment cannot do
            (a random frame skip, a mode or difficulty), or has no ROM.
    """
    spec = find_spec(env_id)
    if spec.entry_point != ENTRY_POINT or spec.additional_wrappers:
        return None
    kwargs = spec.kwargs
    skip = kwargs.get("frameskip", 1)
    if not isinstance(skip, int):
        raise UnsupportedEnvironment(
            f"{env_id!r} skips a random number of frames, from {skip[0]} to {skip[1] - 1}, but "
            "only a fixed number is supported: take the NoFrameskip-v4 or the ALE/…-v5 id."
        )
    for name in ("mode", "difficulty", "continuous", "sound_obs"):
        if kwargs.get(name):
            raise UnsupportedEnvironment(
                f"{env_id!r} sets {name!r}, which ALE's vector environment does not support."
            )
    skip = DECISION_FRAMES if skip == 1 else skip
    frames = kwargs.get("max_num_frames_per_episode") or _NO_LIMIT
    decisions = -(-frames // skip)
    return AtariGame(
        env_id,
        kwargs["game"],
        skip,
        float(kwargs.get("repeat_action_probability", 0.0)),
        bool(kwargs.get("full_action_space", False)),
        min(decisions, spec.max_episode_steps or decisions),
    )


class AtariVector(VectorEnv[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]):
    """Copies of an Atari game, with a grey uint8 frame ``(1, 84, 84)`` for each decision.

    Frames are the last raw frame of a decision, or with ``maxpool`` the maximum of its last two.
    Rewards (float32) are the game's, unclipped, summed over the skipped frames; losing a life
    ends nothing. An episode opens with 0 … ``noop_max - 1`` raw frames of no-ops drawn from its
    seed. Episodes end by NEXT_STEP autoreset: the step after an end ignores its action and
    returns the next episode's first frame with reward 0. ALE skips the drawing of a game's very
    last frame: the observation of a termination is that of the decision before it.
    """

    def __init__(
        self,
        game: AtariGame,
        num_envs: int,
        *,
        seed: int,
        flicker: float = 0.0,
        sticky: float | None = None,
        maxpool: bool = False,
        noop_max: int = 30,
        threads: int = 1,
    ) -> None:
        """Create the games; ``sticky=None`` keeps the probability that the id promises.

        Args:
            game: from ``atari_game``.
            num_envs: number of copies, at least 1.
            seed: base seed ≥ 0 of all episodes that are not seeded explicitly.
            flicker: probability with which a frame is blanked to zeros.
            sticky: probability that a raw frame repeats the previous frame's action.
            maxpool: pixel-wise maximum of the last two raw frames of a decision.
            noop_max: an episode opens with fewer no-ops than this.
            threads: threads that emulate, over all copies.

        Raises:
            UnsupportedEnvironment: the game has no ROM.
            ValueError: an argument is out of its range.
        """
        check_probability("flicker", flicker)
        check_probability("sticky", game.sticky if sticky is None else sticky)
        if num_envs < 1 or seed < 0 or threads < 1 or noop_max < 0:
            raise ValueError(
                "need num_envs >= 1, seed >= 0, threads >= 1 and noop_max >= 0, but got "
                f"{num_envs}, {seed}, {threads} and {noop_max}"
            )
        from ale_py.vector_env import AtariVectorEnv

        self.game, self.flicker, self.num_envs = game, flicker, num_envs
        self._vector: Any = AtariVectorEnv(
            game.rom,
            num_envs,
            num_threads=threads,
            # ALE would truncate with a frame that is one decision old; `step` does it instead.
            max_num_frames_per_episode=_NO_LIMIT,
            repeat_action_probability=game.sticky if sticky is None else sticky,
            full_action_space=game.full_action_space,
            img_height=SIDE,
            img_width=SIDE,
            stack_num=1,
            frameskip=game.frame_skip,
            maxpool=maxpool,
            noop_max=noop_max,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = gym.spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8)
        self.single_action_space = gym.spaces.Discrete(int(self._vector.single_action_space.n))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rows = np.arange(num_envs)
        self._seeds, self._indices = [seed] * num_envs, list(range(num_envs))
        self._episodes = [-1] * num_envs
        self._explicit = [False] * num_envs
        self._lengths = np.zeros(num_envs, np.int64)
        self._actions = np.zeros((num_envs, 1024), np.uint8)
        self._over = np.zeros(num_envs, np.bool_)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._draws = np.ones((num_envs, _BLOCK))

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Start the next episode everywhere, or with seeds start over with exactly those.

        Args:
            seed: one per environment, or the first of consecutive ones.
            options: must be empty.

        Returns:
            uint8 ``[num_envs, 1, 84, 84]`` and ALE's infos.
        """
        if options:
            raise ValueError(f"Atari games take no reset options, but got {sorted(options)}")
        given: Sequence[int | None]
        if seed is None or isinstance(seed, int):
            given = [None if seed is None else seed + i for i in range(self.num_envs)]
        else:
            given = seed
        if len(given) != self.num_envs:
            raise ValueError(f"got {len(given)} seeds for {self.num_envs} environments")
        for i, explicit in enumerate(given):
            if explicit is None:
                self._episodes[i] += 1
                continue
            if not 0 <= explicit < 2**31:
                raise ValueError(f"seeds are from 0 to 2**31 - 1, but got {explicit}")
            self._seeds[i], self._episodes[i], self._explicit[i] = int(explicit), 0, True
        self._over[:] = False
        frames, info = self._start(np.ones(self.num_envs, np.bool_))
        return self._blank(frames), info

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.uint8], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Take one decision in every game.

        Args:
            actions: integers ``[num_envs]``; ignored where an episode ended in the last step.

        Returns:
            Frames uint8 ``[num_envs, 1, 84, 84]`` (new arrays), rewards float32, terminations,
            truncations ``[num_envs]`` and ALE's infos.
        """
        frames, rewards, terminated, truncated, info = self._advance(actions)
        return self._blank(frames), rewards, terminated, truncated, info

    def _advance(self, actions: NDArray[np.int64]) -> tuple[Any, ...]:
        chosen = self._checked(actions)
        frames, rewards, terminated, _, info = self._vector.step(chosen)
        rewards = rewards.astype(np.float32)
        if self._lengths.max() == self._actions.shape[1]:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], 1)
        self._actions[self._rows, self._lengths] = chosen
        self._lengths += 1
        truncated = (self._lengths >= self.game.decisions) & ~terminated
        if self._over.any():
            begun = self._over
            for i in np.flatnonzero(begun):
                self._episodes[i] += 1
            # ALE has just begun these episodes without a seed of ours, so they begin again.
            frames, info = self._start(begun)
            rewards[begun] = 0
            terminated[begun] = truncated[begun] = False
        self._over = terminated | truncated
        return frames, rewards, terminated, truncated, info

    def _checked(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        # ALE's threads would wait for ever after an action that they do not know.
        chosen = np.asarray(actions)
        count = self.single_action_space.n  # type: ignore[attr-defined]
        if chosen.shape != (self.num_envs,) or chosen.dtype.kind not in "iu":
            raise ValueError(f"need {self.num_envs} integer actions, but got {chosen!r}")
        if chosen.min() < 0 or chosen.max() >= count:
            raise ValueError(f"actions are from 0 to {count - 1}, but got {chosen!r}")
        if min(self._episodes) < 0:
            raise gym.error.ResetNeeded("call reset before the first step")
        return chosen.astype(np.int64, copy=False)

    def _start(self, begun: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin the current episodes of some environments; the current frames of all."""
        seeds = []
        for i in np.flatnonzero(begun):
            exact = self._explicit[i] and self._episodes[i] == 0
            base, index, episode = self._seeds[i], self._indices[i], self._episodes[i]
            seeds.append(base if exact else episode_seed(base, index, episode))
            self._generators[i] = np.random.default_rng([seeds[-1], FLICKER_STREAM])
        self._lengths[begun] = 0
        mask = None if begun.all() else {"reset_mask": begun}
        frames, info = self._vector.reset(seed=np.array(seeds, np.int64), options=mask)
        return frames, info

    def _blank(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.flicker:
            place = self._lengths % _BLOCK
            for i in np.flatnonzero(place == 0):
                self._draws[i] = self._generators[i].random(_BLOCK)
            frames[self._draws[self._rows, place] < self.flicker] = 0
        return frames

    def close_extras(self, **kwargs: Any) -> None:
        """Free the emulators."""
        self._vector = None
