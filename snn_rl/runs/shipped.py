"""Saved networks by path, or by name ("zoo:NAME") from those that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from snn_rl.errors import CheckpointError
from snn_rl.inference.reader import CARD

PREFIX = "zoo:"


@dataclass(frozen=True)
class Zoo:
    """A folder of saved networks: what each was trained on, its stages below.

    Attributes:
        kind: what the networks are called in errors, e.g. "agent".
    """

    folder: Path
    kind: str

    @classmethod
    def of(cls, package: str, kind: str) -> Zoo:
        """The one that comes with a package, beside its code."""
        return cls(Path(str(resources.files(package))) / "zoo", kind)

    def names(self) -> list[str]:
        """Names of the networks, e.g. "CartPole-v1/T1"."""
        return sorted(
            card.parent.relative_to(self.folder).as_posix() for card in self.folder.rglob(CARD)
        )

    def find(self, source: str | Path) -> Path:
        """Folder of a network by path or as "zoo:NAME".

        Raises:
            CheckpointError: there is none; names what there is.
        """
        text = str(source)
        return self._shipped(text) if text.startswith(PREFIX) else self._saved(Path(source))

    def _saved(self, folder: Path) -> Path:
        if folder.name == CARD:
            folder = folder.parent
        if not folder.exists():
            raise CheckpointError(f"no {self.kind} at {folder}: there is no such folder")
        stages = sorted(card.parent.name for card in folder.glob(f"[!.]*/{CARD}"))
        if stages and not (folder / CARD).exists():
            named = ", ".join(str(folder / stage) for stage in stages)
            raise CheckpointError(f"{folder} is a run: name one of its stages, {named}")
        return folder

    def _shipped(self, text: str) -> Path:
        name, known = text.removeprefix(PREFIX), self.names()
        if stages := [f"{PREFIX}{other}" for other in known if other.startswith(f"{name}/")]:
            listed = ", ".join(stages)
            raise CheckpointError(f"{text} has several stages: name one of them, {listed}")
        if name not in known:
            listed = ", ".join(known) or "none"
            raise CheckpointError(f"the zoo has no {self.kind} {name!r}; it holds {listed}")
        return self.folder / name
