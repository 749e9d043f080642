"""What a user keeps in a folder survives whatever is saved or trained there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from saved_agents import example, saved

import snn_rl
from snn_rl.agents.exchange.export import export
from snn_rl.errors import CheckpointError, SnnRlError
from snn_rl.runs.checkpoint import CARD, WEIGHTS, load, save
from snn_rl.runs.folder import keep, new_folder
from snn_rl.runs.owner import OWNER, own
from snn_rl.runs.resume import RESUME, discard

Call = Callable[..., tuple[int, str, str]]
TRAIN = [
    *["train", "--env", "CartPole-v1", "--timesteps", "1", "--steps", "600", "--run-dir", "."],
    *["--set", "hidden=[4]", "--set", "validation.episodes=1", "--set", "save_every=0"],
]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's project, with names that look like ours."""
    for name in (
        *("notes.txt", ".git/HEAD", ".git/objects/ab/cd", ".env", ".cache-abcdefgh/file"),
        *(".venv/bin/python", ".data.old/table.csv", "src/.hidden/file", ".T1.old.txt"),
        *(".ann-abcdefgh/thesis.tex", ".notes.yaml.bak", "figures-of-mine/.a.png.x"),
        *(".settings.json.1", ".notes.md.2", "src/.config.yaml.3", ".T5.old/data"),
    ):
        file = tmp_path / "home" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path / "home"


@pytest.mark.parametrize("place", [".", "", "src", "../home"])
def test_an_agent_is_not_saved_over_a_project(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(home)
    before = contents(home)
    agent = snn_rl.load_agent("zoo:CartPole-v1/T1")
    with pytest.raises(CheckpointError, match="holds other files and no agent: choose another"):
        agent.save(place)
    assert contents(home) == before
    assert sorted(p.name for p in home.parent.iterdir()) == ["home"]


def test_an_agent_is_saved_beside_other_files(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    (tmp_path / "a" / "agent.onnx").write_text("exported")
    (tmp_path / "a" / f".{CARD}.1234").write_text("a save that was killed")
    new = saved(tmp_path / "a", 1)
    assert (tmp_path / "a" / "agent.onnx").read_text() == "exported"
    assert {p.name for p in (tmp_path / "a").iterdir()} - {f".{CARD}.1234"} == {
        *(CARD, WEIGHTS, "agent.onnx")
    }
    found = load(tmp_path / "a")[0].state_dict()
    assert all(bool((found[key] == value).all()) for key, value in new.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_empty_folder_and_a_link_are_saved_to(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    saved(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / CARD).exists()


def test_a_file_and_another_format_are_no_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="is no folder"):
        save(tmp_path / "file", example(), 1, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / CARD).write_text('{"name": "another program\'s"}')
    (tmp_path / "other" / "data").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError):
        save(tmp_path / "other", example(), 1, {})
    assert contents(tmp_path) == before


def test_training_in_a_project_removes_nothing(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    before = contents(home)
    assert call(*TRAIN)[0] == 0
    after = contents(home)
    assert {name: after.get(name) for name in before} == before
    assert {f"ann/{CARD}", f"T1/{CARD}", "config.yaml"} <= after.keys()


@pytest.mark.parametrize(
    "name",
    ["resume/thesis.tex", "T1/data", "ann/x", "metrics.jsonl", "owner.json", "owner.lock"],
)
def test_a_run_writes_over_nothing_of_the_same_name(
    call: Call, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(home)
    (home / name).parent.mkdir(exist_ok=True)
    (home / name).write_text("mine")
    before = contents(home)
    status, _, err = call(*TRAIN)
    what = name.partition("/")[0]
    assert status == 2 and f"holds {what}, which a run would write over: choose another" in err
    assert contents(home) == before
    with pytest.raises(SnnRlError, match="choose another"):
        new_folder(home, home)


def test_what_is_laid_into_a_runs_folders_stays(tmp_path: Path) -> None:
    saved(tmp_path / "interrupted" / "T1")
    saved(tmp_path / "interrupted" / "ann")
    for name in ("resume/notes", "interrupted/T1/notes", "resume/replay/sub/notes"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / RESUME / "state.safetensors").write_text("ours")
    (tmp_path / RESUME / "replay" / "frames").write_text("ours")
    keep(tmp_path, "T1", lambda folder: saved(folder) and None, interrupted=False)
    left = {name for name in contents(tmp_path) if not name.startswith("T1/")}
    assert left == {"resume/notes", "interrupted/T1/notes", "resume/replay/sub/notes"}


def test_nothing_is_discarded_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "state.safetensors").write_text("mine")
    (tmp_path / RESUME).symlink_to(tmp_path / "mine")
    discard(tmp_path / RESUME)
    assert (tmp_path / "mine" / "state.safetensors").read_text() == "mine"


def test_a_folder_without_a_run_has_no_leftovers(home: Path) -> None:
    (home / ".config.yaml.77").write_text("mine")
    (home / ".T1-abcdefgh").mkdir()
    (home / ".T1-abcdefgh" / CARD).write_text("mine")
    before = contents(home)
    with own(home):
        pass
    assert {name: contents(home).get(name) for name in before} == before


def test_an_owner_removes_only_what_saves_leave(home: Path) -> None:
    with own(home):
        pass
    (home / ".T5.old" / "data").unlink()
    (home / ".T5.old").rmdir()
    before = contents(home)
    del before[OWNER]  # counts its owners
    for name in (".T3-abc_1234", "figures"):
        (home / name).mkdir()
    (home / ".T3-abc_1234" / WEIGHTS).write_text("half")
    (home / ".config.yaml.77").write_text("half")
    with own(home):
        assert not (home / ".T3-abc_1234").exists() and not (home / ".config.yaml.77").exists()
    assert {name: contents(home).get(name) for name in before} == before


@pytest.mark.parametrize("name", ["seed0/data", "stop", "report.md", "figures/a.png", "owner.json"])
def test_a_sweep_writes_over_nothing(call: Call, home: Path, name: str) -> None:
    (home / name).parent.mkdir(exist_ok=True)
    (home / name).write_text("mine")
    before = contents(home)
    status, _, err = call("sweep", "--env", "CartPole-v1", "--seeds", "1", "--out", str(home))
    what = name.partition("/")[0]
    assert status == 2 and f"holds {what}, which a sweep would write over: choose another" in err
    assert contents(home) == before


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--env", "CartPole-v1", "--run-dir"],
        ["sweep", "--env", "CartPole-v1", "--seeds", "1", "--out"],
        ["import", "a.zip", "--env", "CartPole-v1", "--out"],
    ],
    ids=lambda command: command[0],
)
def test_a_file_is_no_folder(call: Call, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").write_text("mine")
    status, _, err = call(*command, str(tmp_path / "file"))
    assert status == 2 and "is no folder: choose another --" in err and err.count("\n") == 1
    assert contents(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize(
    ("out", "mine"),
    [
        *[("agent.c", "agent.h"), ("agent.c", "agent_trace.h"), ("agent.c", "agent.trace.npz")],
        *[("agent.onnx", "agent.pt2"), ("agent.nir", "agent.trace.npz")],
    ],
)
def test_an_export_writes_over_no_file_that_was_not_named(
    tmp_path: Path, out: str, mine: str
) -> None:
    (tmp_path / mine).write_text("mine")
    agent = snn_rl.load_agent("zoo:CartPole-v1/T1")
    to = out.partition(".")[2]
    with pytest.raises(SnnRlError, match=f"{mine} would be written over .* choose another --out"):
        export(agent, tmp_path / out, to, frames=3)  # type: ignore[arg-type]
    assert contents(tmp_path) == {mine: b"mine"}


def test_an_export_replaces_an_earlier_one_but_no_header_of_the_same_name(tmp_path: Path) -> None:
    agent = snn_rl.load_agent("zoo:CartPole-v1/T1")
    path = tmp_path / "agent.c"
    export(agent, path, "c", frames=3)
    before = contents(tmp_path)
    export(agent, path, "c", frames=4)
    assert contents(tmp_path).keys() == before.keys() and contents(tmp_path) != before
    (tmp_path / "agent.h").write_text("#define MINE")
    with pytest.raises(SnnRlError, match=r"agent\.h would be written over"):
        export(agent, path, "c", frames=3)
    assert (tmp_path / "agent.h").read_text() == "#define MINE"
