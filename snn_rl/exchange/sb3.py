"""DQN agents that Stable-Baselines3 saved: `model.zip` to an agent of stage `ann`.

Nothing in the zip is executed: its weights are read as plain tensors, and what they do not tell
(algorithm, activation, spaces) from the text that lies beside its pickles.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from snn_rl.agents.agent import Agent
from snn_rl.conversion.tracing import trace
from snn_rl.envs import EnvironmentSpec, atari_game, check_spaces
from snn_rl.errors import SnnRlError
from snn_rl.exchange.archive import WEIGHTS_LIMIT, read_member, read_state_dict
from snn_rl.exchange.imported import (
    Origin,
    check_maxpool,
    image_differences,
    image_pipeline,
    imported_agent,
    vector_pipeline,
    waits_for_fire,
)
from snn_rl.exchange.sb3_policy import Normalisation, build, check_plain

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


def from_sb3(
    path: str | Path,
    env: str,
    *,
    maxpool: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Agent:
    """Agent of stage `ann` from a DQN that Stable-Baselines3 saved with `model.save(path)`.

    Args:
        path: the zip; nothing in it is executed.
        env: Gymnasium id that the agent is to play.
        maxpool: whether its Atari frames showed the maximum of two raw ones; by default yes, as in
            Stable-Baselines3's AtariWrapper.
        mean, std: of VecNormalize, one number per feature, if the agent was trained with it.

    Raises:
        SnnRlError: one sentence on what is damaged, missing or has no counterpart here.
    """
    path = Path(path)
    _check_not_normalised(path, mean, std)
    saved = read_saved(path)
    check_plain(saved.options, path)
    spec = check_spaces(env)
    stack = _stacked(saved, spec, path)
    pixels = spec.kind == "image"
    if maxpool is None:
        maxpool = pixels and atari_game(env) is not None
    check_maxpool(spec, maxpool)
    pipeline = image_pipeline(spec) if pixels else vector_pipeline(spec, None)
    normalisation = Normalisation.of(mean, std, math.prod(spec.observation_shape), stack)
    if normalisation is not None and pixels:
        raise SnnRlError(f"{env} shows images: mean and std are for vectors of numbers")
    module = build(saved.weights, saved.options, path, pixels, normalisation)
    network = trace(module, pipeline.frame_shape, pixels=pixels, stack=stack)
    fire_reset = waits_for_fire(spec)
    differences = [] if normalisation is None else [CLIPPING]
    if pixels:
        differences += image_differences(spec, fire_reset)
    source = f"Stable-Baselines3 {saved.version} DQN"
    origin = Origin(source, path, fire_reset, tuple(differences))
    return imported_agent(network, spec, pipeline, origin, maxpool=maxpool)


CLIPPING = "VecNormalize clips normalised observations, by default at 10 from 0: here they are not"


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


def _check_not_normalised(
    path: Path, mean: Sequence[float] | None, std: Sequence[float] | None
) -> None:
    """A zip does not say that VecNormalize was used; its statistics beside it do."""
    if mean is not None or std is not None or not path.parent.is_dir():
        return
    for file in sorted(path.parent.glob("*.pkl")):
        if "vecnormalize" in file.name.lower().replace("_", "").replace("-", ""):
            raise SnnRlError(
                f"{path} was trained with VecNormalize, whose {file.name} is a pickle and is not "
                "executed: give its obs_rms.mean as --mean and sqrt(obs_rms.var + epsilon) as "
                "--std (or, if it belongs to another agent, move it away)"
            )


def _stacked(saved: Saved, spec: EnvironmentSpec, path: Path) -> int:
    """How many frames the agent saw at once.

    Raises:
        SnnRlError: its observations are not what the environment shows here.
    """
    if spec.kind == "vector":
        features = spec.observation_shape[0]
        if len(saved.seen) != 1 or saved.seen[0] % features:
            raise SnnRlError(
                f"{path} sees observations of shape {saved.seen}; {spec.env_id} shows "
                f"{features} numbers"
            )
        return saved.seen[0] // features
    if len(saved.seen) != 3 or saved.dtype != "uint8":
        raise SnnRlError(
            f"{path} sees {saved.dtype} observations of shape {saved.seen}; {spec.env_id} "
            "shows uint8 images"
        )
    channels = min(saved.seen)
    if sorted(saved.seen)[1:] != [84, 84]:
        raise SnnRlError(
            f"{path} sees images of shape {saved.seen}; here they are grey and 84 x 84 pixels"
        )
    if atari_game(spec.env_id) is None and spec.observation_shape[2:] == (channels,) != (1,):
        raise SnnRlError(f"{path} sees colours; here images are grey")
    return channels
