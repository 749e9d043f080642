"""Whether two versions of the source train the same weights, bit for bit.

    python benchmarks/same_weights.py OLD NEW

OLD and NEW are checkouts; both are run by this Python, one after the other: CartPole through all
its stages, Pong with replay, overlap, a kill and a resume, and images with batch-norm and dropout.
Exit status 0 if every stage's weights are equal.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WEIGHTS = "weights.safetensors"
STATE = Path("resume") / "state.safetensors"


@dataclass(frozen=True)
class Training:
    """A command line of `snn-rl`; `killed` says whether it dies once and is gone on with."""

    name: str
    arguments: str
    killed: bool = False


TRAININGS = (
    Training(
        "CartPole",
        "train --env CartPole-v1 --steps 8192 --set hidden=[32,32] --set validation.target=null"
        " --set validation.episodes=4 --set validation.every=4096",
    ),
    Training(
        "CartPole, TD and distillation with replay",
        "train --env CartPole-v1 --timesteps 2 --steps 4096"
        " --set hidden=[16] --set validation.target=null --set validation.episodes=4"
        " --set spiking.replay=2048 --set spiking.segment=4 --set spiking.burn_in=4"
        " --set spiking.n_step=4 --set spiking.batch=16 --set spiking.td=[1,1]",
    ),
    Training(
        "Pong, overlapped, killed",
        "train --env PongNoFrameskip-v4 --timesteps 2 --teacher stack:4 --maxpool"
        " --set privileged.steps=3072 --set privileged.replay=2048"
        " --set privileged.learning_starts=1024 --set ann.steps=1024 --set spiking.steps=1024"
        " --set spiking.steps_at=null --set step=1 --set save_every=0"
        " --set privileged.num_envs=8 --set ann.num_envs=8 --set spiking.num_envs=8"
        " --set validation.episodes=1 --set validation.every=100000"
        " --set validation.max_frames=100 --set validation.target=null",
        killed=True,
    ),
    Training(
        "images",
        "vision train --config images.yaml --data images",
    ),
)
IMAGES = """
dataset: folder
image_size: 32
model: small
timesteps: 2
validation: 12
neurons: {calibration: 16}
ann: {epochs: 2, dropout: 0.2, batch: 16}
spiking: {epochs: 1, dropout: 0.2, batch: 16, batch_norm: true}
"""


def main(old: str, new: str) -> int:
    """Compare the two; returns the exit status."""
    different = 0
    with tempfile.TemporaryDirectory() as work:
        for training in TRAININGS:
            found = [train(training, Path(source), Path(work)) for source in (old, new)]
            names = sorted(found[0].keys() | found[1].keys())
            unequal = [n for n in names if found[0].get(n) != found[1].get(n)]
            different += len(unequal)
            verdict = f"DIFFERENT in {', '.join(unequal)}" if unequal else "the same weights"
            sys.stdout.write(f"{training.name}: {verdict} ({', '.join(names)})\n")
            sys.stdout.flush()
    return min(different, 1)


def train(training: Training, source: Path, work: Path) -> dict[str, bytes]:
    """The weights' files of all stages, by stage."""
    package, home = work / "package", work / "home"
    for folder in (package, home):
        shutil.rmtree(folder, ignore_errors=True)
    lay_out(source, package)
    home.mkdir()
    make_images(home / "images")
    (home / "images.yaml").write_text(IMAGES, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "snn_rl.cli", *training.arguments.split()]
    command += ["--run-dir", "run"]
    if training.killed:
        kill_once(command, home, environment)
        command = [*command[:4], "--resume", "--run-dir", "run"]
    run(command, home, environment)
    return {path.parent.name: path.read_bytes() for path in (home / "run").glob(f"*/{WEIGHTS}")}


def run(command: list[str], home: Path, environment: dict[str, str]) -> None:
    """Run to the end; what it says is shown if it fails."""
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")


def kill_once(command: list[str], home: Path, environment: dict[str, str]) -> None:
    """Start and kill the process some time after its first save."""
    process = subprocess.Popen(command, cwd=home, env=environment, stderr=subprocess.PIPE)
    while not (home / "run" / STATE).exists():
        if process.poll() is not None:
            _, said = process.communicate()
            raise SystemExit(f"{' '.join(command)} ended before it could be killed:\n{said!r}")
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def lay_out(source: Path, package: Path) -> None:
    """The package as an installation has it, from a checkout."""
    root = package / "snn_rl"
    shutil.copytree(source / "snn_rl", root)
    for folder in ("envs", "agents", "configs"):
        shutil.rmtree(root / folder, ignore_errors=True)
        ignore = shutil.ignore_patterns("zoo") if folder == "agents" else None
        shutil.copytree(source / folder, root / folder, ignore=ignore)


def make_images(folder: Path) -> None:
    """Two classes of 40 noisy pictures, always the same."""
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, colour in (("blue", (40, 60, 160)), ("red", (160, 60, 40))):
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(40):
                noise = generator.integers(0, 90, (32, 32, 3))
                pixels = (noise + np.array(colour)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python benchmarks/same_weights.py OLD NEW")
    raise SystemExit(main(*sys.argv[1:]))
