"""The comparisons in benchmarks/: the GRU rival, intervals, and tiny runs that are reused."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from sweeps import generation, saved, wait_until

from snn_rl.agents.loading import load_agent
from snn_rl.agents.sweep import api
from snn_rl.agents.sweep.scheduler import Ending
from snn_rl.agents.sweep.worker import train_cell
from snn_rl.errors import SnnRlError
from snn_rl.runs.monitor import StopFlag

FOLDER = Path(__file__).parents[1] / "benchmarks"


STAGE = "steps: 64, num_envs: 4, rollout: 8, updates: 2"


Q_LEARNING = "steps: 128, num_envs: 4, rollout: 8, replay: 256, learning_starts: 64, batch: 8"


TINY = [
    *("--env", "PositionOnlyCartPole-v1", "--trials", "2", "--set", "hidden=[8]"),
    *("--set", "validation={episodes: 2, every: 10000, target: null}", "--set", "timesteps=1"),
    *("--set", f"privileged={{{Q_LEARNING}, n_step: 3}}"),
    *("--set", f"ann={{{STAGE}}}", "--set", f"spiking={{{STAGE}}}"),
]


class Here:
    """Trains cells in this process, without the seconds that a process of its own takes to start;
    `trained` names their folders."""

    trained: ClassVar[list[Path]] = []

    def __init__(self, count: int, modules: Sequence[str]) -> None:
        self.over: list[Path] = []
        self.trained.clear()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def free(self) -> bool:
        return not self.over

    def start(self, folder: Path) -> None:
        train_cell(folder, lambda: False)
        self.over.append(folder)
        self.trained.append(folder)

    def ended(self) -> list[tuple[Path, Ending]]:
        over, self.over = self.over, []
        return [(folder, Ending("done")) for folder in over]

    def stop(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> type[Here]:
    monkeypatch.setattr(api, "LocalWorkers", Here)
    return Here


def load(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """The scripts import each other as they do when they are run."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def run(name: str, *arguments: str) -> int:
    script = load(name)
    options = script.parser().parse_args(arguments)
    status: int = load("comparing").run_script(lambda: script.main(options))
    return status


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_confidence_interval() -> None:
    half_width = load("comparing").half_width
    # 1, 2, 3: deviation 1, t of two degrees of freedom 4.303, over the root of 3.
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))
    assert half_width([5.0, 5.0]) == 0
    assert math.isnan(half_width([5.0]))
    assert half_width([0.0, 1.0] * 50) == pytest.approx(2.042 * 0.502519 / 10, rel=1e-5)


def test_cells_of_one_and_of_several_seeds() -> None:
    score = load("comparing").score
    one, other = ({"mean_reward": m, "std_reward": 7.0} for m in (1.0, 3.0))
    assert score([]) == "–"
    assert score([one]) == "1.0 ± 7.0"
    assert score([one, other]) == "2.0 ± 12.7"


def test_differences_are_taken_seed_by_seed() -> None:
    difference = load("comparing").difference
    ours, others = (
        [{"seed": seed, "mean_reward": mean} for seed, mean in pairs]
        for pairs in ([(0, 1.0), (1, 12.0), (2, 50.0)], [(1, 10.0), (0, 0.0), (3, 7.0)])
    )
    assert difference(ours, others) == "+1.5 ± 6.4"  # of 1 and 2: 12.706 · 0.7071 / √2
    assert difference(ours[:1], others) == "–"


def test_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str], here: type[Here]) -> None:
    """All variants; what is finished is reused, and what is new joins it."""
    command = [*TINY, "--out", str(tmp_path), "--conditions", "plain", "flicker 0.5"]
    assert run("memory", *command) == 0
    table = capsys.readouterr().out
    found = rows(tmp_path / "memory.json")
    names = list(dict.fromkeys(row["variant"] for row in found))
    assert len(found) == 2 * len(names) and len(names) == 4 + 3
    assert (tmp_path / "memory.md").read_text(encoding="utf-8") == table
    assert all(row["teacher"] == "full_state" for row in found if row["variant"] != "teacher")
    steps = {row["variant"]: row["steps"] for row in found}
    assert (steps["GRU, one frame"], steps["ANN, four frames"]) == (64, 64)
    assert (steps["T1 carried"], steps["T1 zeroed at test"]) == (128, 128)

    more = ["--variants", "GRU, one frame", "--agent", f"T1 again={tmp_path}/carried/seed0/T1"]
    assert run("memory", *command, *more) == 0
    text = capsys.readouterr()
    again = rows(tmp_path / "memory.json")
    assert "training" not in text.err and text.err.count("evaluating") == 2
    assert again[: len(found)] == found
    (plain, _) = again[len(found) :]
    assert plain["rewards"] == found[names.index("T1 carried") * 2]["rewards"]

    assert run("memory", *command, "--set", "hidden=[9]") == 1
    assert "holds a run with other settings (hidden)" in capsys.readouterr().err


def test_a_stopped_gru_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are then those of a run left in peace."""
    command = [*TINY, "--set", "save_every=0", "--conditions", "plain"]
    teacher = str(FOLDER.parent / "agents" / "zoo" / "PositionOnlyCartPole-v1" / "T5")
    command += ["--teacher", teacher, "--variants", "GRU, one frame"]
    assert run("memory", *command, "--out", str(tmp_path / "peace")) == 0

    class Stopping(StopFlag):
        """Raised as if by a signal after the first roll-out."""

        @property
        def raised(self) -> bool:
            self.asked = getattr(self, "asked", 0) + 1
            return self.asked > 1

        @raised.setter
        def raised(self, value: bool) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr(load("gru"), "StopFlag", Stopping)
        assert run("memory", *command, "--out", str(tmp_path / "stopped")) == 130
    folder = tmp_path / "stopped" / "gru" / "seed0"
    assert (folder / "resume").exists() and not (folder / "gru").exists()
    assert run("memory", *command, "--out", str(tmp_path / "stopped")) == 0
    saver = load("gru").Saver
    states = [
        saver(tmp_path / name / "gru" / "seed0" / "gru", 0).load()["network"]
        for name in ("peace", "stopped")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not (folder / "resume").exists()


def test_pruning(tmp_path: Path, capsys: pytest.CaptureFixture[str], here: type[Here]) -> None:
    """The T5 stage is trained once; frames are counted along each variant's way."""
    keys = ["T5", "gradual", "direct-T5", "direct-ann", "direct-ann-long"]
    keys += ["untrained-T5", "conversion-T1"]
    command = [*TINY, "--out", str(tmp_path), "--seeds", "3-3", "--variants", *keys]
    command += ["--steps", "32", "--first-steps", "64"]
    assert run("pruning", *command) == 0
    text = capsys.readouterr()
    found = {row["variant"]: row for row in rows(tmp_path / "pruning.json")}
    assert list(found) == keys
    frames = {key: row["frames"] - 64 for key, row in found.items()}
    assert frames == dict(zip(keys, (64, 192, 96, 64, 192, 64, 0), strict=True))
    assert {row["timesteps"] for key, row in found.items() if key != "T5"} == {1}
    assert "training 6 runs" in text.err and len(here.trained) == 6
    assert (tmp_path / "pruning.md").read_text(encoding="utf-8") == text.out
    assert "| direct T5→T1 | hidden1 |" in text.out
    assert load_agent(tmp_path / "gradual" / "seed3" / "T2").timesteps == 2

    (tmp_path / "pruning.md").unlink()
    assert run("pruning", *command) == 0
    again = capsys.readouterr()
    assert "training" not in again.err and again.out == text.out


def test_a_killed_comparison_goes_on(tmp_path: Path, here: type[Here]) -> None:
    """kill -9 of the script while its second run is trained: the same command ends with the weights
    and the scores of one left in peace, and what was finished is not trained again."""
    options = [*TINY, "--set", "save_every=0", "--variants", "direct-ann", "--seeds", "1"]
    options += ["--steps", "2048", "--out"]
    stopped, peace = tmp_path / "stopped", tmp_path / "peace"
    command = [sys.executable, str(FOLDER / "pruning.py"), *options, str(stopped)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    killed = stopped / "direct-ann" / "seed0"
    wait_until(lambda: saved(killed))
    process.kill()
    process.wait()
    assert not (killed / "T1").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert generation(stopped / "ann" / "seed0") == 1 and generation(killed) == 2
    assert run("pruning", *options, str(peace)) == 0
    weights = [folder / "direct-ann/seed0/T1/weights.safetensors" for folder in (stopped, peace)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    (row,), (expected,) = (rows(folder / "pruning.json") for folder in (stopped, peace))
    assert row["rewards"] == expected["rewards"] and row["frames"] == expected["frames"]


def test_a_failed_run_is_named_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Here):
        def ended(self) -> list[tuple[Path, Ending]]:
            failed = Ending("failed", "no luck")
            return [(f, failed if "direct-ann" in str(f) else e) for f, e in super().ended()]

    monkeypatch.setattr(api, "LocalWorkers", Failing)
    command = [*TINY, "--seeds", "1", "--steps", "32", "--out", str(tmp_path)]
    assert run("pruning", *command, "--variants", "direct-ann", "direct-T5") == 1
    assert "1 of 4 runs failed: direct-ann/seed0: no luck" in capsys.readouterr().err
    assert (tmp_path / "direct-T5" / "seed0" / "T1").exists()
    assert not (tmp_path / "pruning.md").exists()


def test_agents_may_stand_for_stages_that_are_not_trained() -> None:
    """Their membranes are zeroed at test, too."""
    known = load("memory").variants([1], ["T5 carried", "T1 again"])
    assert [name for name in known if "zeroed" in name] == [
        "T5 zeroed at test",
        "T1 zeroed at test",
    ]
    assert known["T5 zeroed at test"].base == "T5 carried"
    assert "T5 trained without carry" not in known and "T1 again" in known


def test_td(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    here: type[Here],
) -> None:
    """All begin from one ANN that had no teacher; TD has none either."""
    td = load("td")
    few = {"num_envs": 4, "rollout": 8, "replay": 512, "learning_starts": 64, "updates": 2}
    small = {key: value | few for key, value in td.METHODS.items() if value}
    monkeypatch.setattr(td, "METHODS", td.METHODS | small)
    names = ["T1 carried TD", "T1 carried distillation", "T3 zeroed both", "T1 zeroed both"]
    every = ["--set", "validation.every=64", "--seconds", "600"]
    command = [*TINY, *every, "--out", str(tmp_path), "--seeds", "0-1", "--steps", "256"]
    assert run("td", *command, "--variants", *names) == 0
    text = capsys.readouterr()
    kept = rows(tmp_path / "td.json")
    found = {row["variant"]: row for row in kept if row["seed"] == 1}
    assert len(kept) == 2 * len(names)
    assert sorted(found) == sorted(names)
    assert found["T1 carried TD"]["teacher"] is None
    assert found["T3 zeroed both"]["teacher"] == str(tmp_path / "ann" / "seed1" / "teacher")
    assert (found["T3 zeroed both"]["timesteps"], found["T3 zeroed both"]["trials"]) == (3, 2)
    assert load_agent(tmp_path / "ann" / "seed1" / "ann").card["teacher"] is None
    assert "2 comparisons, seed by seed" in text.out
    assert "| T1 carried TD | T1 carried distillation |" in text.out
    assert "| T3 zeroed both | T1 zeroed both |" in text.out
    assert run("td", *command, "--variants", *names) == 0
    again = capsys.readouterr()
    assert "training" not in again.err and again.out == text.out


def test_validations_in_frames_and_in_seconds() -> None:
    td = load("td")
    row = {"steps": 100, "curve": [(10, 1.0, 5.0), (25, 2.5, 9.0), (50, 5.0, 7.0), (99, 9.0, 20.0)]}
    assert (td.at_quarter(row), td.at_quarter(row | {"steps": 30})) == (9.0, 0)
    assert (td.at_seconds(row, 2), td.at_seconds(row, 60)) == (5.0, 20.0)


def test_mistakes_are_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        (["memory", "--variants", "GRU"], "there is no variant 'GRU'"),
        (["memory", "--conditions", "flicker 2"], "condition 'flicker 2' must be"),
        (["memory", "--train-under", "max-pooled"], "maxpool is for Atari games"),
        (["memory", "--agent", "T1"], "must look like NAME=PATH"),
        (["memory", "--set", "hiden=[8]"], "did you mean 'hidden'"),
        (["pruning", "--steps", "9", "--seeds", "4-0"], "--seeds '4-0' must be a number"),
        (["pruning", "--steps", "9", "--variants", "5-1"], "there is no variant '5-1'"),
    ]
    for (name, *arguments), message in cases:
        assert run(name, "--out", "nowhere", *arguments) == 1
        assert message in capsys.readouterr().err
    assert not Path("nowhere").exists()
    with pytest.raises(SnnRlError, match="must be plain"):
        load("memory").condition("sticky")
    assert load("memory").condition("max-pooled") == {"maxpool": True}
