"""The report of a run: complete, honest about what is missing, whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snn_rl.agents.report.figures import (
    draw_learning,
    draw_rewards,
    draw_spike_rates,
    format_reward,
)
from snn_rl.agents.report.page import write_report
from snn_rl.agents.report.records import Point, StageScore, read_run
from snn_rl.errors import SnnRlError

ENV = "ALE/Pong-v5"
STAGES = ("ann", "T2", "T1")


def score(stage: str, **changes: Any) -> dict[str, Any]:
    """One entry of evaluation.json."""
    spiking = stage != "ann"
    return {
        "agent": f"run/{stage}",
        "env": ENV,
        "stage": stage,
        "timesteps": int(stage[1:]) if spiking else 1,
        "carry_membrane": True,
        "trials": 3,
        "distinct_trials": 2,
        "mean_reward": -12.5,
        "std_reward": 6.5,
        "rewards": [-21.0, -11.0, -5.5],
        "lengths": [900, 1500, 2000],
        "truncated": 0,
        "spike_rate": 0.08 if spiking else 0.0,
        "spike_rates": {"a": 0.1, "b": 0.0} if spiking else {},
        "alpha": 7.535 if spiking else 1.0,
        "teacher": "stack:4" if spiking else None,
        **changes,
    }


def point(stage: str, steps: int, **changes: Any) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    line = {"stage": stage, "steps": steps, "seconds": steps / 100, "mean_reward": None}
    return line | {"validation": None, "epsilon": 0.05, "metrics": {"td": 0.1}} | changes


def write_run(folder: Path, stages: tuple[str, ...] = STAGES) -> Path:
    (folder / "config.yaml").write_text(f"env: {ENV}\nseed: 3\ncarry_membrane: true\n")
    (folder / "evaluation.json").write_text(json.dumps([score(stage) for stage in stages]))
    lines = [
        json.dumps(point(stage, steps, mean_reward=steps / 10 - 21.0, validation=-5.0))
        for stage in stages
        for steps in (100, 200)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for stage in stages:
        card = {
            "format": "snn-rl agent",
            "version": 1,
            "stage": stage,
            "timesteps": 1 if stage == "ann" else int(stage[1:]),
            "carry_membrane": True,
            "provenance": {
                "command": "snn-rl train --env ALE/Pong-v5 --seed 3",
                "steps": 123_456,
                "seconds": 90.0,
                "hardware": "x86_64 CPU",
                "versions": {"torch": "2.9"},
            },
            "results": {"validation": -5.0},
        }
        (folder / stage).mkdir()
        (folder / stage / "agent.json").write_text(json.dumps(card))
    return folder


def test_report_of_a_whole_run(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path))
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.md"
    assert text.startswith(f"# {ENV}")
    assert "| **T1** | 1 | −12.5 ± 6.5 | 3 | 2 | 0.080 | 7.54 | carried | 123,456 | 1.5 |" in text
    assert "| **ANN** | – |" in text
    assert "the last 4 frames" in text
    assert "snn-rl train --env ALE/Pong-v5 --seed 3\n" in text
    assert f'snn_rl.load_agent("{tmp_path.name}/T1")' in text
    assert "missing" not in text
    assert str(tmp_path) not in text
    for name in ("rewards", "spike_rates", "learning"):
        assert f"(figures/{name}.png)" in text
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    left = [file.name for file in tmp_path.rglob(".*")]
    assert not left, "temporary files remain"


def test_missing_files_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    write_report(write_run(tmp_path))
    (tmp_path / "evaluation.json").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "`evaluation.json` is missing" in text
    assert f"snn-rl evaluate --agent {tmp_path.name}" in text
    assert "`metrics.jsonl` is missing" in text
    assert "snn-rl train --env" in text
    assert "| **T1** | 1 | carried | 123,456 |" in text
    assert not list((tmp_path / "figures").iterdir()), "outdated figures remain"


def test_a_run_without_any_stage(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("env: CartPole-v1\n")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No stage has finished" in text


def test_text_cannot_break_the_page(tmp_path: Path) -> None:
    write_run(tmp_path)
    scores = [score("T1", teacher="a|b\n<script>")]
    (tmp_path / "evaluation.json").write_text(json.dumps(scores))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| **T1**")]
    assert row.endswith(r"a\|b \<script\> |")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[[]]",
        '{"stage": "T1"}',
        json.dumps([score("T1", rewards=[1.0])]),
        json.dumps([score("T1", mean_reward=float("nan"))]),
        json.dumps([score("T1", spike_rates={"a": "many"})]),
        "[" * 100_000,
    ],
)
def test_damaged_evaluation_is_one_sentence(tmp_path: Path, content: str) -> None:
    write_run(tmp_path)
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(SnnRlError, match=r"evaluation\.json is damaged") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert not (tmp_path / "report.md").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnnRlError, match=r"config\.yaml is missing"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(SnnRlError, match="names no environment"):
        write_report(tmp_path)


def test_metrics_cut_off_by_a_crash_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    file = tmp_path / "metrics.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"stage": "T1", "st')
    assert len(read_run(tmp_path).points) == 6
    file.write_text("nonsense\n" + whole)
    with pytest.raises(SnnRlError, match=r"metrics\.jsonl is damaged in line 1"):
        read_run(tmp_path)


def test_a_resumed_stage_replaces_what_it_overlaps_and_its_time_goes_on(tmp_path: Path) -> None:
    write_run(tmp_path)
    steps = [(100, 1.0), (200, 2.0), (300, 3.0), (250, 0.5), (350, 1.5)]
    lines = [json.dumps(point("ann", s, seconds=t)) for s, t in steps]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    points = read_run(tmp_path).points
    assert [p.steps for p in points] == [100, 200, 250, 350]
    assert [p.seconds for p in points] == [1.0, 2.0, 2.5, 3.5]


def test_figures_show_every_trial_stage_and_layer() -> None:
    scores = [StageScore.model_validate(score(stage)) for stage in STAGES]
    (axes,) = draw_rewards(scores).axes
    assert [t.get_text().split("\n")[0] for t in axes.get_xticklabels()] == ["ANN", "T2", "T1"]
    trials = sum(len(dots.get_offsets()) for dots in axes.collections if hasattr(dots, "get_sizes"))
    assert trials == 9
    (axes,) = draw_spike_rates(scores).axes
    assert len(axes.patches) == 4
    assert [text.get_text() for text in axes.texts] == ["0", "0"], "silent layers are marked"


def test_learning_curves_put_the_stages_one_after_the_other() -> None:
    points = [
        Point.model_validate(point(stage, steps, mean_reward=1.0))
        for stage in STAGES
        for steps in (100, 200)
    ]
    upper, lower = draw_learning(points).axes
    curves = [line.get_xdata() for line in upper.lines if line.get_linestyle() == "-"]
    assert [list(x) for x in curves] == [[100, 200], [300, 400], [500, 600]]
    assert [text.get_text() for text in upper.texts] == ["ANN", "T2", "T1"]
    assert lower.get_xlabel() == "wall-clock time of training (s)"


@pytest.mark.parametrize(("value", "text"), [(500.0, "500"), (-20.96, "−21.0"), (1234.5, "1234")])
def test_rewards_are_written_with_few_digits(value: float, text: str) -> None:
    assert format_reward(value) == text
