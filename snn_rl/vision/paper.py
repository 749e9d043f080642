"""The paper's accuracies, to be shown beside this project's own.

Source: Chowdhury, Rathi and Roy 2022, Table 1; top-1 on the test set, in percent.
"""

from __future__ import annotations

_TABLE1: dict[tuple[str, str], tuple[float, ...]] = {
    ("vgg6", "cifar10"): (91.59, 90.61, 90.52, 90.40, 90.05, 89.10),
    ("vgg16", "cifar10"): (94.10, 93.90, 93.87, 93.85, 93.72, 93.05),
    ("resnet20", "cifar10"): (93.34, 92.62, 92.58, 92.56, 92.11, 91.10),
    ("vgg16", "cifar100"): (72.46, 71.58, 71.51, 71.46, 71.43, 70.15),
    ("resnet20", "cifar100"): (65.90, 65.57, 65.37, 65.16, 64.86, 63.30),
    ("vgg16", "imagenet"): (70.08, 69.05, 69.03, 69.01, 69.00, 69.00),
}
_STAGES = ("ann", "T5", "T4", "T3", "T2", "T1")


def table1(model: str, dataset: str) -> dict[str, float]:
    """Accuracy by stage; empty where the paper has no such network."""
    found = _TABLE1.get((model, dataset), ())
    return dict(zip(_STAGES, found, strict=False))
