"""Records of a run on disk: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from snn_rl.agents.evaluation import Evaluation
from snn_rl.agents.progress import Progress
from snn_rl.monitor import Records


class FileMonitor:
    """Writes metrics.jsonl (one line a second at most, and every validation) and TensorBoard."""

    def __init__(self, folder: Path, seconds_between: float = 1.0) -> None:
        self.records, self.pause = Records(folder, "steps"), seconds_between
        self.written = 0.0

    def progress(self, progress: Progress) -> None:
        """Write a line unless the last one is too fresh."""
        if time.monotonic() - self.written >= self.pause:
            self._write(progress, None)

    def validated(self, progress: Progress, evaluation: Evaluation) -> None:
        """Write the validation's mean and the layers' spike rates."""
        self._write(progress, evaluation)

    def should_stop(self) -> bool:
        """Files never stop a run."""
        return False

    def close(self) -> None:
        """Flush and close the files."""
        self.records.close()

    def _write(self, progress: Progress, evaluation: Evaluation | None) -> None:
        self.written = time.monotonic()
        values = {f"loss/{name}": value for name, value in progress.metrics.items()}
        values["rollout/epsilon"] = progress.epsilon
        values["rollout/steps_per_second"] = progress.steps / max(progress.seconds, 1e-9)
        if progress.mean_reward is not None:
            values["rollout/mean_reward"] = progress.mean_reward
        if evaluation is not None:
            values["validation/mean_reward"] = evaluation.mean
            values |= {f"spike_rate/{n}": rate for n, rate in evaluation.spike_rates.items()}
        validation = None if evaluation is None else evaluation.mean
        self.records.add(asdict(progress) | {"validation": validation}, values)
