"""Vector environments whose every episode is seeded explicitly and can be resumed exactly."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate
from numpy.typing import NDArray

from snn_rl.envs.atari import AtariVector
from snn_rl.envs.games import atari_game
from snn_rl.envs.seeding import RestoreError, checksum, episode_seed, other_course, too_short
from snn_rl.envs.shown import FULL_STATE
from snn_rl.envs.spaces import make_single
from snn_rl.envs.wrappers import UNBLANKED, Flicker, Sticky


class SeededEpisodes(gym.Wrapper[NDArray[Any], Any, NDArray[Any], Any]):
    """Give every episode a seed of its own, and remember how the current one was reached.

    Attributes:
        seed: base seed; an explicit ``reset(seed=s)`` makes it ``s``.
        index: position of this environment in its vector.
        episode: index of the current episode, -1 before the first ``reset``.
        explicit: whether episode 0 uses ``seed`` itself instead of a drawn seed.
        actions: actions since the start of the current episode.
        options: the options that the current episode was reset with.
        observation, info, terminated, truncated: what the last reset or step returned.
        shown: checksum of all observations of the episode.
    """

    observation: NDArray[Any]
    info: dict[str, Any]

    def __init__(self, env: gym.Env[NDArray[Any], Any], seed: int, index: int) -> None:
        """Wrap ``env``; ``seed >= 0`` and ``index`` determine the seeds of its episodes."""
        super().__init__(env)
        self.seed = seed
        self.index = index
        self.episode = -1
        self.explicit = False
        self.actions: list[int] = []
        self.shown = 0
        self.options: dict[str, Any] | None = None
        self.terminated = self.truncated = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Start the next episode, or with a seed start over at episode 0 with exactly that seed.

        Episodes after an explicit seed follow from it, the environment index and their number.
        """
        if seed is None:
            self.episode += 1
        else:
            self.seed, self.episode, self.explicit = seed, 0, True
        self.options = dict(options) if options else None
        return self._start()

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Take an action (an integer) and record it."""
        self.actions.append(int(action))
        observation, reward, self.terminated, self.truncated, info = self.env.step(action)
        self.observation, self.info = observation, _read(info)
        self.shown = checksum(observation, self.shown)
        return observation, float(reward), self.terminated, self.truncated, self.info

    def resume(self, episode: int, actions: Sequence[int]) -> None:
        """Return to the middle of an episode by seeding it again and re-playing its actions.

        Uses the current ``seed``, ``index``, ``explicit`` and ``options``.

        Raises:
            RestoreError: the episode ended before the last action.
        """
        self.episode = episode
        self._start()
        for number, action in enumerate(actions):
            if self.terminated or self.truncated:
                raise too_short(self.index, episode, number, len(actions))
            self.step(action)

    def _start(self) -> tuple[NDArray[Any], dict[str, Any]]:
        exact = self.explicit and self.episode == 0
        seed = self.seed if exact else episode_seed(self.seed, self.index, self.episode)
        self.actions, self.terminated, self.truncated = [], False, False
        # The environment may consume the options it is given; a replay needs them whole.
        options = dict(self.options) if self.options else None
        self.observation, info = self.env.reset(seed=seed, options=options)
        self.info, self.shown = _read(info), checksum(self.observation)
        return self.observation, self.info


def _read(info: dict[str, Any]) -> dict[str, Any]:
    """What is read of an environment's infos; the others need not fit into one array for all."""
    return {name: info[name] for name in (FULL_STATE, UNBLANKED) if name in info}


def make_vector(
    env_id: str,
    num_envs: int,
    *,
    seed: int,
    flicker: float = 0.0,
    sticky: float | None = None,
    maxpool: bool = False,
    fire_reset: bool = False,
    threads: int = 1,
    env_kwargs: Mapping[str, Any] | None = None,
) -> VectorEnv[NDArray[Any], Any, NDArray[Any]]:
    """Create ``num_envs`` copies of an environment.

    Atari games run in ALE's C++ vector environment (see ``AtariVector``), all others one after
    the other. Episodes end by NEXT_STEP autoreset: the step after an end ignores its action and
    returns the next episode's first observation with reward 0. Returned arrays are copies.

    Args:
        env_id: Gymnasium id, also as ``module:id``.
        num_envs: number of copies, at least 1.
        seed: base seed ≥ 0 of all episodes that are not seeded explicitly.
        flicker: probability from 0 to 1 with which an observation is blanked.
        sticky: probability from 0 to 1 with which the previous action is repeated, for an Atari
            game at each raw frame; None leaves it as the id has it.
        maxpool: show the pixel-wise maximum of the last two raw frames (Atari games only).
        fire_reset: press FIRE where a life begins (Atari games only; see ``FireReset``).
        threads: threads that emulate Atari games.
        env_kwargs: for the environments' constructor (not of Atari games).

    Raises:
        UnsupportedEnvironment: as in ``check_spaces``.
        ValueError: another argument is out of its range.
    """
    if num_envs < 1 or seed < 0:
        raise ValueError(f"need num_envs >= 1 and seed >= 0, but got {num_envs} and {seed}")
    game = atari_game(env_id)
    if game is not None:
        if env_kwargs:
            raise ValueError(f"env_kwargs are not for Atari games such as {env_id!r}")
        return AtariVector(
            game,
            num_envs,
            seed=seed,
            flicker=flicker,
            sticky=sticky,
            maxpool=maxpool,
            fire_reset=fire_reset,
            threads=threads,
        )
    for name, wanted in (("maxpool", maxpool), ("fire_reset", fire_reset)):
        if wanted:
            raise ValueError(f"{name} is for Atari games, and {env_id!r} is none")

    def create(index: int) -> SeededEpisodes:
        env: gym.Env[Any, Any] = make_single(env_id, env_kwargs)
        if sticky:
            env = Sticky(env, sticky)
        return SeededEpisodes(Flicker(env, flicker) if flicker else env, seed, index)

    functions = [lambda i=i: create(i) for i in range(num_envs)]
    return SyncVectorEnv(functions, copy=True, autoreset_mode=AutoresetMode.NEXT_STEP)


def snapshot(vector: VectorEnv[Any, Any, Any]) -> list[dict[str, Any]]:
    """Record where every environment of ``make_vector`` stands, as JSON-able dictionaries.

    Raises:
        RestoreError: an environment was never reset.
        TypeError: the vector environment is not one of ``make_vector``.
    """
    if isinstance(vector, AtariVector):
        return vector.snapshot()
    return [_record(env) for env in _members(vector)]


def restore(
    vector: VectorEnv[Any, Any, Any], records: Sequence[dict[str, Any]]
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Bring a vector environment to where ``snapshot`` recorded it, pending autoresets included.

    Costs as many steps as the unfinished episodes have; base seeds come from the records.

    Returns:
        The current observations and infos, as ``reset`` returns them.

    Raises:
        RestoreError: another number of environments, or re-playing gave another observation.
        TypeError: the vector environment is not one of ``make_vector``.
    """
    if isinstance(vector, AtariVector):
        return vector.restore(records)
    envs = _members(vector)
    if len(records) != len(envs):
        raise RestoreError(f"the snapshot has {len(records)} environments, not {len(envs)}")
    for env, record in zip(envs, records, strict=True):
        _replay(env, record)
    return _adopt(vector, envs)


def _record(env: SeededEpisodes) -> dict[str, Any]:
    if env.episode < 0:
        raise RestoreError(f"environment {env.index} was never reset: there is nothing to record")
    names = ("seed", "index", "episode", "explicit", "options")
    return {name: getattr(env, name) for name in names} | {
        "actions": list(env.actions),
        "shown_crc32": env.shown,
    }


def _replay(env: SeededEpisodes, record: dict[str, Any]) -> None:
    env.seed, env.index = record["seed"], record["index"]
    env.explicit, env.options = record["explicit"], record["options"]
    env.resume(record["episode"], record["actions"])
    if env.shown != record["shown_crc32"]:
        raise other_course(env.index, env.episode)


def _adopt(vector: Any, envs: Sequence[SeededEpisodes]) -> tuple[NDArray[Any], dict[str, Any]]:
    """Set the book-keeping that SyncVectorEnv does in ``step``."""
    infos: dict[str, Any] = {}
    for i, env in enumerate(envs):
        vector._env_obs[i] = env.observation
        vector._terminations[i], vector._truncations[i] = env.terminated, env.truncated
        infos = vector._add_info(infos, env.info, i)
    vector._autoreset_envs = vector._terminations | vector._truncations
    vector._observations = concatenate(
        vector.single_observation_space, vector._env_obs, vector._observations
    )
    return np.copy(vector._observations), infos


def _members(vector: VectorEnv[Any, Any, Any]) -> list[SeededEpisodes]:
    envs = vector.envs if isinstance(vector, SyncVectorEnv) else []
    members = [env for env in envs if isinstance(env, SeededEpisodes)]
    if not members or len(members) != vector.num_envs:
        raise TypeError("only vector environments of make_vector can be recorded and restored")
    return members
