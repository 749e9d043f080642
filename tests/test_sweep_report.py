"""What a sweep's runs say together: report, figures, `evaluate --agent SWEEP`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sweeps import written
from test_report import point, score

from snn_rl.agents.report.records import read_run
from snn_rl.agents.report.sweep import read_curves, read_groups, write_sweep_report
from snn_rl.agents.report.sweep_figures import Curve, draw_curves, draw_scores
from snn_rl.agents.sweep.manifest import Cell, Sweep
from snn_rl.agents.sweep.statistics import Estimate

Call = Callable[..., tuple[int, str, str]]
PNG = b"\x89PNG\r\n"


def fill(sweep: Sweep, cell: Cell, rewards: dict[str, float], *, scored: bool = True) -> None:
    """Make the cell a finished run whose stages have these scores."""
    run = sweep.path(cell)
    lines, scores = [], []
    for stage, mean in rewards.items():
        card = {"format": "snn-rl agent", "version": 1, "stage": stage, "timesteps": 1}
        card |= {"carry_membrane": True, "provenance": {"steps": 200, "seconds": 2.0}}
        (run / stage).mkdir()
        (run / stage / "agent.json").write_text(json.dumps(card))
        lines += [json.dumps(point(stage, at, validation=mean * at / 200)) for at in (100, 200)]
        scores.append(score(stage, mean_reward=mean))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if scored:
        (run / "evaluation.json").write_text(json.dumps(scores))


def filled(folder: Path, seeds: int = 4, **grid: Any) -> Sweep:
    sweep = written(folder, seeds, **grid)
    for place, cell in enumerate(sweep.cells):
        fill(sweep, cell, {"ann": 10.0 + cell.seed, "T1": 20.0 + 100 * place})
    return sweep


def test_stages_are_compared_with_the_ann(tmp_path: Path) -> None:
    filled(tmp_path)
    text = write_sweep_report(tmp_path).read_text()
    assert "4 seeds, 4 of 4 finished." in text
    # Of 10, 11, 12, 13 the middle two; 20, 120, 220, 320.
    assert "| ANN | 4 | 11.5 [" in text and "| T1 | 4 | 170 [" in text
    assert "| T1 | ANN | 100% | [100%, 100%] |" in text
    assert "variant" not in text
    for name in ("scores", "learning"):
        assert f"(figures/{name}.png)" in text
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(PNG)


def test_variants_are_compared_with_the_first(tmp_path: Path) -> None:
    sweep = filled(tmp_path, 2, carry_membrane=[True, False])
    text = write_sweep_report(tmp_path).read_text()
    assert "2 variants, 2 seeds each" in text
    first, second = (variant.replace("_", r"\_") for variant in sweep.variants)
    assert f"| ANN {second} | ANN {first} | 50% |" in text  # 10, 11 against 10, 11
    assert f"| T1 {second} | T1 {first} | 100% | [100%, 100%] |" in text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    sweep = written(tmp_path, 3)
    fill(sweep, sweep.cells[0], {"ann": 10.0, "T1": 20.0}, scored=False)
    text = write_sweep_report(tmp_path).read_text()
    assert "1 of 3 finished" in text
    assert f"No run was evaluated yet: `snn-rl evaluate --agent {tmp_path}`" in text
    assert "Probability" not in text and not (tmp_path / "figures" / "scores.png").exists()
    assert (tmp_path / "figures" / "learning.png").exists()

    (sweep.path(sweep.cells[0]) / "evaluation.json").write_text(json.dumps([score("ann")]))
    text = write_sweep_report(tmp_path).read_text()
    assert "| ANN | 1 | −12.5 |" in text  # one run has no interval


def test_curves_of_runs_that_end_early_keep_their_last_value(tmp_path: Path) -> None:
    sweep = filled(tmp_path, 2)
    run = sweep.path(sweep.cells[0])
    lines = [point("ann", at, validation=value) for at, value in ((100, 0.0), (400, 30.0))]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (curve,) = (
        c
        for c in read_curves(sweep, {c.name: read_run(sweep.path(c)) for c in sweep.cells})
        if c.stage == "ann"
    )
    assert (curve.steps[0], curve.steps[-1], curve.runs) == (100, 400, 2)
    assert curve.middle[-1] == pytest.approx((30 + 11) / 2)
    assert (curve.low <= curve.middle).all() and (curve.middle <= curve.high).all()


def test_the_figures_show_the_lowest_score_and_the_interval_of_one_point() -> None:
    scores = np.array([9.0, 130.0])
    figure = draw_scores([("ANN", "ann", scores, Estimate(69.5, 9.0, 130.0))])
    left, right = figure.axes[0].get_xlim()
    assert left < 9 and right > 130  # no dot lies on the frame
    one = [np.array([value]) for value in (8192.0, 66.0, 9.0, 123.0)]
    panel = draw_curves([Curve("", "ann", 1, *one)]).axes[0]
    drawn = [path for c in panel.collections for path in c.get_paths() if len(path.vertices) == 2]
    assert [path.vertices[:, 1].tolist() for path in drawn] == [[9.0, 123.0]]
    assert panel.get_title() == "ANN (1 run)"


def test_groups_leave_out_what_was_not_reached(tmp_path: Path) -> None:
    sweep = written(tmp_path, 2)
    fill(sweep, sweep.cells[0], {"ann": 1.0, "T1": 2.0})
    fill(sweep, sweep.cells[1], {"ann": 3.0})
    runs = {cell.name: read_run(sweep.path(cell)) for cell in sweep.cells}
    found = {group.stage: group.rewards[:, 0].tolist() for group in read_groups(sweep, runs)}
    assert found == {"ann": [1.0, 3.0], "T1": [2.0]}


def test_a_folder_without_a_sweep_is_refused(call: Call, tmp_path: Path) -> None:
    written(tmp_path / "none", 2)
    status, _, err = call("evaluate", "--agent", "none")
    assert status == 2 and "none holds no finished run yet: snn-rl sweep --resume" in err
