"""Atari games in ALE's C++ vector environment, every episode seeded and resumable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from snn_rl.envs.episodes import Episodes
from snn_rl.envs.fire import FIRE, OPENING, FireReset
from snn_rl.envs.games import NO_LIMIT, AtariGame, UnsupportedEnvironment
from snn_rl.envs.seeding import RestoreError, too_short
from snn_rl.envs.wrappers import VectorFlicker, check_probability

SIDE = 84
"""Height and width of a frame, in pixels."""

SEED_EVERY = 16
"""A seeded start has ALE read its ROM anew, 0.15 s of processor time; a plain one takes 0.01 s. So
only every so many episodes of an environment are seeded, where an episode depends on that seed and
the number of starts since: in games without sticky actions, which draw at random in play."""


class AtariVector(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """Copies of an Atari game, with a grey uint8 frame ``(1, 84, 84)`` for each decision.

    Frames are the last raw frame of a decision, or with ``maxpool`` the maximum of its last two.
    With ``fire_reset`` the first decisions of every life are FIRE's (see ``FireReset``).
    Rewards (float32) are the game's, unclipped, summed over the skipped frames; losing a life
    ends nothing. An episode opens with 0 … ``noop_max - 1`` raw frames of no-ops drawn from its
    seed (see ``SEED_EVERY``). Episodes end by NEXT_STEP autoreset: the step after an end ignores
    its action and returns the next episode's first frame with reward 0. ALE skips the drawing of a
    game's very last frame: the observation of a termination is that of the decision before it.
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
        fire_reset: bool = False,
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
            fire_reset: press FIRE where a life begins, whatever the actions are.
            noop_max: an episode opens with fewer no-ops than this.
            threads: threads that emulate, over all copies.

        Raises:
            UnsupportedEnvironment: the game has no ROM, or no FIRE to press.
            ValueError: an argument is out of its range.
        """
        sticky = game.sticky if sticky is None else sticky
        check_probability("sticky", sticky)
        if num_envs < 1 or seed < 0 or threads < 1 or noop_max < 0:
            raise ValueError(
                "need num_envs >= 1, seed >= 0, threads >= 1 and noop_max >= 0, but got "
                f"{num_envs}, {seed}, {threads} and {noop_max}"
            )
        from ale_py.vector_env import AtariVectorEnv

        self.game, self.num_envs = game, num_envs
        self._vector: Any = AtariVectorEnv(
            game.rom,
            num_envs,
            num_threads=threads,
            # ALE would truncate with a frame that is one decision old; `step` does it instead.
            max_num_frames_per_episode=NO_LIMIT,
            repeat_action_probability=sticky,
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
        self._count = len(self._vector.ale.get_action_set())
        self.single_action_space = gym.spaces.Discrete(self._count)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._episodes = Episodes(num_envs, seed, 1 if sticky > 0 else SEED_EVERY)
        self._over = np.zeros(num_envs, np.bool_)
        self._cut = np.zeros(num_envs, np.bool_)  # by the limit of the episode's length
        self._flicker = VectorFlicker(flicker, num_envs)
        self._fire = FireReset(num_envs) if fire_reset else None
        if fire_reset and not self.has_fire:
            raise UnsupportedEnvironment(f"{game.rom} knows no {FIRE}: fire_reset is not for it")

    @property
    def has_fire(self) -> bool:
        """Whether pressing FIRE is an action of the game."""
        actions = self._vector.ale.get_action_set()
        return len(actions) > max(OPENING) and bool(actions[OPENING[0]].name == FIRE)

    def taken(self, i: int) -> int:
        """The action of environment i's last step, which may be another than was chosen."""
        return self._episodes.last_action(i)

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
        chosen: Sequence[int | None]
        if seed is None or isinstance(seed, (int, np.integer)):
            chosen = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            chosen = seed
        if len(chosen) != self.num_envs:
            raise ValueError(f"got {len(chosen)} seeds for {self.num_envs} environments")
        if not all(s is None or 0 <= s < 2**31 for s in chosen):
            raise ValueError(f"seeds are from 0 to 2**31 - 1, but got {chosen}")
        self._episodes.choose(chosen)
        self._over[:] = False
        begun = np.ones(self.num_envs, np.bool_)
        frames, info = self._start(begun)
        if self._fire is not None:
            self._fire.observe(info["lives"], begun)
        self._flicker.blank(frames, self._episodes.lengths, info)
        return frames, info

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.uint8], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Take one decision in every game.

        Args:
            actions: integers ``[num_envs]``; ignored where an episode ended in the last step, or
                where FIRE is due.

        Returns:
            Frames uint8 ``[num_envs, 1, 84, 84]`` (new arrays), rewards float32, terminations,
            truncations ``[num_envs]`` and ALE's infos.
        """
        chosen = self._checked(actions)
        if self._fire is not None:
            chosen = self._fire.replace(chosen)
        frames, rewards, terminated, _, info = self._vector.step(chosen)
        rewards = rewards.astype(np.float32)
        self._episodes.act(chosen)
        truncated = (self._episodes.lengths >= self.game.decisions) & ~terminated
        begun = self._over
        if begun.any():
            self._episodes.next(begun)
            # ALE has just begun the terminated ones without a seed, and not ended those that time
            # has cut off.
            frames, info = self._start(begun, started=begun & ~self._cut)
            rewards[begun] = 0
            terminated[begun] = truncated[begun] = False
        if self._fire is not None:
            self._fire.observe(info["lives"], begun)
        self._over, self._cut = terminated | truncated, truncated
        self._flicker.blank(frames, self._episodes.lengths, info)
        return frames, rewards, terminated, truncated, info

    def _checked(self, actions: NDArray[np.int64]) -> NDArray[np.int64]:
        # ALE's threads would wait for ever after an action that they do not know.
        chosen = np.asarray(actions)
        if chosen.shape != (self.num_envs,) or chosen.dtype.kind not in "iu":
            raise ValueError(f"need {self.num_envs} integer actions, but got {chosen!r}")
        if chosen.min() < 0 or chosen.max() >= self._count:
            raise ValueError(f"actions are from 0 to {self._count - 1}, but got {chosen!r}")
        if not self._episodes.begun:
            raise gym.error.ResetNeeded("call reset before the first step")
        return chosen.astype(np.int64, copy=False)

    def _start(
        self, begun: NDArray[np.bool_], started: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin the current episodes of some environments; the current frames of all.

        Args:
            started: those that ALE has begun already, if no seed is due.
        """
        since = self._begin(begun)
        self._reset_seeded(begun & (since == 0))
        plain = begun & (since > 0)
        return self._reset_plainly(plain if started is None else plain & ~started)

    def _start_over(self, begun: NDArray[np.bool_]) -> None:
        """Begin the current episodes from the seeds they depend on."""
        since = self._begin(begun)
        self._reset_seeded(begun)
        for number in range(since[begun].max(initial=0)):
            self._reset_plainly(begun & (since > number))

    def _begin(self, begun: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Note that episodes begin; how many starts ago each environment was seeded."""
        for i in np.flatnonzero(begun).tolist():
            self._flicker.begin(i, self._episodes.seed(i))
        return self._episodes.begin(begun)

    def _reset_seeded(self, chosen: NDArray[np.bool_]) -> None:
        """Give ALE the seeds that the current episodes of some environments depend on."""
        seeds = [self._episodes.last_seed(i) for i in np.flatnonzero(chosen).tolist()]
        if seeds:
            mask = None if chosen.all() else {"reset_mask": chosen}
            self._vector.reset(seed=np.array(seeds, np.int64), options=mask)

    def _reset_plainly(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode without a seed in some environments; the current frames of all."""
        frames, info = self._vector.reset(options={"reset_mask": chosen})
        return frames, info

    def snapshot(self) -> list[dict[str, Any]]:
        """Record where every game stands; see ``snn_rl.envs.snapshot``.

        Raises:
            RestoreError: the environments were never reset.
        """
        if not self._episodes.begun:
            raise RestoreError("the environments were never reset: there is nothing to record")
        frames, info = self._reset_plainly(np.zeros(self.num_envs, np.bool_))
        self._flicker.blank(frames, self._episodes.lengths, info)
        records = self._episodes.records(frames)
        if self._fire is not None:
            return [{**r, "fire": self._fire.snapshot(i)} for i, r in enumerate(records)]
        return records

    def restore(
        self, records: Sequence[dict[str, Any]]
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Bring the games to where ``snapshot`` recorded them; see ``snn_rl.envs.restore``.

        Takes as many steps as the longest unfinished episode has.

        Raises:
            RestoreError: another number of environments, or re-playing took another course.
        """
        played = self._episodes.load(records)
        if self._fire is not None:
            self._fire.restore([record.get("fire") for record in records])
        frames, info = self._replay(played)
        self._flicker.blank(frames, self._episodes.lengths, info)
        self._episodes.check(frames, records)
        return frames, info

    def _replay(self, played: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin every game when only its own actions are left, so that all end together."""
        lengths = np.array([len(actions) for actions in played])
        total = int(lengths.max())
        plan = np.zeros((self.num_envs, total), np.int64)
        for row, actions in zip(plan, played, strict=True):
            row[total - len(actions) :] = actions
        if plan.max(initial=0) >= self._count:
            raise RestoreError(f"the snapshot has actions beyond the game's {self._count}")
        terminated = np.zeros(self.num_envs, np.bool_)
        self._vector.reset()
        for step in range(total):
            if (begun := lengths == total - step).any():
                self._start_over(begun)
            _, _, terminated, _, _ = self._vector.step(plan[:, step])
            ended = terminated & (lengths >= total - step)
            if step < total - 1 and ended.any():
                i = int(ended.argmax())
                left = total - 1 - step
                raise too_short(*self._episodes.name(i), int(lengths[i]) - left, int(lengths[i]))
        if (begun := lengths == 0).any():
            self._start_over(begun)
        self._episodes.played(played)
        terminated &= lengths > 0
        self._cut = (lengths >= self.game.decisions) & ~terminated
        self._over = terminated | self._cut
        return self._reset_plainly(np.zeros(self.num_envs, np.bool_))

    def close_extras(self, **kwargs: Any) -> None:
        """Free the emulators."""
        self._vector = None
