"""Environments and the one observation pipeline that training, evaluation and play share.

Importing registers ``PositionOnlyCartPole-v1`` and ``PixelCartPole-v1`` with Gymnasium.
"""

from gymnasium.envs.registration import register, registry

from snn_rl.envs.atari import AtariVector
from snn_rl.envs.cartpole import PixelCartPole, PositionOnlyCartPole, draw_cartpole, falls
from snn_rl.envs.games import (
    AtariGame,
    UnsupportedEnvironment,
    atari_game,
    import_environments,
    split_id,
    unlimited,
)
from snn_rl.envs.one import make
from snn_rl.envs.seeding import NotRepeatable, RestoreError, episode_seed
from snn_rl.envs.shown import EnvironmentFailure, Shown
from snn_rl.envs.spaces import EnvironmentSpec, check_spaces
from snn_rl.envs.starts import all_starts, count_no_ops, has_table
from snn_rl.envs.vector import SeededEpisodes, make_vector, restore, snapshot
from snn_rl.envs.wrappers import UNBLANKED, Flicker, Sticky

for _name in ("PositionOnlyCartPole", "PixelCartPole"):
    if f"{_name}-v1" not in registry:
        register(
            id=f"{_name}-v1",
            entry_point=f"snn_rl.envs.cartpole:{_name}",
            max_episode_steps=500,
            reward_threshold=475.0,
        )

__all__ = [
    "UNBLANKED",
    "AtariGame",
    "AtariVector",
    "EnvironmentFailure",
    "EnvironmentSpec",
    "Flicker",
    "NotRepeatable",
    "PixelCartPole",
    "PositionOnlyCartPole",
    "RestoreError",
    "SeededEpisodes",
    "Shown",
    "Sticky",
    "UnsupportedEnvironment",
    "all_starts",
    "atari_game",
    "check_spaces",
    "count_no_ops",
    "draw_cartpole",
    "episode_seed",
    "falls",
    "has_table",
    "import_environments",
    "make",
    "make_vector",
    "restore",
    "snapshot",
    "split_id",
    "unlimited",
]
