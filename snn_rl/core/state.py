"""What a network keeps from frame to frame, as named tuples of arrays: torch's or NumPy's.

To everything outside the network that made it a state is opaque: `leaves`, `mapped` and `filled`
store, move and choose rows of any. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

Values = TypeVar("Values")
"""Tensors, or NumPy arrays."""
Tree = TypeVar("Tree")


class LIFState(NamedTuple, Generic[Values]):
    """Of a layer of leaky integrate-and-fire neurons.

    Attributes:
        membrane: float32 [batch, *neurons], after the reset.
    """

    membrane: Values


class State(NamedTuple, Generic[Values]):
    """Of a network.

    Attributes:
        history: the frames before this one, [batch, stack - 1, *input_shape], oldest first; None
            where no frames are stacked.
        layers: of every spiking layer by name, each its neurons' own named tuple.
    """

    history: Values | None
    layers: dict[str, tuple[Values, ...]]


class Unrolled(NamedTuple, Generic[Values]):
    """What a network made of a segment of frames.

    Attributes:
        output: [frames, batch, outputs].
        rates: mean spikes per neuron and frame by spiking layer, with their gradient.
        state: after the last frame.
    """

    output: Values
    rates: dict[str, Values]
    state: Any


def leaves(state: Any) -> list[Any]:
    """The arrays of a state, in an order that follows from its structure."""
    if state is None:
        return []
    if isinstance(state, Mapping):
        return [leaf for part in state.values() for leaf in leaves(part)]
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in leaves(part)]
    return [state]


def mapped(function: Callable[[Any], Any], state: Tree) -> Tree:
    """A state of the same structure that holds `function` of every array."""
    result: Tree = _mapped(function, state)
    return result


def _mapped(function: Callable[[Any], Any], state: Any) -> Any:
    if state is None:
        return None
    if isinstance(state, Mapping):
        return {name: _mapped(function, part) for name, part in state.items()}
    if isinstance(state, tuple):
        parts = [_mapped(function, part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return function(state)


def filled(like: Tree, arrays: Iterable[Any]) -> Tree:
    """Reverse of `leaves`: a state of the structure of `like` that holds these arrays.

    Raises:
        ValueError: there are more or fewer.
    """
    filling, wanted = list(arrays), len(leaves(like))
    if len(filling) != wanted:
        raise ValueError(f"a state of {wanted} arrays cannot be made of {len(filling)}")
    rest = iter(filling)
    return mapped(lambda _: next(rest), like)


def check_fit(state: Any, like: Any, rows: int) -> None:
    """Raise ValueError unless a state of so many environments looks as another, of any number."""
    shapes = mapped(lambda array: tuple(getattr(array, "shape", ())), state)
    wanted = mapped(lambda array: (rows, *array.shape[1:]), like)
    if shapes != wanted:
        raise ValueError(f"state holds arrays of shape {shapes}; expected {wanted}")


def rows_of(state: Any) -> int | None:
    """Environments that a state is of; None where it holds nothing."""
    if isinstance(state, tuple | dict):
        for part in state.values() if isinstance(state, dict) else state:
            if (rows := rows_of(part)) is not None:
                return rows
        return None
    return None if state is None else len(state)
