"""Event-driven inference: reading without torch, and where a spike's weights land."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_rl.agents.loading import find_agent, zoo
from snn_rl.inference.positions import Window, position_table, segment_table
from snn_rl.inference.reader import read
from snn_rl.runs import checkpoint

BLOCKED = """
import sys
from pathlib import Path
for name in ("torch", "gymnasium"):
    sys.modules[name] = None  # importing it raises ImportError
from snn_rl.inference.reader import read
card, weights = read(Path(sys.argv[1]))
print(card["timesteps"], len(weights))
"""


@pytest.mark.parametrize("name", zoo())
def test_the_reader_gives_the_weights_that_torch_loads(name: str) -> None:
    folder = find_agent(f"zoo:{name}")
    card, weights = read(folder)
    network, torch_card = checkpoint.load(folder)
    assert card == torch_card
    state = {key.removeprefix("layers."): v for key, v in network.state_dict().items()}
    assert weights.keys() == state.keys()
    for key, value in state.items():
        assert weights[key].shape == tuple(value.shape)
        assert np.array_equal(weights[key], value.numpy())


def test_reading_needs_neither_torch_nor_gymnasium() -> None:
    folder: Path = find_agent("zoo:CartPole-v1/T1")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(folder)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "1"


pair = st.tuples
small = st.integers(1, 3)


@settings(max_examples=100, deadline=None)
@given(
    kernel=pair(small, small),
    stride=pair(small, small),
    padding=pair(st.integers(0, 2), st.integers(0, 2)),
    dilation=pair(st.integers(1, 2), st.integers(1, 2)),
    size=pair(st.integers(5, 8), st.integers(5, 8)),
    groups=st.integers(1, 2),
    channels=pair(small, small),
    seed=st.integers(0, 99),
)
def test_scattering_spikes_by_the_table_is_the_convolution(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
    groups: int,
    channels: tuple[int, int],
    seed: int,
) -> None:
    per_group, row = channels
    rng = np.random.default_rng(seed)
    shape = (groups * row, per_group, *kernel)
    weight = rng.integers(-50, 50, shape).astype(np.float32)
    spikes = (rng.random((groups * per_group, *size)) < 0.3).astype(np.float32)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(spikes)[None], torch.from_numpy(weight), None, stride, padding, dilation,
        groups,
    )[0].numpy()  # fmt: skip
    out = (expected.shape[1], expected.shape[2])
    window = Window(size, out, kernel, stride, padding, dilation)
    table = position_table(window, row, groups * row, 0).astype(int)
    rows = weight.reshape(groups, row, per_group, *kernel).transpose(0, 2, 3, 4, 1)
    rows = rows[:, :, :, window.columns].ravel()
    total = np.zeros(out[0] * out[1] * groups * row, np.float32)
    for c, y, x in np.argwhere(spikes > 0):
        y_from, y_to, x_from, x_to = table[4 * (y * size[1] + x) :][:4]
        for i, j in product(range(y_from, y_to, 2), range(x_from, x_to, 3)):
            w = c * window.area * row + table[i] + table[j]
            at = c // per_group * row + table[i + 1] + table[j + 1]
            length = table[j + 2]
            total[at : at + length] += rows[w : w + length]
    assert np.array_equal(total.reshape(*out, groups * row).transpose(2, 0, 1), expected)
    if groups == 1:
        assert np.array_equal(_gathered(window, weight, spikes), expected)


def _gathered(window: Window, weight: Any, spikes: Any) -> Any:
    """The same by segments: for each output position the rows of the spikes that it sees."""
    out_channels, channels = weight.shape[:2]
    rows = weight.transpose(2, 3, 1, 0).reshape(-1, out_channels)
    lying = np.flatnonzero(spikes.transpose(1, 2, 0))
    table = segment_table(window, channels, 7)
    total = np.zeros((window.out[0] * window.out[1], out_channels), np.float32)
    for o in range(len(total)):
        first, last = table[2 * o : 2 * o + 2].astype(int) - 7
        for begin, end, shift in table[first:last].reshape(-1, 3):
            seen = lying[(lying // channels >= begin) & (lying // channels < end)]
            total[o] += rows[(seen + shift.astype(int)) % 2**32].sum(0)
    return total.reshape(*window.out, out_channels).transpose(2, 0, 1)


def test_rows_that_lie_side_by_side_are_one_run() -> None:
    plain = Window((9, 9), (7, 7), (3, 3), (1, 1), (0, 0), (1, 1))
    strided = Window((20, 20), (9, 9), (4, 4), (2, 2), (0, 0), (1, 1))
    for window, position, length in ((plain, 4 * 9 + 4, 3 * 64), (strided, 6 * 20 + 6, 2 * 64)):
        table = position_table(window, 64, 64, 0)
        x_from, x_to = table[4 * position + 2 : 4 * position + 4]
        assert x_to - x_from == 3
        assert table[x_from + 2] == length
