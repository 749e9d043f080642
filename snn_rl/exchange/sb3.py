"""DQN agents that Stable-Baselines3 saved: what `model.zip` holds.

Nothing in the zip is executed: its weights are read as plain tensors, and what they do not tell
(algorithm, activation, spaces) from the text that lies beside its pickles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from snn_rl.errors import SnnRlError
from snn_rl.exchange.archive import WEIGHTS_LIMIT, read_member, read_state_dict

DATA_LIMIT, TEXT_LIMIT = 64 * 2**20, 2**10
DQN_POLICIES = "stable_baselines3.dqn.policies"


@dataclass(frozen=True)
class Saved:
    """What a zip says of its agent.

    Attributes:
        version: of Stable-Baselines3.
        policy: module of the policy's class, which tells the algorithm.
        options: text of the policy's keyword arguments by name.
        seen: shape of one observation, frames stacked.
        dtype: of observations, a NumPy name.
        weights: the online Q-network's tensors by name.
    """

    version: str
    policy: str
    options: Mapping[str, Any]
    seen: tuple[int, ...]
    dtype: str
    weights: Mapping[str, Tensor]


def read_saved(path: Path) -> Saved:
    """What `path` holds of a DQN.

    Raises:
        SnnRlError: it is no such zip, damaged, or holds another algorithm than DQN.
    """
    content = read_member(path, "data", DATA_LIMIT)
    weights = read_state_dict(
        read_member(path, "policy.pth", WEIGHTS_LIMIT), f"policy.pth in {path}"
    )
    try:
        data = json.loads(content)
        policy = str(data["policy_class"]["__module__"])
        space, actions = data["observation_space"], data["action_space"]
        kinds = [str(found[":type:"]) for found in (space, actions)]
        options = dict(data["policy_kwargs"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SnnRlError(
            f"{path} is damaged or from another library: its data describe no "
            "Stable-Baselines3 agent"
        ) from None
    _check_algorithm(policy, kinds, path)
    try:
        seen = tuple(int(n) for n in re.findall(r"\d+", str(space["_shape"])))
        dtype = str(space["dtype"])
    except KeyError:
        raise SnnRlError(f"{path} is damaged: its observation space has no shape") from None
    version = read_member(path, "_stable_baselines3_version", TEXT_LIMIT)
    online = {
        name.removeprefix("q_net."): value
        for name, value in weights.items()
        if name.startswith("q_net.")
    }
    return Saved(version.decode(errors="replace").strip(), policy, options, seen, dtype, online)


def _check_algorithm(policy: str, spaces: Sequence[str], path: Path) -> None:
    seen, actions = spaces
    if "discrete.Discrete'" not in actions:
        raise SnnRlError(
            f"{path} has the action space {_name(actions)}: only Discrete actions can be imported"
        )
    if policy != DQN_POLICIES:
        raise SnnRlError(
            f"{path} is no DQN with Stable-Baselines3's own policy (its policy comes from "
            f"{policy[:80]}): only stable_baselines3.DQN can be imported from a zip; export the "
            "Q-network's state_dict and use --network instead"
        )
    if "box.Box'" not in seen:
        raise SnnRlError(
            f"{path} has the observation space {_name(seen)}: only a Box can be imported"
        )


def _name(text: str) -> str:
    return text.rpartition(".")[2].rstrip("'>")[:40]
