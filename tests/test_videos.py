"""Videos of play: their formats, what interrupts them, what cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from snn_rl.agents.show.outputs import open_screen
from snn_rl.errors import SnnRlError


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """A white square that moves over a colourful ground."""
    ground = np.full((60, 80, 3), (20, 60, 120), np.uint8)
    frames = [ground.copy() for _ in range(count)]
    for i, frame in enumerate(frames):
        frame[20:40, 2 * i : 2 * i + 20] = 255
    return frames


def record(path: Path, count: int, fps: float = 20, scale: float | None = 1.0) -> None:
    with open_screen(path, (80, 60), fps, scale=scale) as screen:
        assert all([screen.show(frame) for frame in pictures(count)])


def mp4_frames(path: Path) -> list[NDArray[Any]]:
    reader = cv2.VideoCapture(str(path))
    frames = []
    while (read := reader.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames


def test_mp4(tmp_path: Path) -> None:
    record(tmp_path / "a.mp4", 12)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    frames = mp4_frames(tmp_path / "a.mp4")
    assert len(frames) == 12
    for frame, shown in zip(frames, pictures(12), strict=True):
        assert np.abs(frame.astype(int) - shown).mean() < 12
    assert cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FPS) == 20
    record(tmp_path / "A.MP4", 2, scale=0.33)
    assert mp4_frames(tmp_path / "A.MP4")[0].shape == (20, 26, 3)


def test_gif(tmp_path: Path) -> None:
    record(tmp_path / "a.gif", 12)
    assert [file.name for file in tmp_path.iterdir()] == ["a.gif"]
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (12, (80, 60), 50)
        for i, shown in enumerate(pictures(12)):
            gif.seek(i)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - shown).max() < 12
    record(tmp_path / "a.gif", 12, fps=50, scale=None)
    with Image.open(tmp_path / "a.gif") as gif:  # every third one, at half the size
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (4, (40, 30), 60)


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_only_interruptions_leave_a_video(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with pytest.raises(RuntimeError), open_screen(path, (80, 60), 20) as screen:
        screen.show(pictures(1)[0])
        raise RuntimeError
    with open_screen(path, (80, 60), 20):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), open_screen(path, (80, 60), 20) as screen:
        screen.show(pictures(1)[0])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.gif").mkdir()
    refusals = {
        "a.avi": "ends in .mp4 or .gif, but 'a.avi' does not",
        "none": "ends in .mp4 or .gif, but 'none' does not",
        "missing/a.gif": "missing/a.gif cannot be written: No such file or directory",
        "missing/a.mp4": "missing/a.mp4 cannot be written: No such file or directory",
        "folder.gif": "folder.gif is a folder",
    }
    for name, message in refusals.items():
        with pytest.raises(SnnRlError, match=message):
            open_screen(tmp_path / name, (80, 60), 20)
    assert [file.name for file in tmp_path.iterdir()] == ["folder.gif"]
