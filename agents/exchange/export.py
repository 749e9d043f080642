"""Agents to other runtimes: the file, a golden trace beside it, and how exact it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from snn_rl.agents.acting import EventPolicy
from snn_rl.agents.agent import Agent
from snn_rl.agents.exchange.recording import exportable, record
from snn_rl.errors import SnnRlError
from snn_rl.exchange.c_files import compiler, headers, is_export, lowered, self_test, write_c
from snn_rl.exchange.c_tables import Recipe
from snn_rl.exchange.golden import Step, replay
from snn_rl.exchange.nir_files import export_nir
from snn_rl.exchange.norse_runtime import need_norse, norse_step
from snn_rl.exchange.one_frame import OneFrame
from snn_rl.exchange.onnx_files import (
    export_onnx,
    need_onnx_runtime,
    onnx_step,
    program_step,
)

Target = Literal["onnx", "nir", "c"]
TRACE_FRAMES = 1000
TRACE = ".trace.npz"
EXACT = "exact, since weights lie on the grid (--check replays the trace)"
ROUNDED = "approximate: an ANN agrees to rounding (--check says how far)"
RECOMPUTED = "approximate: readers recompute leaks from time constants (--check says how far)"


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        files: the export itself first, its golden trace last.
        verdicts: one sentence per runtime: "exact: ..." or "approximate: ...".
        remarks: one sentence each on what the format cannot say.
    """

    files: tuple[Path, ...]
    verdicts: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Runtime:
    """Runs one of the written files."""

    name: str
    file: Path
    step: Callable[[Path, OneFrame], Step]


def export(
    agent: Agent,
    path: str | Path,
    to: Target = "onnx",
    *,
    check: bool = False,
    frames: int = TRACE_FRAMES,
) -> Exported:
    """Write `agent` for another runtime, with a golden trace of its real play.

    Args:
        path: of the file, e.g. agent.onnx (agent.pt2, of torch.export, comes with it), agent.nir or
            agent.c (agent.h and the self-test's agent_trace.h come with it); agent.trace.npz comes
            beside.
        check: replay the trace in the target's own runtime; for C, compile and run the self-test.
        frames: length of the trace.

    Raises:
        SnnRlError: the agent or the target's packages stand in the way; one sentence.
    """
    path = Path(path)
    if to not in get_args(Target):
        raise SnnRlError(f"there is no export to {to!r}; there is {', '.join(get_args(Target))}")
    if path.suffix != f".{to}":
        raise SnnRlError(f"{path} should end in .{to}: choose another --out")
    _check_places(path, to)
    if to == "c":
        return _export_c(agent, path, check, frames)
    if check:  # before anything is written
        need_norse() if to == "nir" else need_onnx_runtime()
    model = exportable(agent)
    remarks: tuple[str, ...] = ()
    if to == "nir":
        remarks = export_nir(model, path)
        runtimes = [_Runtime("Norse", path, norse_step)]
        expected = RECOMPUTED
    else:
        export_onnx(model, path)
        program = path.with_suffix(".pt2")
        runtimes = [
            _Runtime("ONNX Runtime", path, onnx_step),
            _Runtime("torch.export", program, program_step),
        ]
        expected = EXACT if model.network.spiking else ROUNDED
    network, trace, kept = model.one_frame(), record(agent, frames), path.with_suffix(TRACE)
    trace.save(kept)
    files = (*(runtime.file for runtime in runtimes), kept)
    if not check:
        return Exported(files, (expected,), remarks)
    verdicts = tuple(
        f"{runtime.name}: {replay(trace, runtime.step(runtime.file, network))}"
        for runtime in runtimes
    )
    return Exported(files, verdicts, remarks)


def _check_places(path: Path, to: Target) -> None:
    """An export writes over what `path` names, and over what an earlier one wrote beside it.

    Raises:
        SnnRlError: `path` is a folder, or another's file has the name of one that comes with it.
    """
    if path.is_dir():
        raise SnnRlError(f"{path} is a folder: choose another --out")
    before = any(path.with_suffix(f".{kind}").exists() for kind in get_args(Target))
    others = {"onnx": [path.with_suffix(".pt2")], "nir": [], "c": headers(path)}[to]
    taken = [file for file in others if file.exists() and not (before and is_export(file))]
    if not before and path.with_suffix(TRACE).exists():
        taken.append(path.with_suffix(TRACE))
    if taken:
        raise SnnRlError(
            f"{taken[0]} would be written over and is no earlier export's: choose another --out"
        )


def _export_c(agent: Agent, path: Path, check: bool, frames: int) -> Exported:
    command = compiler() if check else []
    recipe, trace, kept = recipe_of(agent), record(agent, frames), path.with_suffix(TRACE)
    files = (*write_c(recipe, trace, path), kept)
    trace.save(kept)
    if not check:
        return Exported(files, (EXACT,))
    passed, said = self_test(path, command)
    verdict = f"exact: {frames} frames with the same Q-values, bit for bit" if passed else said
    return Exported(files, (f"C, {command[0]}: {verdict}",))


def recipe_of(agent: Agent) -> Recipe:
    """What of an agent goes to C.

    Raises:
        SnnRlError: it is an ANN, or the layer that C cannot run bit for bit.
    """
    actor, stage = agent.actor, agent.card.get("stage")
    if not actor.spiking:
        raise SnnRlError(
            f"stage {stage} is no spiking network, and C runs spikes alone: choose a stage such "
            "as T1, or --to onnx"
        )
    scale = () if actor.privileged else agent.pipeline.scale
    if isinstance(actor, EventPolicy):
        plan = actor.runner.plan
    else:
        plan = lowered(agent.policy.network, actor.timesteps)
    title = f"snn-rl agent {stage} for {agent.env_id}"
    return Recipe(plan, actor.timesteps, actor.carry_membrane, scale, title)
