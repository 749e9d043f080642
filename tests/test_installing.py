"""snn_rl imports whole from wherever it is found: checkout, wheel, sdist, or several of them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import snn_rl
from snn_rl.runs.provenance import written

ROOT = Path(__file__).parents[1]
TOP = ("envs", "agents", "configs")
# An editable installation would serve what the place under test lacks.
CHECK = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
import snn_rl
from snn_rl.agents.dqn.stage import StageTrainer
from snn_rl.envs import make_vector
from snn_rl.support.settings import shipped
assert shipped("CartPole-v1")
from importlib import resources
assert resources.files("snn_rl.exchange").joinpath("c", "agent.c").is_file()
assert snn_rl.load_agent("zoo:CartPole-v1/T1").act([0.0, 0.0, 0.0, 0.0]) in (0, 1)
print(snn_rl.__file__)
"""


def found_in(cwd: Path, path: Path | None) -> Path:
    """Where snn_rl was imported from, after a look at all its parts."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()).parents[1]


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, the wheel made of it, and that wheel installed below `site`."""
    folder = tmp_path_factory.mktemp("built")
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    isolated = folder / "setuptools"
    pip("install", "--target", str(isolated), "setuptools>=77")
    environment = os.environ | {"PYTHONPATH": str(isolated)}
    subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    (sdist,) = folder.glob("*.tar.gz")
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(sdist))
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-deps", "--target", str(folder / "site"), str(wheel))
    return folder


def test_from_a_checkout(tmp_path: Path) -> None:
    assert found_in(tmp_path, ROOT) == ROOT
    assert found_in(ROOT, None) == ROOT


def test_from_a_wheel_that_was_built_from_the_sdist(built: Path, tmp_path: Path) -> None:
    assert found_in(tmp_path, built / "site") == built / "site"


def test_in_a_checkout_with_the_wheel_installed(built: Path) -> None:
    assert found_in(ROOT, built / "site") == ROOT


def test_the_wheel_holds_every_module_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.endswith(".py")}
        texts = {name: archive.read(f"snn_rl/{name}/__init__.py").decode() for name in TOP}
    modules = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "snn_rl").rglob("*.py")
        if path.relative_to(ROOT / "snn_rl").parts[0] not in TOP
    }
    for folder in TOP:
        modules |= {f"snn_rl/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
    assert inside == modules
    for folder, text in texts.items():
        assert text == (ROOT / folder / "__init__.py").read_text(encoding="utf-8")


def test_running_the_package_is_running_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snn_rl", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("snn-rl ")


def test_cards_are_written_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = metadata.version

    def version(name: str) -> str:
        if name == "snn-rl":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", version)
    assert written()["versions"]["snn-rl"] == snn_rl.__version__
