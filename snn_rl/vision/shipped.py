"""The classifiers that come with the package, and classifiers by path or name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from snn_rl.errors import CheckpointError
from snn_rl.inference.reader import CARD

ZOO = "zoo:"


def zoo() -> list[str]:
    """Names of the shipped classifiers, e.g. "cifar10-fast/T1"."""
    root = zoo_folder()
    return sorted(card.parent.relative_to(root).as_posix() for card in root.rglob(CARD))


def zoo_folder() -> Path:
    """Where they lie, one folder per data set and model, its stages below."""
    return Path(str(resources.files("snn_rl.vision"))) / "zoo"


def find_classifier(source: str | Path) -> Path:
    """Folder of a classifier given by path or as "zoo:<dataset>-<model>/<stage>".

    Raises:
        CheckpointError: there is none; names what there is.
    """
    text = str(source)
    if not text.startswith(ZOO):
        folder = Path(source)
        if not folder.exists():
            raise CheckpointError(f"no classifier at {folder}: there is no such folder")
        return folder.parent if folder.name == CARD else folder
    name, known = text.removeprefix(ZOO), zoo()
    if name not in known:
        listed = ", ".join(known) or "none"
        raise CheckpointError(f"the zoo has no classifier {name!r}; it holds {listed}")
    return zoo_folder() / name
