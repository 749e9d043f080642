"""Whether the C export gives torch's Q-values on real play bit for bit, and how fast it decides.

    python benchmarks/c_export.py [--frames 10000] [--agent zoo:ENV/STAGE ...] [--sanitize]
    python benchmarks/c_export.py --time [--frames 3000] [--agent zoo:ENV/STAGE ...] [--rival ANN]

The first writes every agent with a golden trace of so many frames and runs its self-test as gcc and
clang build it, warnings being errors, at each set of flags (or with the sanitizers): one line each,
exit status 0 if every bit of every Q-value was the same. The second measures, one thread and
contenders in turns: C as compiled for this processor and for AVX2, the Python engine, and, where it
is installed, ONNX Runtime on the rival, by default the ANN that ships with the agent (it uses all
that the processor has).
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_rl.agents.bench import act, onnx_ann
from snn_rl.agents.bench.runtimes import runs, stacked
from snn_rl.agents.exchange.export import recipe_of
from snn_rl.agents.exchange.recording import record
from snn_rl.agents.loading import load_agent, zoo
from snn_rl.exchange.c_files import self_test, write_c
from snn_rl.exchange.golden import Trace
from snn_rl.runs.provenance import processor, processor_flags

COMPILERS = ("gcc", "clang")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
EXACT = (("-O0",), ("-O3",), ("-O3", "-march=native"))
SANITISED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ONNX = "ONNX Runtime fp32, ANN"
TIMED = ("-march=native", "-march=x86-64-v3")


def exact(source: str, frames: int, ways: Sequence[tuple[str, ...]]) -> bool:
    """Run an agent's self-test in every way, sets of flags; whether all passed."""
    agent, all_passed = load_agent(source), True
    with tempfile.TemporaryDirectory() as folder:
        path = write_c(recipe_of(agent), record(agent, frames), Path(folder) / "agent.c")[0]
        for compiler in COMPILERS:
            for flags in ways:
                passed, said = self_test(path, [compiler], (*STRICT, *flags))
                all_passed &= passed
                print(f"{source}, {compiler} {' '.join(flags)}: {said}", flush=True)
    return all_passed


def times(source: str, rival: str, frames: int) -> None:
    """Print microseconds per decision."""
    agent = load_agent(source, "event")
    golden = record(agent, frames)
    frames_seen = golden.frames
    encoded = agent.pipeline.encode(frames_seen)
    actor, start = agent.actor, np.zeros(1, np.bool_)
    memory = [actor.initial_state(1)]

    def engine(i: int) -> None:
        _, memory[0] = actor.q_values(encoded[i : i + 1], memory[0], start)

    with tempfile.TemporaryDirectory() as folder:
        decide: dict[str, act.Decide] = {"Python engine": engine}
        for compiler in COMPILERS:
            for flag in TIMED:
                decide[f"C, {compiler} -O3 {flag}"] = _compiled(
                    source, golden, Path(folder), compiler, flag
                )
        if onnx_ann.available():
            network = load_agent(rival, "torch").policy.network
            model = runs(onnx_ann.ann_model(network), network.nodes[0].name)
            inputs = [onnx_ann.as_input(network, x) for x in stacked(encoded, network.stack)]
            decide[ONNX] = lambda i: model(inputs[i])
        found = act.interleaved(decide, frames)
    flags = ", ".join(flag for flag in ("avx2", "avx512f") if flag in processor_flags())
    print(f"{source} on {processor()} ({flags}), microseconds per decision, median of {frames}")
    medians = {name: float(np.median(taken)) for name, taken in found.items()}
    for name, median in medians.items():
        faster = ", ".join(
            f"{other / median:.1f} x {label}" for label, other in _compared(medians).items()
        )
        print(f"  {name}: {median:.1f} ({faster})", flush=True)


def _compared(medians: dict[str, float]) -> dict[str, float]:
    """What ratios are taken of."""
    named = {"the engine's speed": "Python engine", "ONNX Runtime's": ONNX}
    return {label: medians[name] for label, name in named.items() if name in medians}


def _compiled(source: str, golden: Trace, folder: Path, compiler: str, flag: str) -> act.Decide:
    """The export as a shared library, called on the trace's frames."""
    path = folder / f"{compiler}{flag}".replace("=", "") / "agent.c"
    write_c(recipe_of(load_agent(source)), golden, path)
    library = path.with_suffix(".so")
    line = [compiler, *STRICT, "-O3", flag, "-ffp-contract=off", "-shared", "-fPIC", str(path)]
    subprocess.run([*line, "-o", str(library)], check=True)
    loaded: Any = ctypes.CDLL(str(library))
    (memory,) = (
        int(line.split()[2])
        for line in path.with_suffix(".h").read_text().splitlines()
        if line.startswith("#define SNN_MEMORY ")
    )
    room, q = np.zeros(memory + 64, np.uint8), np.zeros(golden.q.shape[1], np.float32)
    agent = ctypes.c_void_p(-(-room.ctypes.data // 64) * 64)
    loaded.snn_reset(agent)
    at = [ctypes.c_void_p(frame.ctypes.data) for frame in golden.frames]
    values = ctypes.c_void_p(q.ctypes.data)

    def decide(i: int) -> Any:
        return room, q, loaded.snn_act(agent, at[i], values)

    return decide


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare or measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int)
    parser.add_argument("--agent", action="append")
    parser.add_argument("--rival")
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sources = options.agent or [
        f"zoo:{name}" for name in zoo() if load_agent(f"zoo:{name}", "torch").actor.spiking
    ]
    if options.time:
        for source in sources:
            rival = options.rival or f"{source.rpartition('/')[0]}/ann"
            times(source, rival, options.frames or 3000)
        return 0
    all_passed, ways = True, (SANITISED,) if options.sanitize else EXACT
    for source in sources:
        began = time.monotonic()
        all_passed &= exact(source, options.frames or 10_000, ways)
        print(f"{source}: {time.monotonic() - began:.0f} s", flush=True)
    return 0 if all_passed else 1


if __name__ == "__main__":
    sys.exit(main())
