"""A training run's progress in the terminal: bars, or plain lines where it is no terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from snn_rl.agents.evaluation import Evaluation
    from snn_rl.agents.monitor import Progress as StageProgress

SECONDS_BETWEEN_LINES = 5.0


class ConsoleMonitor:
    """One progress bar per stage; plain lines where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("[bold]{task.description:>7}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self.live = console.is_terminal
        self.task: TaskID | None = None
        self.stage = ""
        self.printed = 0.0

    def __enter__(self) -> ConsoleMonitor:
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def progress(self, progress: StageProgress) -> None:
        """Move the stage's bar, or print a line now and then."""
        if self.live:
            self._move(progress)
        elif time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES:
            self._print(progress)

    def validated(self, progress: StageProgress, evaluation: Evaluation) -> None:
        """Show the validation."""
        if self.live:
            self._move(progress, evaluation.mean)
        else:
            self._print(progress, evaluation.mean)

    def should_stop(self) -> bool:
        """The console never stops a run."""
        return False

    def _move(self, progress: StageProgress, validation: float | None = None) -> None:
        if progress.stage != self.stage:
            self.stage = progress.stage
            self.task = self.bars.add_task(progress.stage, total=progress.total_steps, text="")
        if self.task is not None:
            text = describe(progress, validation)
            self.bars.update(self.task, completed=progress.steps, text=text)

    def _print(self, progress: StageProgress, validation: float | None = None) -> None:
        self.printed = time.monotonic()
        rate = progress.steps / max(progress.seconds, 1e-9)
        left = max(0, progress.total_steps - progress.steps) / max(rate, 1e-9)
        done = min(100.0, 100 * progress.steps / progress.total_steps)
        self.console.print(
            f"{progress.stage:>7} {done:3.0f}%  "
            f"{describe(progress, validation)}  at most {left:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )


def describe(progress: StageProgress, validation: float | None = None) -> str:
    """Steps, speed, exploration, reward, spike rate and validation in one line."""
    parts = [
        f"{progress.steps:,} steps",
        f"{progress.steps / max(progress.seconds, 1e-9):,.0f}/s",
        f"ε {progress.epsilon:.2f}",
    ]
    if progress.mean_reward is not None:
        parts.append(f"reward {progress.mean_reward:.1f}")
    if "spike_rate" in progress.metrics:
        parts.append(f"spikes {progress.metrics['spike_rate']:.3f}")
    validation = progress.validation if validation is None else validation
    if validation is not None:
        parts.append(f"validation {validation:.1f}")
    return "  ".join(parts)
