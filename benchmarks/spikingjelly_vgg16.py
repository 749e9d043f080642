"""Images per second of VGG16 at T = 5 beside SpikingJelly's multi-step LIF on the same network.

    pip install --no-deps spikingjelly loguru h5py    # it imports no torchvision here
    python benchmarks/spikingjelly_vgg16.py --batch 16 --repeats 3

Both networks have the same layers, weights, thresholds, leak 1, soft reset and detached reset; both
run the first convolution once per image. SpikingJelly's neurons are its fastest on this device (its
CUDA back ends need a GPU). A training step is forward, loss and backward; turns are interleaved and
the best of the repeats counts, so that other work on the machine disturbs neither.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from snn_rl.conversion.convert import Calibration, convert
from snn_rl.conversion.tracing import trace
from snn_rl.core import operations
from snn_rl.core.network import Network
from snn_rl.core.stacking import PIXEL_UNIT
from snn_rl.vision.evaluation import classify
from snn_rl.vision.models import build_model
from snn_rl.vision.process import Process

SHAPE, CLASSES = (3, 32, 32), 10


class Rival(nn.Module):
    """The converted network with SpikingJelly's layers in multi-step mode."""

    def __init__(self, network: Network, timesteps: int) -> None:
        super().__init__()
        from spikingjelly.activation_based import layer, neuron, surrogate

        self.timesteps = timesteps
        self.first: Any = network.layers[network.nodes[1].name]
        self.rest = nn.ModuleList()
        for node in network.nodes[2:]:
            source: Any = dict(network.layers.items()).get(node.name)
            if isinstance(node.operation, operations.LIFNeurons):
                self.rest.append(
                    neuron.IFNode(
                        v_threshold=float(source.threshold.detach()),
                        v_reset=None,
                        detach_reset=True,
                        step_mode="m",
                        surrogate_function=surrogate.ATan(),
                    )
                )
            elif isinstance(node.operation, operations.SumPool2d):
                pool = layer.AvgPool2d(2, step_mode="m")
                pool.divisor_override = 1
                self.rest.append(pool)
            elif isinstance(node.operation, operations.Flatten):
                self.rest.append(layer.Flatten(step_mode="m"))
            elif not isinstance(node.operation, operations.Dropout):
                self.rest.append(layer.SeqToANNContainer(source))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, classes] of uint8 images."""
        from spikingjelly.activation_based import functional as spiking

        spiking.reset_net(self)
        x = self.first(images.float() * PIXEL_UNIT)
        x = x.unsqueeze(0).repeat(self.timesteps, 1, 1, 1, 1)
        for part in self.rest:
            x = part(x)
        result: Tensor = x.mean(0)
        return result


def networks(timesteps: int, batch: int) -> tuple[Network, Rival, Tensor]:
    """The same network twice, and images."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (batch, *SHAPE), dtype=torch.uint8)
    ann = trace(build_model("vgg16", SHAPE, CLASSES).eval(), SHAPE, pixels=True)
    ours = convert(ann, Calibration(images[None]), timesteps=timesteps).eval()
    return ours, Rival(ours.clone(), timesteps).eval(), images


def seconds(call: Callable[[], object]) -> float:
    """CPU time of one call: what other processes take is not in it."""
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timesteps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours, rival, images = networks(options.timesteps, options.batch)
    last = Process(channels_last=True).place(ours.clone())
    labels = torch.randint(0, CLASSES, (options.batch,))
    models: dict[str, Callable[[], Tensor]] = {
        "snn-rl": lambda: classify(ours, images, options.timesteps),
        "snn-rl, channels last": lambda: classify(last, images, options.timesteps),
        "SpikingJelly": lambda: rival(images),
    }
    with torch.no_grad():
        difference = (models["snn-rl"]() - models["SpikingJelly"]()).abs().max()
    print(f"largest difference of a logit: {float(difference):.2g}")

    def infer(model: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            model()

    def train(model: Callable[[], Tensor]) -> None:
        functional.cross_entropy(model(), labels).backward()

    for title, step in (("inference", infer), ("training", train)):
        best = dict.fromkeys(models, float("inf"))
        for _ in range(options.repeats + 1):  # the first turn warms up
            for name, model in models.items():
                best[name] = min(best[name], seconds(lambda s=step, m=model: s(m)))
        for name, found in best.items():
            print(f"{title:10} {name:22} {options.batch / found:8.2f} images/s")


if __name__ == "__main__":
    main()
