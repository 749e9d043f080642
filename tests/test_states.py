"""States of a run in its folder: written whole, read as they were, refused where damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from snn_rl.agents.dqn.replay import SegmentReplay
from snn_rl.errors import CheckpointError
from snn_rl.runs import resume
from snn_rl.runs.resume import STATE, Saver, read_state, write_state


def test_a_replay_keeps_what_the_last_save_needs() -> None:
    replay = SegmentReplay(1, 10, (1,), pixels=False, spare=4)
    replay.written = 10
    assert replay.keeps(10, 4)
    assert not replay.keeps(10, 5)
    replay.written = 3
    assert replay.keeps(3, 11)
    assert not replay.keeps(3, 12)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = {
        "number": 0.1 + 0.2, "nothing": None, "least": -float("inf"), "big": 2**127,
        "list": [1, 2], "nested": {"a.b": np.arange(3), "state": (torch.ones(2, 1), torch.eye(2))},
        "empty": {},
    }  # fmt: skip
    saver = Saver(tmp_path / "resume", every=0.0)
    saver.save(state, lambda: None)
    saver.wait()
    found = saver.load()
    assert found is not None
    assert {k: found[k] for k in ("number", "nothing", "least", "big", "list", "empty")} == {
        k: state[k] for k in ("number", "nothing", "least", "big", "list", "empty")
    }
    assert found["nested"]["a.b"].tolist() == [0, 1, 2]
    assert torch.equal(found["nested"]["state"][1], torch.eye(2))


def test_a_failed_save_is_told_and_leaves_the_last_one(tmp_path: Path) -> None:
    saver = Saver(tmp_path, every=0.0)
    saver.save({"steps": 1}, lambda: None)
    saver.wait()

    def full() -> None:
        raise OSError(28, "No space left on device")

    saver.save({"steps": 2}, full)
    with pytest.raises(OSError, match="No space left"):
        saver.wait()
    assert saver.load() == {"steps": 1}
    saver.wait()  # told once


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    write_state(tmp_path / STATE, {"items": {}}, {})
    whole = (tmp_path / STATE).read_bytes()
    for damaged in (b"", whole[:-3], b"\x00" * 40, whole.replace(b"items", b"itmes")):
        (tmp_path / STATE).write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged: remove"):
            read_state(tmp_path / STATE)


def test_a_state_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "VERSION", "0")
    write_state(tmp_path / STATE, {"items": {}}, {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="saved by another version"):
        read_state(tmp_path / STATE)
