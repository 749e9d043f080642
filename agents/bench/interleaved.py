"""Interleaved measurements: contenders train in turns, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from snn_rl.errors import SnnRlError


@dataclass(frozen=True)
class Turn:
    """What happened between two looks at the clock; `learning` are the seconds in updates."""

    seconds: float
    steps: int
    updates: int
    learning: float


@dataclass(frozen=True)
class Measured:
    """A contender's turns, without the first one, and the size of its replay."""

    turns: list[Turn]
    bytes_per_transition: float

    @property
    def steps_per_second(self) -> float:
        """Median over the turns."""
        return statistics.median(turn.steps / turn.seconds for turn in self.turns)

    @property
    def update_ms(self) -> float:
        """Milliseconds per update, sampling included; median over the turns."""
        return 1e3 * statistics.median(turn.learning / turn.updates for turn in self.turns)


class Pacer:
    """Holds a contender's training up between its turns.

    Args:
        connection: to the process that hands out the turns.
        seconds: of a turn, at least; it ends after a roll-out and the updates that follow it.

    Attributes:
        clock: in seconds; by default time as it passes, since a contender may use several cores.
    """

    def __init__(self, connection: Connection, seconds: float) -> None:
        self.connection, self.seconds = connection, seconds
        self.clock: Callable[[], float] = time.monotonic
        self.bytes_per_transition = 0.0
        self.learning = 0.0
        self.began: float | None = None
        self.steps = self.updates = 0

    def time(self, owner: object, method: str) -> None:
        """Count the time that `owner` spends in `method` as learning."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = self.clock()
            result = original(*args, **kwargs)
            self.learning += self.clock() - began
            return result

        setattr(owner, method, timed)

    def lap(self, steps: int, updates: int) -> bool:
        """To be called after every roll-out and its updates, with the totals so far.

        Returns:
            False when the contender is to stop.
        """
        now = self.clock()
        if self.began is not None:
            if now - self.began < self.seconds:
                return True
            done = steps - self.steps, updates - self.updates
            self.connection.send(Turn(now - self.began, *done, self.learning))
            if not self.connection.recv():
                return False
        self.steps, self.updates, self.learning = steps, updates, 0.0
        self.began = self.clock()
        return True


Contender = Callable[[Pacer], None]
"""Sets up a training and runs it, with a call of `Pacer.lap` after every roll-out and its updates,
until that is False. Crosses to another process, so it must be picklable."""


def take_turns(
    contenders: Mapping[str, Contender], *, seconds: float, repeats: int
) -> dict[str, Measured]:
    """Let contenders train in interleaved turns, the others waiting, and measure them.

    Args:
        seconds: of a turn, at least.
        repeats: turns that count; a first one warms up.

    Raises:
        SnnRlError: a contender failed.
    """
    context = multiprocessing.get_context("spawn")
    turns: dict[str, list[Turn]] = {name: [] for name in contenders}
    lines: dict[str, Connection] = {}
    sizes: dict[str, float] = {}
    processes = []
    for name, contender in contenders.items():
        lines[name], theirs = context.Pipe()
        process = context.Process(target=_contend, args=(contender, theirs, seconds), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        _receive(name, lines[name])
    for _ in range(repeats):
        for name, line in lines.items():
            line.send(True)
            turns[name].append(_receive(name, line))
    for name, line in lines.items():
        line.send(False)
        sizes[name] = _receive(name, line)
    for process in processes:
        process.join()
    return {name: Measured(turns[name], sizes[name]) for name in contenders}


def _contend(contender: Contender, connection: Connection, seconds: float) -> None:
    pacer = Pacer(connection, seconds)
    try:
        contender(pacer)
        connection.send(pacer.bytes_per_transition)
    except Exception as error:
        connection.send(error if isinstance(error, SnnRlError) else SnnRlError(repr(error)))


def _receive(name: str, line: Connection) -> Any:
    try:
        answer = line.recv()
    except EOFError:
        raise SnnRlError(f"{name} died: there may be too little memory") from None
    if isinstance(answer, Exception):
        raise SnnRlError(f"{name}: {answer}")
    return answer
