"""A disk that is full at any moment: one sentence, nothing half-written, and the run goes on later.

    python benchmarks/disks.py --sizes 24         # of each kind of run
    python benchmarks/disks.py --only vision --sizes 3

Each kind of run is trained on disks (tmpfs, in a mount namespace of its own: Linux, `unshare`) of
more and more room, from none to all that it needs, so that the disk is full in every phase. It must
end in one sentence, leave nothing half-written, and its finished stages must load. Then the disk
grows, and the run goes on to the weights of one that never lacked room, without leftovers. The
commands that write beside a run are tried on a full disk, too: what they measured is shown.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
import yaml
from kills import COMMANDS, RUNS, draw_images, weights

from snn_rl import cli
from snn_rl.runs.checkpoint import load

INSIDE = "SNN_RL_DISKS"
KINDS = ("replay", "vision")
ROOM = 2**16
"""KiB; enough."""
SMALLER: dict[str, dict[str, Any]] = {
    "replay": {"ann": {"steps": 1536}, "spiking": {"steps": 768}},
    "vision": {"ann": {"epochs": 2}, "spiking": {"epochs": 1}},
}


def mount(disk: Path, kib: int, *options: str) -> None:
    """Give `disk` so much room, or other options."""
    what = ",".join([f"size={kib}k", *options])
    subprocess.run(["mount", "-t", "tmpfs", "-o", what, "tmpfs", str(disk)], check=True)


def used(disk: Path) -> int:
    """KiB."""
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize // 1024


def command(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of `snn-rl` in a process of its own, which imports nothing anew."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.chdir(folder)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.argv = ["snn-rl", *arguments]
                cli.main()
            except SystemExit as end:
                status = int(end.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        for file in (out, err):
            file.seek(0)
        return os.waitstatus_to_exitcode(ended), out.read(), err.read()


def train(folder: Path, kind: str, *, resume: bool) -> tuple[int, str]:
    """Train into disk/run; status and what it said."""
    how = ["--resume"] if resume else ["--config", f"{kind}.yaml"]
    train = COMMANDS.get(kind, ["train"])
    status, out, err = command(folder, *train, *how, "--run-dir", "disk/run")
    assert out == "", out
    return status, err


def whole(run: Path) -> None:
    """Raise AssertionError unless all that is in a run's folder can be used."""
    left = [path for path in run.rglob(".*")]
    assert not left, f"half-written: {left}"
    for card in run.rglob("agent.json"):
        load(card.parent)


def one_sentence(status: int, err: str, why: str = "No space left on device") -> None:
    """Raise AssertionError unless a command failed as it should."""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (status in (1, 2), len(errors)) == (True, 1), (status, err)
    assert "Traceback" not in err and why in errors[0], err


def fill(folder: Path, kind: str, kib: int, done: dict[str, bytes]) -> str:
    """Train on a disk of so much room, make room, go on; what came of it."""
    disk = folder / "disk"
    mount(disk, kib)
    try:
        status, err = train(folder, kind, resume=False)
        phase = "enough"
        if status != 0:
            one_sentence(status, err)
            whole(disk / "run")
            phase = "full, with " + (", ".join(sorted(p.name for p in (disk / "run").iterdir())))
            mount(disk, ROOM, "remount")
            resume = (disk / "run" / "config.yaml").exists()
            status, err = train(folder, kind, resume=resume)
            assert status == 0, err
        whole(disk / "run")
        assert weights(disk / "run") == done, "other weights"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return phase


def beside(folder: Path, kind: str) -> None:
    """What is written beside a run, on a disk that is full or read-only: scores are shown, nothing
    is left over."""
    disk, vision = folder / "disk", COMMANDS.get(kind, ["train"])[:-1]
    evaluate = [*vision, "evaluate", *([] if vision else ["--trials", "2", "--agent"]), "disk/run"]
    report, read_only = [*vision, "report", "disk/run"], "Read-only file system"

    def fails(arguments: list[str], *why: str) -> None:
        before = set(disk.rglob("*"))
        status, out, err = command(folder, *arguments)
        assert arguments != evaluate or all(stage in out for stage in ("ann", "T1")), out
        one_sentence(status, err, *why)
        made = set(disk.rglob("*")) - before
        assert all(path.name == "figures" or path.suffix == ".png" for path in made), made
        whole(disk / "run")

    mount(disk, ROOM)
    try:
        mount(disk, ROOM, "remount", "ro")
        one_sentence(*train(folder, kind, resume=False), read_only)
        mount(disk, ROOM, "remount", "rw")
        assert train(folder, kind, resume=False)[0] == 0
        mount(disk, used(disk), "remount")
        fails(evaluate)
        mount(disk, ROOM, "remount", "ro")
        fails(evaluate, read_only)
        mount(disk, ROOM, "remount", "rw")
        assert command(folder, *evaluate)[0] == 0
        for kib in (0, 8):
            mount(disk, used(disk) + kib, "remount")
            fails(report)
        mount(disk, ROOM, "remount", "ro")
        fails(report, read_only)
        mount(disk, ROOM, "remount", "rw")
        assert command(folder, *report)[0] == 0
        whole(disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def peace(folder: Path, kind: str) -> tuple[dict[str, bytes], int]:
    """Weights of a run with room enough, and the most KiB that it used."""
    disk, most, over = folder / "disk", [0], threading.Event()
    mount(disk, ROOM)

    def watch() -> None:
        while not over.wait(0.005):
            most[0] = max(most[0], used(disk))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        how = ["--config", f"{kind}.yaml", "--run-dir", "disk/run"]
        process = [sys.executable, "-m", "snn_rl", *COMMANDS.get(kind, ["train"]), *how]
        subprocess.run(process, cwd=folder, check=True, capture_output=True)
        return weights(disk / "run"), most[0]
    finally:
        over.set()
        watcher.join()
        subprocess.run(["umount", str(disk)], check=True)


def try_kind(kind: str, sizes: int) -> None:
    """All sizes of one kind of run."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "disk").mkdir()
        draw_images(folder / "images")
        stages = {k: {**RUNS[kind][k], **v} for k, v in SMALLER[kind].items()}
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump({**RUNS[kind], **stages}))
        done, most = peace(folder, kind)
        for number in range(sizes):
            kib = most * (2 * number + 1) // (2 * sizes)
            phase = fill(folder, kind, kib, done)
            sys.stdout.write(f"{kind}, {kib} KiB: {phase}; then the same bits\n")
            sys.stdout.flush()
        beside(folder, kind)
        sys.stdout.write(
            f"{kind}: evaluate and report on a full disk, and on one that is read-only\n"
        )


def main() -> None:
    """The exit status is 1 if anything was lost, 77 where nothing can be mounted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--sizes", type=int, default=24)
    given = parser.parse_args()
    if INSIDE not in os.environ:
        apart = ["unshare", "--map-root-user", "--mount"]
        if subprocess.run([*apart, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).returncode:
            sys.exit(77)
        os.environ[INSIDE] = "1"
        os.execvp(apart[0], [*apart, sys.executable, *sys.argv])
    torch.set_num_threads(1)
    for kind in [given.only] if given.only else KINDS:
        try_kind(kind, given.sizes)


if __name__ == "__main__":
    main()
