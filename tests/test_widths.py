"""benchmarks/widths.py: what each width trains, and how scores meet times in table and picture."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from snn_rl.agents.config import make_config
from snn_rl.agents.presets import with_preset

FOLDER = Path(__file__).parents[1] / "benchmarks"
PONG = "PongNoFrameskip-v4"
ANN = f"zoo:{PONG}/paper-ann"


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("widths")


def paper() -> dict[str, Any]:
    return with_preset({"env": PONG, "teacher": ANN}, "paper")


def test_a_width_s_ann_is_trained_as_its_t1_is(widths: Any) -> None:
    config = widths.width_cell(0.5, paper(), carry=False, start=None).config
    assert (config.width, config.timesteps, config.carry_membrane) == (0.5, 1, False)
    assert config.start is None and config.teacher == ANN
    spiking = config.spiking.at(1).model_dump()
    assert config.ann.model_dump() == spiking | {"rate_penalty": 0.0}
    assert spiking == make_config(paper()).spiking.at(1).model_dump()


def test_a_given_ann_is_started_from_and_not_trained(widths: Any) -> None:
    config = widths.width_cell(1.0, paper(), carry=True, start=ANN).config
    assert (config.start, config.ann.steps, config.carry_membrane) == (ANN, 0, True)


def row(name: str, score: float) -> dict[str, Any]:
    known = {"spike_rate": 0.05, "parameters": 1234, "frames": 5678}
    return {"variant": name, "mean_reward": score, **known}


def time(name: str, runtime: str, median: float, score: float | None = None) -> dict[str, Any]:
    machine = {"processor": "a processor", "processor_flags": ["avx2"], "load": [0.5, 1.0]}
    return {"variant": name, "runtime": runtime, "median_us": median, "score": score} | machine


ROWS = [row("ANN, width 1", 20.0), row("T1, width 1", 19.0), row("T1, width 0.5", 18.0)]
TIMES = [
    time("T1, width 1", "event-driven", 39.4),
    time("T1, width 0.5", "event-driven", 20.0),
    time("ANN, width 1", "fp32", 349.0),
    time("ANN, width 1", "int8", 106.0, 20.5),
]


def test_the_table_has_int8_scores_of_their_own(widths: Any) -> None:
    lines = widths.report(ROWS, TIMES, ANN).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "width" in line]
    assert [c[:4] for c in cells] == [
        ["T1, width 1", "event-driven", "19.00", "39"],
        ["T1, width 0.5", "event-driven", "18.00", "20"],
        ["ANN, width 1", "fp32", "20.00", "349"],
        ["ANN, width 1", "int8", "20.50", "106"],
    ]
    assert cells[0][4:] == ["1,234", "0.050", "5,678"] and cells[2][5] == "–"


def test_the_picture_is_drawn(widths: Any, tmp_path: Path) -> None:
    widths.draw(ROWS, TIMES, tmp_path / "widths.png")
    with Image.open(tmp_path / "widths.png") as picture:
        assert picture.width > 500 and len(picture.convert("RGB").getcolors(2**24) or []) > 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--env", "CartPole-v1"], "CartPole-v1"),
        (["--env", PONG, "--set", "sticky=0.25"], "sticky"),
        (["--env", PONG, "--seeds", "2"], "--seeds must name one seed"),
        (["--env", PONG, "--variants", "T2, width 1"], "there is no variant 'T2, width 1'"),
        (["--env", PONG, "--agent", "x"], "must look like NAME=PATH"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    widths: Any, tmp_path: Path, options: list[str], message: str
) -> None:
    asked: argparse.Namespace = widths.parser().parse_args([*options, "--out", str(tmp_path / "o")])
    with pytest.raises(ValueError, match=message):
        widths.main(asked)
    assert not (tmp_path / "o").exists()
