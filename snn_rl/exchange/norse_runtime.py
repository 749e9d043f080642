"""Norse as a runtime for NIR files, with its reset by subtraction, to check exports with.

Norse and nirtorch ask for more than they need here: pip install --no-deps norse nirtorch
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from snn_rl.errors import SnnRlError
from snn_rl.exchange.extras import extra
from snn_rl.exchange.golden import Arrays, Step
from snn_rl.exchange.nir_files import DT
from snn_rl.exchange.one_frame import MEMBRANE, OneFrame


def norse_step(path: Path, network: OneFrame) -> Step:
    """Norse on the NIR file `path` that the network of `network` was written to.

    Raises:
        SnnRlError: Norse is missing.
    """
    nir, norse, reset_subtract = _packages()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger().disabled, before = True, logging.getLogger().disabled
        try:
            graph = nir.read(path)
            module: Any = norse.from_nir(graph, reset_method=reset_subtract, dt=DT)
        finally:
            logging.getLogger().disabled = before
    return _runner(module, network)


def need_norse() -> None:
    """Raises SnnRlError if a file could not be replayed, since Norse is missing."""
    _packages()


def _packages() -> tuple[Any, Any, Any]:
    """nir, norse.torch and its reset by subtraction."""
    nir = extra("nir")
    try:
        import norse.torch as norse  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from norse.torch.functional.reset import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
            reset_subtract,
        )
    except ImportError:
        raise SnnRlError(
            "the check needs Norse: pip install --no-deps norse nirtorch, or leave out --check"
        ) from None
    return nir, norse, reset_subtract


def _runner(module: Any, network: OneFrame) -> Step:
    stacked = network.network.stack > 1
    names = [name.removeprefix(MEMBRANE) for name in network.state_names[stacked:]]
    kept: list[Any] = [None]  # Norse's own state

    @torch.no_grad()
    def step(frame: NDArray[Any], state: Arrays) -> tuple[NDArray[np.float32], Arrays]:
        if not network.carry or not any(array.any() for array in state):  # an episode begins
            kept[0] = None
        following: Arrays = ()
        if stacked:
            seen = np.concatenate([state[0][0], frame])  # oldest first
            frame, following = seen.reshape(1, -1, *seen.shape[2:]), (seen[None, 1:],)
        x = torch.from_numpy(frame[0]).float()
        outputs = []
        for _ in range(network.timesteps):
            q, kept[0] = module(x, kept[0])
            outputs.append(q)
        after = following + tuple(_membrane(kept[0], name) for name in names)
        return torch.stack(outputs).mean(0)[None].numpy(), after

    return step


def _membrane(state: Any, name: str) -> NDArray[Any]:
    """[1, ...] of a layer."""
    ((_, neurons),) = state.state[name]  # synapse and neurons
    membrane: NDArray[Any] = neurons.v.numpy()
    return membrane[None]
