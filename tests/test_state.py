"""States are opaque trees of arrays: taken apart, moved and put together again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from snn_rl.core.state import LIFState, State, check_fit, filled, leaves, mapped, rows_of


class Two(NamedTuple):
    """A neuron's state with a second variable."""

    membrane: Any
    fatigue: Any


def state_of(rows: int, history: bool = True) -> State[Any]:
    arrays = [np.full((rows, n), n) for n in range(1, 5)]
    layers = {"b": LIFState(arrays[1]), "a": Two(*arrays[2:])}
    return State(arrays[0] if history else None, layers)


@pytest.mark.parametrize("history", [True, False])
def test_what_is_taken_apart_is_put_together_again(history: bool) -> None:
    state = state_of(3, history)
    parts = leaves(state)
    assert [part.shape[1] for part in parts] == ([1, 2, 3, 4] if history else [2, 3, 4])
    again = filled(state, parts)
    assert type(again) is State and type(again.layers["a"]) is Two
    assert [a is b for a, b in zip(leaves(again), parts, strict=True)] == [True] * len(parts)
    for wrong in (parts[1:], [*parts, parts[0]]):
        with pytest.raises(ValueError, match="cannot be made of"):
            filled(state, wrong)


def test_a_function_of_every_array_keeps_the_structure() -> None:
    chosen = mapped(lambda array: array[1:], state_of(3))
    check_fit(chosen, state_of(7), 2)
    assert rows_of(chosen) == 2
    assert rows_of(State(None, {})) is rows_of(()) is None


def test_states_that_do_not_fit_name_both() -> None:
    for wrong in (state_of(2), state_of(3, False), State(None, {}), leaves(state_of(3)), "x"):
        with pytest.raises(ValueError, match=r"state holds .*expected State\(history=\(3, 1\)"):
            check_fit(wrong, state_of(0), 3)
