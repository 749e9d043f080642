"""Stable-Baselines3's DQN policies as torch modules, built from the shapes of their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snn_rl.errors import SnnRlError

IGNORED = ("net_arch", "optimizer_class", "optimizer_kwargs", ":type:", ":serialized:")
"""Keyword arguments of a policy that its weights tell, or that matter in training alone."""
EXTRACTORS = ("torch_layers.NatureCNN'", "torch_layers.FlattenExtractor'")
CONVOLUTIONS = {"0": 4, "2": 2, "4": 1}
"""Layer of the Nature CNN -> stride."""


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std of each feature, as VecNormalize does it; [features] each."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(
        cls, mean: Sequence[float] | None, std: Sequence[float] | None, features: int, stack: int
    ) -> Normalisation | None:
        """From numbers per feature, or per feature of every stacked frame; None without any.

        Raises:
            SnnRlError: only one is given, their number is wrong, or a std is not positive.
        """
        if mean is None and std is None:
            return None
        if mean is None or std is None:
            raise SnnRlError("mean and std belong together: give both")
        tensors = [torch.tensor(list(numbers), dtype=torch.float64) for numbers in (mean, std)]
        fits = all(len(t) in (features, features * stack) for t in tensors)
        if not fits or not bool(torch.cat(tensors).isfinite().all() and (tensors[1] > 0).all()):
            raise SnnRlError(f"mean and std need {features} finite numbers each, std above 0")
        return cls(*(t.repeat(features * stack // len(t)) for t in tensors))

    def fold_into(self, layer: nn.Linear) -> None:
        """Let a layer read plain features: computed in float64."""
        weight = layer.weight.data.double() / self.std
        layer.bias.data.copy_(layer.bias.data.double() - weight @ self.mean)
        layer.weight.data.copy_(weight)


def check_plain(options: Mapping[str, Any], path: Path) -> None:
    """Raise SnnRlError if a policy's keyword arguments ask for more than its weights tell."""
    for name, value in options.items():
        text = str(value)
        if name == "activation_fn" and "activation.ReLU'" not in text:
            kind = re.sub(r"\W*$", "", text).rpartition(".")[2] or text
            raise SnnRlError(
                f"{path} has a policy with {kind[:40]} activations: spiking neurons replace ReLU "
                "alone, so train it with policy_kwargs=dict(activation_fn=torch.nn.ReLU)"
            )
        if name == "features_extractor_class" and not any(known in text for known in EXTRACTORS):
            raise SnnRlError(
                f"{path} has a features extractor of its own ({text[:60]}): only NatureCNN and "
                "FlattenExtractor are known; give the whole Q-network by --network instead"
            )
        if name == "features_extractor_kwargs" and not re.fullmatch(
            r"(features_dim:\d+)?", re.sub(r"[^\w:.,]", "", text)
        ):
            raise SnnRlError(
                f"{path} gives its features extractor options ({text[:60]}) that are not known "
                "here: give the whole Q-network by --network instead"
            )
        known = ("activation_fn", "features_extractor_class", "features_extractor_kwargs")
        if name not in (*known, "normalize_images", *IGNORED):
            raise SnnRlError(f"{path} has the policy option {name[:40]}, which is not known here")


def build(
    weights: Mapping[str, Tensor],
    options: Mapping[str, Any],
    path: Path,
    pixels: bool,
    normalisation: Normalisation | None = None,
) -> nn.Module:
    """The Q-network of `weights`: [batch, features], or pixels 0...255, -> [batch, actions].

    Raises:
        SnnRlError: the weights are not those of an MLP (vectors) or a Nature CNN (pixels).
    """
    rest = dict(weights)
    if not pixels:
        head = _dense(rest, "q_net", path)
        _nothing_left(rest, path)
        if normalisation is not None:
            normalisation.fold_into(head[0])
        return nn.Sequential(*_between_relus(head))
    scaled = str(options.get("normalize_images", True)) == "True"
    body = _convolutions(rest, path)
    dense = _dense(rest, "features_extractor.linear", path) + _dense(rest, "q_net", path)
    _nothing_left(rest, path)
    return _Pixels([*_between_relus(body), nn.ReLU(), nn.Flatten(), *_between_relus(dense)], scaled)


class _Pixels(nn.Sequential):
    """Layers for pixels, scaled to 0...1 if the policy did so."""

    def __init__(self, layers: Sequence[nn.Module], scaled: bool) -> None:
        super().__init__(*layers)
        self.scaled = scaled

    def forward(self, x: Tensor) -> Tensor:
        if self.scaled:
            x = x / 255
        result: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return result


def _dense(rest: dict[str, Tensor], prefix: str, path: Path) -> list[nn.Linear]:
    """Takes the linear layers below `prefix` out of `rest`: every second of a Sequential."""
    layers: list[nn.Linear] = []
    while f"{prefix}.{2 * len(layers)}.weight" in rest:
        name = f"{prefix}.{2 * len(layers)}"
        weight, bias = rest.pop(f"{name}.weight"), rest.pop(f"{name}.bias", None)
        if bias is None or weight.dim() != 2 or bias.shape != weight.shape[:1]:
            raise _custom(path, f"{name}.weight")
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        if layers and layers[-1].out_features != layer.in_features:
            raise _custom(path, f"{name}.weight")
        layers.append(layer)
    if not layers:
        raise _custom(path, f"no {prefix}.0.weight")
    return layers


def _convolutions(rest: dict[str, Tensor], path: Path) -> list[nn.Conv2d]:
    layers = []
    for number, stride in CONVOLUTIONS.items():
        name = f"features_extractor.cnn.{number}"
        weight, bias = rest.pop(f"{name}.weight", None), rest.pop(f"{name}.bias", None)
        if weight is None or bias is None or weight.dim() != 4:
            raise _custom(path, f"no {name}.weight")
        kernel = (int(weight.shape[2]), int(weight.shape[3]))
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride=stride)
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    if [layer.kernel_size for layer in layers] != [(8, 8), (4, 4), (3, 3)]:
        raise _custom(path, "other kernels than NatureCNN's")
    return layers


def _between_relus(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers with a ReLU between each two."""
    result: list[nn.Module] = [layers[0]]
    for layer in layers[1:]:
        result += [nn.ReLU(), layer]
    return result


def _nothing_left(rest: Mapping[str, Tensor], path: Path) -> None:
    if rest:
        raise _custom(path, next(iter(rest)))


def _custom(path: Path, what: str) -> SnnRlError:
    return SnnRlError(
        f"{path} holds another network than Stable-Baselines3's MlpPolicy and NatureCNN "
        f"({what[:80]}): give the whole Q-network by --network instead"
    )
