"""The report of a run: one Markdown page with figures that a stranger understands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from snn_rl.agents.report.figures import (
    draw_learning,
    draw_rewards,
    draw_spike_rates,
    format_reward,
    stage_label,
)
from snn_rl.agents.report.records import RunRecord, StageScore, read_run
from snn_rl.runs.checkpoint import write_text
from snn_rl.runs.folder import EVALUATION, FIGURES, METRICS, REPORT, shown
from snn_rl.support.markdown import code, escape, fenced, table
from snn_rl.support.plotting import save_figure

_COLUMNS = (
    "stage",
    "timesteps T",
    "reward (mean ± std)",
    "standard error",
    "trials",
    "distinct trials",
    "failures",
    "validation starts",
    "spike rate",
    "α",
    "membranes",
    "training steps",
    "minutes",
    "best validation",
    "teacher",
)

_GLOSSARY = """\
- **T**: spiking timesteps per environment frame. The ANN is the ordinary network that the spiking
  stages come from.
- **Reward**: of whole episodes played greedily, as the environment gives it (unclipped), on seeds
  that neither training nor validation used; mean ± population standard deviation over the trials.
  **Distinct trials** counts how many of them differ from the first reward on, in an action or a
  reward, or, Atari games, in when points were won and lost; **failures** those that ended before
  their time limit; **validation starts** those that begin as a game does that chose the weights,
  since a deterministic game has few starts. The **standard error** is that of the mean; it is 0
  where the trials are all the starts there are.
- **Spike rate**: spikes per neuron per frame, summed over the T timesteps; mean over all spiking
  neurons.
- **α**: compute energy of the ANN divided by this network's (4.6 pJ per multiply-accumulate, 0.9 pJ
  per spike's accumulate, 45 nm). Memory traffic is not in it; `snn-rl energy` counts that too.
- **Membranes**: *carried* keeps the neurons' membranes from frame to frame (the agent's memory);
  *zeroed* forgets them before every frame.
- **Best validation**: mean reward on the validation seeds, which chose the weights of the stage."""

_TEACHERS = {
    "self": "this run's own ANN",
    "full_state": "an ANN that sees the environment's full state, which the agents do not see",
}


def write_report(run_dir: Path) -> Path:
    """Write report.md and figures/*.png into a run's folder; returns the path of report.md.

    Where evaluation.json or metrics.jsonl is missing, the report says how to make it.

    Raises:
        SnnRlError: the folder is no run or one of its files is damaged; nothing is written.
    """
    run = read_run(run_dir)
    name = shown(run_dir)
    (run_dir / FIGURES).mkdir(exist_ok=True)
    sections = [
        _introduction(run),
        _results(run, name),
        *_figures(run, run_dir, name),
        _reproduce(run, name),
        _use(run, name),
    ]
    path = run_dir / REPORT
    write_text(path, "\n\n".join(sections) + "\n")
    return path


def _introduction(run: RunRecord) -> str:
    spiking = [stage for stage in run.stages if stage != "ann"]
    course = "but not yet turned into a spiking network"
    if len(spiking) == 1:
        course = f"turned into a spiking network and trained on as such ({escape(spiking[0])})"
    elif spiking:
        course = (
            "turned into a spiking network and trained on with fewer and fewer timesteps per "
            f"frame, every stage starting from the one before ({escape(', '.join(spiking))})"
        )
    carried = run.config.get("carry_membrane", True)
    memory = (
        "keep their membranes from frame to frame as the agent's memory"
        if carried
        else "forget their membranes before every frame"
    )
    text = (
        f"# {escape(run.env_id)}: spiking agents by temporal pruning\n\n"
        f"An ordinary Q-network (ANN) was trained on `{code(run.env_id)}`, {course}. "
        f"The spiking neurons {memory}"
    )
    return f"{text}{_scoring(run.scores)}."


def _scoring(scores: Sequence[StageScore]) -> str:
    if not scores:
        return "; no stage has been scored yet"
    counts = sorted({score.trials for score in scores})
    trials = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    episodes = "episode" if counts[-1] == 1 else "episodes"
    return f", and every stage was scored on {trials} full {episodes} on seeds unused in training"


def _results(run: RunRecord, name: str) -> str:
    if not run.stages:
        return f"## Results\n\nNo stage has finished: run `snn-rl train` into `{code(name)}` first."
    scores = {score.stage: score for score in run.scores}
    rows = [_row(stage, scores.get(stage), run.cards.get(stage, {})) for stage in run.stages]
    parts = ["## Results", table(_COLUMNS, rows)]
    if not run.scores:
        parts.append(_missing(EVALUATION, "Rewards, spike rates and α", _evaluate(name)))
    cut = [score for score in run.scores if score.truncated]
    if cut:
        listed = ", ".join(f"{s.truncated} of {s.trials} ({stage_label(s.stage)})" for s in cut)
        parts.append(f"Episodes that the environment's time limit ended: {escape(listed)}.")
    parts.append(_GLOSSARY + _teachers(row[-1] for row in rows))
    return "\n\n".join(parts)


def _row(stage: str, score: StageScore | None, card: dict[str, Any]) -> list[str]:
    """Cells in the order of _COLUMNS; – where nothing is known."""
    provenance = _mapping(card, "provenance")
    steps, seconds = provenance.get("steps"), provenance.get("seconds")
    validation = _mapping(card, "results").get("validation")
    timesteps = score.timesteps if score else card.get("timesteps")
    carried = score.carry_membrane if score else card.get("carry_membrane")
    teacher = (score.teacher if score else None) or card.get("teacher")
    ann = stage == "ann"
    return [
        f"**{escape(stage_label(stage))}**",
        "–" if ann or timesteps is None else f"{timesteps}",
        f"{format_reward(score.mean_reward)} ± {format_reward(score.std_reward)}" if score else "–",
        _standard_error(score),
        f"{score.trials}" if score else "–",
        f"{score.distinct_trials}" if score else "–",
        "–" if score is None or score.failures is None else f"{score.failures}",
        "–" if score is None or score.validation_starts is None else f"{score.validation_starts}",
        "–" if ann or score is None or score.spike_rate is None else f"{score.spike_rate:.3f}",
        "–" if score is None or score.alpha is None else f"{score.alpha:.2f}",
        "–" if ann or carried is None else "carried" if carried else "zeroed",
        f"{steps:,}" if isinstance(steps, int) else "–",
        f"{seconds / 60:.1f}" if isinstance(seconds, int | float) else "–",
        format_reward(validation) if isinstance(validation, int | float) else "–",
        escape(str(teacher)) if teacher else "–",
    ]


def _standard_error(score: StageScore | None) -> str:
    if score is None or score.standard_error is None:
        return "–"
    return "0 (all starts)" if score.exact else f"{score.standard_error:.2g}"


def _teachers(cells: Any) -> str:
    """What the teachers in the table are."""
    lines = []
    for teacher in sorted({cell for cell in cells if cell != "–"}):
        stack = re.fullmatch(r"stack:(\d+)", teacher)
        what = f"an ANN that sees the last {stack[1]} frames" if stack else "another saved agent"
        what = _TEACHERS.get(teacher.replace("\\", ""), what)
        lines.append(f"\n- **Teacher {teacher}**: {what}; it labels the frames the student visits.")
    return "".join(lines)


def _figures(run: RunRecord, run_dir: Path, name: str) -> list[str]:
    """Sections with a figure each, or with what it lacks; outdated files are removed."""
    scored, spiking = run.scores, [score for score in run.scores if score.spike_rates]
    no_score = _missing(EVALUATION, "This figure", _evaluate(name))
    no_curve = _missing(METRICS, "This figure", f"snn-rl train --env {shlex.quote(run.env_id)}")
    return [
        _figure(
            run_dir / FIGURES / "rewards.png",
            "Reward per stage",
            "Bars show each stage's mean reward, error bars its standard deviation over the trials "
            "and every dot one trial.",
            draw_rewards(scored) if scored else None,
            no_score,
        ),
        _figure(
            run_dir / FIGURES / "spike_rates.png",
            "Spikes per layer",
            "Each group of bars is one stage and each bar one layer from input to output; a layer "
            "marked with a red 0 passes nothing on.",
            draw_spike_rates(spiking) if spiking else None,
            no_score if not scored else "No spiking stage has been scored yet.",
        ),
        _figure(
            run_dir / FIGURES / "learning.png",
            "Learning curves",
            "The line is the mean reward of the latest training episodes (random actions, and "
            "those of a teacher that plays along, included) and each dot a validation with greedy "
            "actions; dashed lines separate the stages.",
            draw_learning(run.points) if run.points else None,
            no_curve,
        ),
    ]


def _figure(path: Path, title: str, sentence: str, figure: Figure | None, lack: str) -> str:
    if figure is None:
        path.unlink(missing_ok=True)
        return f"## {title}\n\n{lack}"
    save_figure(figure, path)
    return f"## {title}\n\n![{title}]({FIGURES}/{path.name})\n\n{sentence}"


def _reproduce(run: RunRecord, name: str) -> str:
    provenance = [_mapping(card, "provenance") for card in run.cards.values()]
    commands = [str(p["command"]) for p in provenance if p.get("command")]
    train = list(dict.fromkeys(commands)) or [
        f"snn-rl train --config {shlex.quote(name + '/config.yaml')}"
    ]
    block = "\n".join([*train, _evaluate(name), f"snn-rl report {shlex.quote(name)}"])
    parts = ["## How to reproduce this", fenced(block, "sh" if not commands else "")]
    facts = [f"Seed {run.config['seed']}."] if "seed" in run.config else []
    if hardware := list(dict.fromkeys(str(p["hardware"]) for p in provenance if "hardware" in p)):
        facts.append(f"Trained on {escape(', '.join(hardware))}.")
    if provenance and (versions := _mapping(provenance[-1], "versions")):
        facts.append(escape(", ".join(f"{key} {value}" for key, value in versions.items())) + ".")
    facts.append("All settings are in `config.yaml` beside this file.")
    return "\n\n".join([*parts, " ".join(facts)])


def _use(run: RunRecord, name: str) -> str:
    saved = [stage for stage in run.cards if stage != "teacher"] or ["T1"]
    code = (
        "import snn_rl\n"
        f"agent = snn_rl.load_agent({json.dumps(f'{name}/{saved[-1]}', ensure_ascii=False)})\n"
        "action = agent.act(observation)  # agent.reset() before a new episode"
    )
    return f"## How to use the agent\n\n{fenced(code, 'python')}"


def _missing(file: str, what: str, command: str) -> str:
    return f"{what} cannot be shown: `{file}` is missing. Make it with\n\n{fenced(command, 'sh')}"


def _evaluate(name: str) -> str:
    return f"snn-rl evaluate --agent {shlex.quote(name)} --trials 20"


def _mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}
