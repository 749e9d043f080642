"""Cards of classifiers are read by type, and their networks must fit images and classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from short_vision import train

from snn_rl.errors import CheckpointError
from snn_rl.inference.reader import CARD
from snn_rl.vision.classifier import load_classifier


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(folder)
    return folder / "ann"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("dataset", "name"), 3, "does not name data, model and classes"),
        (("dataset", "classes"), {}, "does not name data, model and classes"),
        (("dataset", "classes"), [1, 2], "does not name data, model and classes"),
        (("model",), None, "does not name data, model and classes"),
        (("dataset", "classes"), ["cat"], "does not fit images and classes"),
        (("graph", 0, "options", "pixels"), False, "does not fit images and classes"),
        (("task",), "chess", "holds no image classifier"),
    ],
)
def test_damaged_cards_are_refused(
    saved: Path, tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    folder = tmp_path / "ann"
    shutil.copytree(saved, folder)
    load_classifier(folder)
    card = part = json.loads((folder / CARD).read_text())
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=message):
        load_classifier(folder)
