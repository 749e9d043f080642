"""Agents to other runtimes: the file, a golden trace beside it, and how exact it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from snn_rl.agents.agent import Agent
from snn_rl.errors import SnnRlError
from snn_rl.exchange.golden import Step, record, replay
from snn_rl.exchange.one_frame import OneFrame, one_frame
from snn_rl.exchange.onnx_files import export_onnx, onnx_step, program_step

Target = Literal["onnx"]
TRACE_FRAMES = 1000
TRACE = ".trace.npz"


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        files: the export itself first, its golden trace last.
        verdicts: one sentence per runtime: "exact: ..." or "approximate: ...".
    """

    files: tuple[Path, ...]
    verdicts: tuple[str, ...]


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
        path: of the file, e.g. agent.onnx; agent.pt2 (torch.export) and agent.trace.npz come with
            it.
        check: replay the trace in the target's own runtime.
        frames: length of the trace.

    Raises:
        SnnRlError: the agent or the target's packages stand in the way; one sentence.
    """
    path = Path(path)
    if to not in get_args(Target):
        raise SnnRlError(f"there is no export to {to!r}; there is {', '.join(get_args(Target))}")
    if path.suffix != f".{to}":
        raise SnnRlError(f"{path} should end in .{to}: choose another --out")
    network = one_frame(agent)
    trace = record(agent, frames)
    export_onnx(agent, path)
    program, kept = path.with_suffix(".pt2"), path.with_suffix(TRACE)
    trace.save(kept)
    if not check:
        return Exported((path, program, kept), (_expected(agent),))
    runtimes: dict[str, Callable[[Path, OneFrame], Step]] = {
        "ONNX Runtime": onnx_step,
        "torch.export": program_step,
    }
    verdicts = tuple(
        f"{name}: {replay(trace, runtime(file, network), network)}"
        for (name, runtime), file in zip(runtimes.items(), (path, program), strict=True)
    )
    return Exported((path, program, kept), verdicts)


def _expected(agent: Agent) -> str:
    if agent.policy.network.spiking:
        return "exact, since weights lie on the grid (--check replays the trace)"
    return "approximate: an ANN agrees to rounding (--check says how far)"
