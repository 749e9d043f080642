"""Whether an agent that acts for long takes more and more memory or time.

    python benchmarks/long_acting.py [--acts 200000] [--agent zoo:ENV/STAGE]

The agent acts on frames of its own play, over and over. Prints resident memory and the time of a
decision (median, p99) after every tenth of the acts; exit status 1 if memory grew by more than 1 MB
after the first tenth. Tell the p99 from a window in which nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np
import torch

from snn_rl.agents.bench.act import record
from snn_rl.agents.loading import load_agent

FRAMES, PARTS = 1000, 10
MOST_GROWTH = 1.0
"""Megabytes."""


def resident() -> float:
    """Megabytes of this process that lie in memory (Linux)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """Act and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--acts", type=int, default=200_000)
    parser.add_argument("--agent", default="zoo:PongNoFrameskip-v4/T1")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seen = record(load_agent(options.agent), FRAMES)
    agent = load_agent(options.agent, "event")
    times = np.zeros(options.acts // PARTS)
    sizes = []
    for part in range(PARTS):
        for i in range(len(times)):
            frame = seen[i % FRAMES]
            began = time.perf_counter()
            agent.act(frame)
            times[i] = time.perf_counter() - began
        sizes.append(resident())
        median, high = 1e6 * np.percentile(times, [50, 99])
        print(
            f"{(part + 1) * len(times):,} acts: {sizes[-1]:.1f} MB, median {median:.1f} µs, "
            f"p99 {high:.1f} µs ({high / median:.1f} times), load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    return 0 if sizes[-1] - sizes[0] <= MOST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
