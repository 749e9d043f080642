"""The processes of a run (one, or several under torchrun): device, precision, memory layout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from snn_rl.core.network import Network
from snn_rl.errors import SnnRlError


@dataclass(frozen=True)
class Process:
    """One process of a run.

    Attributes:
        precision: of convolutions and linear layers; membranes and thresholds stay in float32.
        rank, world: this process and how many there are.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: torch.dtype = torch.float32
    channels_last: bool = False
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """This process writes files and shows progress."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision where it is asked for."""
        enabled = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision, enabled=enabled)

    def place(self, network: Network) -> Network:
        """`network` on this device and in this memory layout."""
        for parameter in network.parameters():
            parameter.data = self.laid_out(parameter.data)
        return network.to(self.device)

    def laid_out(self, values: Tensor) -> Tensor:
        """Values of a parameter's shape in this memory layout."""
        if values.dim() != 4:
            return values
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return values.contiguous(memory_format=layout)

    def parallel(self, network: Network) -> nn.Module:
        """`network` with gradients averaged over the processes."""
        if self.world == 1:
            return network
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)

    def share(self, chunk: Tensor) -> Tensor:
        """This process's part of a batch of indices."""
        return chunk[self.rank :: self.world]

    def summed(self, values: Tensor) -> Tensor:
        """Sum over the processes, on the CPU."""
        if self.world == 1:
            return values.cpu()
        total = values.to(self.device)
        distributed.all_reduce(total)
        return total.cpu()

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process."""
        return flag if self.world == 1 else bool(self.summed(torch.tensor(float(flag))) > 0)

    def share_buffers(self, network: Network) -> None:
        """Give every process the first one's running statistics."""
        if self.world > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def open_process(name: str, precision: str, *, channels_last: bool) -> Iterator[Process]:
    """This process; under torchrun its process group is open meanwhile.

    Args:
        name: auto (a GPU if there is one), cpu or cuda.
        precision: float32, bfloat16, float16, or auto: bfloat16 (float16 on GPUs that lack it) on
            a GPU, else float32.

    Raises:
        SnnRlError: the device is unknown or absent.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    device = _device(name, local)
    process = Process(device, _precision(precision, device), channels_last, rank, world)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collective operations use the current one
    if world == 1:
        yield process
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield process
        process.wait()  # a process that leaves while others still talk ends them
    finally:
        distributed.destroy_process_group()


def _device(name: str, local: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{local}" if name == "cuda" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise SnnRlError(f"device {name!r} is not available here: use auto, cpu or cuda") from None
    return device


def _precision(name: str, device: torch.device) -> torch.dtype:
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name != "auto":
        return types[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
