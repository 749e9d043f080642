"""A saved classifier: its network, what it sees and what it knows the classes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn_rl.core.network import Network
from snn_rl.errors import CheckpointError
from snn_rl.runs import checkpoint
from snn_rl.runs.folder import stage_folders as folder_stages
from snn_rl.runs.shipped import Zoo
from snn_rl.vision.evaluation import classify

CLASSIFIERS = Zoo.of("snn_rl.vision", "classifier")


@dataclass(frozen=True)
class Classifier:
    """A network with its card; `timesteps` is T of its stage."""

    network: Network
    timesteps: int
    card: dict[str, Any]

    @property
    def stage(self) -> str:
        """ann, T5 ... T1, or pruned."""
        return str(self.card["stage"])

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, by label."""
        names: Sequence[str] = self.card["dataset"]["classes"]
        return names

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of uint8 RGB images [batch, channels, height, width].

        Raises:
            ValueError: images of another shape or type.
        """
        return classify(self.network.eval(), images, self.timesteps)

    def predict(self, images: Tensor) -> list[str]:
        """Name of the most likely class of every image."""
        return [self.classes[label] for label in self.logits(images).argmax(1).tolist()]


def load_classifier(source: str | Path) -> Classifier:
    """Classifier from a stage's folder, or a shipped one as "zoo:<dataset>-<model>/<stage>".

    Nothing in the files is executed.

    Raises:
        CheckpointError: one sentence on what is wrong with the folder.
    """
    folder = CLASSIFIERS.find(source)
    network, card = checkpoint.load(folder)
    dataset = card.get("dataset")
    if card.get("task") != "classification" or not isinstance(dataset, dict):
        raise CheckpointError(f"{folder} holds no image classifier")
    classes = dataset.get("classes")
    texts = [dataset.get("name"), card.get("model"), card.get("stage")]
    if not isinstance(classes, list) or not all(isinstance(x, str) for x in [*texts, *classes]):
        raise CheckpointError(
            f"{folder} is damaged: its card does not name data, model and classes"
        )
    sees = network.pixels and network.stack == 1 and len(network.input_shape) == 3
    if not sees or network.shapes[network.nodes[-1].name] != (len(classes),):
        raise CheckpointError(f"{folder} is damaged: its network does not fit images and classes")
    return Classifier(network, int(card["timesteps"]), card)


def stage_folders(folder: Path) -> list[Path]:
    """Folders of a run's finished stages, or `folder` if it is one.

    Raises:
        CheckpointError: neither.
    """
    return [folder] if (folder / checkpoint.CARD).is_file() else folder_stages(folder)
