"""Seconds from the start of a process to an agent's first action, by either engine.

    python benchmarks/start_up.py [--agent zoo:ENV/STAGE] [--repeats 5]

Every time is that of a new process, the engine compiled and the files read before; engines take
turns. Prints the median of each, its parts, and whether torch was loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise

ACTING = """
import json, sys, time
marks = [time.time()]
import numpy as np
import snn_rl
marks.append(time.time())
agent = snn_rl.load_agent(sys.argv[1], sys.argv[2])
marks.append(time.time())
frame = np.zeros(agent.pipeline.frame_shape, np.uint8 if agent.pipeline.pixels else np.float32)
agent.act(frame)
marks.append(time.time())
found = {"marks": marks, "processor": time.process_time(), "torch": "torch" in sys.modules}
print(json.dumps(found))
"""
PARTS = ("interpreter", "imports", "loading", "first action", "processor's time of all")


def first_action(source: str, engine: str) -> tuple[list[float], bool]:
    """Seconds of the parts and of the processor's time, and whether torch was loaded."""
    began = time.time()
    command = [sys.executable, "-c", ACTING, source, engine]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    marks = [began, *found["marks"]]
    parts = [b - a for a, b in pairwise(marks)]
    return [*parts, found["processor"]], found["torch"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agent", default="zoo:PongNoFrameskip-v4/T1")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    engines = ("event", "torch")
    times: dict[str, list[list[float]]] = {engine: [] for engine in engines}
    loaded: dict[str, bool] = {}
    for repeat in range(options.repeats + 1):  # the first one fills the caches
        for engine in engines:
            parts, loaded[engine] = first_action(options.agent, engine)
            if repeat:
                times[engine].append(parts)
    for engine, found in times.items():
        whole = statistics.median(sum(parts[:-1]) for parts in found)
        medians = [statistics.median(part) for part in zip(*found, strict=True)]
        told = ", ".join(f"{name} {s:.2f}" for name, s in zip(PARTS, medians, strict=True))
        torch = "with" if loaded[engine] else "without"
        print(f"{engine}: {whole:.2f} s ({told}), {torch} torch")


if __name__ == "__main__":
    main()
