"""Training from Python: one call for a whole run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snn_rl.agents.agent import Agent
from snn_rl.agents.config import TrainConfig, make_config
from snn_rl.agents.monitor import file_monitor
from snn_rl.agents.qnetwork import QNetworkFactory
from snn_rl.agents.results import run_folder, run_to_resume
from snn_rl.agents.run import Run
from snn_rl.agents.sources import settings_for
from snn_rl.core.surrogates import Surrogate
from snn_rl.envs import import_environments, split_id
from snn_rl.errors import SnnRlError
from snn_rl.runs.folder import RUNS
from snn_rl.runs.monitor import MonitorGroup, StopFlag
from snn_rl.runs.owner import remove_if_empty
from snn_rl.support.settings import plain


def train(
    config: TrainConfig | Mapping[str, Any] | str,
    *,
    preset: str | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    q_network: QNetworkFactory | None = None,
    surrogate: Surrogate | None = None,
) -> dict[str, Agent]:
    """Train ANN and spiking stages; returns the agents by stage: "ann", "T5", ... "T1".

    Args:
        config: an environment id (its preset, or defaults), settings on top of the preset of
            their "env", or a complete TrainConfig. Of an environment `module:id` the module is
            imported, but not where `resume` reads it from a file.
        preset: another preset of the environment than its first one, e.g. "paper" for Pong.
        run_dir: where everything is written; by default runs/<env>/<time>.
        resume: go on with a run that is in `run_dir` already; its own configuration counts.
        q_network: builds your own torch Q-network from (input shape, number of actions); it must
            be feed-forward with ReLU activations (see snn_rl.conversion.tracing.trace). It sees
            vectors as the environment gives them, where the default network's are scaled, so that
            weights trained elsewhere act as they did there.
        surrogate: gradient of the spikes, instead of the one that `neurons` names.

    Raises:
        SnnRlError, UnsupportedEnvironment: bad configuration, environment or network, or a folder
            that already holds a run
            (or, with `resume`, holds none).
        Interrupted: SIGINT or SIGTERM arrived; finished stages are saved.
    """
    if resume:
        folder, settings, _ = run_to_resume(Path(run_dir) if run_dir else None)
        return _train(folder, settings, True, q_network, surrogate)
    if isinstance(config, str):
        config = {"env": config}
    if not isinstance(config, TrainConfig | Mapping):
        raise SnnRlError(
            f"train takes the id of an environment, or settings, not {type(config).__name__}: "
            "register the environment with Gymnasium and name its id"
        )
    env_id = config.env if isinstance(config, TrainConfig) else str(config.get("env", ""))
    if module := split_id(env_id)[0]:
        import_environments(module)
    if not isinstance(config, TrainConfig):
        config = make_config(settings_for(plain(config), preset))
    folder = run_folder(run_dir, config.env)
    try:
        return _train(folder, config, False, q_network, surrogate)
    finally:
        if run_dir is None:
            remove_if_empty(folder, RUNS)


def _train(
    folder: Path,
    config: TrainConfig,
    resume: bool,
    q_network: QNetworkFactory | None,
    surrogate: Surrogate | None,
) -> dict[str, Agent]:
    stop, files = StopFlag(), file_monitor(folder)
    try:
        with stop.on_signals():
            monitor = MonitorGroup([files], stop)
            own: dict[str, Any] = {"q_network": q_network, "surrogate": surrogate}
            return Run(config, folder, monitor, fresh=not resume, **own).train()
    finally:
        files.close()
