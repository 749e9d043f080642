"""Data sets from their official files, real CIFAR-10 where it is at hand, and damaged files."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_rl.errors import ConfigError, SnnRlError
from snn_rl.support.settings import shipped, validate
from snn_rl.vision.cifar import load_cifar
from snn_rl.vision.config import VisionConfig
from snn_rl.vision.data import Arrays, Data, hold_out
from snn_rl.vision.datasets import load_data
from snn_rl.vision.folders import centre_crop, random_resized_crop

UNPACK = Path(__file__).parents[2] / "shared" / "tools" / "unpack_cifar10.py"


PER_FILE = 4


def records(seed: int, classes: int, label_bytes: int = 1) -> np.ndarray[Any, Any]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, (PER_FILE, label_bytes), dtype=np.uint8)
    return np.hstack([labels, draw.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8)])


def binary_cifar10(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        records(seed, 10).tofile(folder / f"{name}.bin")
    (folder / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n\n")
    return folder


def python_cifar10(root: Path, protocol: int = 2) -> Path:
    """The same images as `binary_cifar10`, as a Python 2 pickle would hold them."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        data = records(seed, 10)
        content = {b"data": data[:, 1:], b"labels": [int(n) for n in data[:, 0]]}
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    names = {b"label_names": [f"class{i}".encode() for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol))
    return folder


def test_binary_and_python_version_hold_the_same(tmp_path: Path) -> None:
    binary_cifar10(tmp_path / "a")
    python_cifar10(tmp_path / "b")
    (train, test, names), other = load_cifar(tmp_path / "a", 10), load_cifar(tmp_path / "b", 10)
    assert names == other[2] == tuple(f"class{i}" for i in range(10))
    for mine, theirs in ((train, other[0]), (test, other[1])):
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.labels, theirs.labels)
    assert train.images.shape == (5 * PER_FILE, 3, 32, 32)
    first = records(0, 10)[0]
    assert train.labels[0] == first[0]
    # 1024 red, then green, then blue bytes, row by row
    assert train.images[0, 1, 2, 3] == first[1 + 1024 + 2 * 32 + 3]


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for seed, name in enumerate(("train.bin", "test.bin")):
        data = records(seed, 100, label_bytes=2)
        data[:, 0] %= 20
        data.tofile(folder / name)
    (folder / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)))
    train, _, names = load_cifar(folder, 100)
    assert train.labels.tolist() == records(0, 100, 2)[:, 1].tolist()
    assert len(names) == 100


def test_missing_files_are_named_with_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(SnnRlError, match=r"cifar-10-batches-bin/.*data_batch_1\.bin.*test_batch"):
        load_cifar(tmp_path, 10)
    folder = binary_cifar10(tmp_path)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(SnnRlError, match=r"data_batch_3\.bin is missing"):
        load_cifar(tmp_path, 10)


@pytest.mark.parametrize("size", [0, 100, 3073 * PER_FILE - 1])
def test_a_truncated_file_is_damaged(tmp_path: Path, size: int) -> None:
    folder = binary_cifar10(tmp_path)
    path = folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SnnRlError, match=r"data_batch_2\.bin is damaged"):
        load_cifar(tmp_path, 10)


def test_a_label_out_of_range_is_damage(tmp_path: Path) -> None:
    folder = binary_cifar10(tmp_path)
    data = records(9, 10)
    data[0, 0] = 10
    data.tofile(folder / "test_batch.bin")
    with pytest.raises(SnnRlError, match=r"test_batch\.bin is damaged \(a label lies outside"):
        load_cifar(tmp_path, 10)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("payload", [Evil(), {b"data": Evil()}, [1], {b"data": 3, b"labels": 4}])
def test_a_pickle_executes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = python_cifar10(tmp_path)
    (folder / "data_batch_1").write_bytes(pickle.dumps(payload))
    with pytest.raises(SnnRlError, match="data_batch_1 is damaged"):
        load_cifar(tmp_path, 10)
    assert not Path("pwned").exists()


def image(path: Path, value: int, height: int = 70, width: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), (0, 0, value), np.uint8))


def tree(root: Path, classes: int, images: int, middle: str = "") -> None:
    for c in range(classes):
        for i in range(images):
            image(root / f"n{c:03}" / middle / f"{i}.png", 20 * c + i)


def configured(root: Path, dataset: str, **settings: Any) -> Data:
    base = {"dataset": dataset, "data": str(root), "validation": 2, "image_size": 48, "workers": 0}
    return load_data(validate(VisionConfig, base | settings, "test"))


def test_tiny_imagenet(tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    tree(root / "train", 3, 2, "images")
    image(root / "val" / "images" / "val_0.png", 7, 64, 64)
    (root / "val" / "val_annotations.txt").write_text("val_0.png\tn002\t0\t0\t9\t9\n")
    data = configured(tmp_path, "tiny-imagenet")
    assert data.shape == (3, 64, 64)
    assert (len(data.train.labels), len(data.validation.labels)) == (4, 2)
    ((images, labels),) = data.test.batches([torch.tensor([0])])
    assert labels.tolist() == [2]
    assert images[0, :, 5, 5].tolist() == [7, 0, 0]  # red comes first
    (root / "val" / "val_annotations.txt").unlink()
    with pytest.raises(SnnRlError, match=r"val_annotations\.txt is missing: tiny-imagenet-200/"):
        configured(tmp_path, "tiny-imagenet")


@pytest.mark.parametrize("flat", [False, True])
def test_imagenet_in_both_layouts(tmp_path: Path, flat: bool) -> None:
    tree(tmp_path / "train", 3, 2)
    if flat:
        image(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", 200)
        table = "ImageId,PredictionString\nILSVRC2012_val_00000001,n001 1 2 3 4\n"
        (tmp_path / "LOC_val_solution.csv").write_text(table)
    else:
        tree(tmp_path / "val", 3, 1)
    data = configured(tmp_path, "imagenet")
    assert data.test.labels.tolist() == ([1] if flat else [0, 1, 2])
    ((images, _),) = data.test.batches([torch.tensor([0])])
    assert images.shape == (1, 3, 48, 48)


def test_workers_and_seeds(tmp_path: Path) -> None:
    """Random crops follow from the seed alone, however many processes decode."""
    tree(tmp_path / "train", 2, 3)
    tree(tmp_path / "test", 2, 1)
    draw = np.random.default_rng(0)
    for path in (tmp_path / "train").rglob("*.png"):
        cv2.imwrite(str(path), draw.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    chunks = [torch.tensor([0, 1]), torch.tensor([3])]
    crops = {}
    for workers in (0, 2):
        train = configured(tmp_path, "folder", workers=workers).train
        crops[workers] = torch.cat([images for images, _ in train.batches(chunks, seed=5)])
        other = torch.cat([images for images, _ in train.batches(chunks, seed=6)])
        assert not torch.equal(crops[workers], other)
    assert torch.equal(crops[0], crops[2])


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    tree(tmp_path / "train", 2, 3)
    tree(tmp_path / "test", 2, 1)
    (tmp_path / "test" / "n001" / "0.png").write_bytes(b"no image")
    for workers in (0, 1):
        test = configured(tmp_path, "folder", workers=workers).test
        with pytest.raises(SnnRlError, match=r"n001/0\.png is missing or no image"):
            list(test.batches([torch.arange(2)]))


def test_trees_that_differ_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "train", 3, 2)
    tree(tmp_path / "test", 2, 2)
    with pytest.raises(SnnRlError, match="differ in their classes"):
        configured(tmp_path, "folder")
    with pytest.raises(SnnRlError, match="one folder per class"):
        configured(tmp_path / "nowhere", "folder")


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(8, 40), st.integers(0, 99))
def test_crops_have_the_size_asked_for(height: int, width: int, size: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    draw = np.random.default_rng(seed)
    crop = random_resized_crop(picture, size, (0.08, 1.0), draw)
    assert crop.shape == (size, size, 3)
    assert picture.min() <= crop.min() <= crop.max() <= picture.max()
    assert centre_crop(picture, size, size + 3).shape == (size, size, 3)
    plain = np.full_like(picture, 7)
    assert (random_resized_crop(plain, size, (0.08, 1.0), draw) == 7).all()


def test_an_ann_has_not_seen_the_images_that_another_seed_holds_out(tmp_path: Path) -> None:
    binary_cifar10(tmp_path)
    configs = [
        VisionConfig(dataset="cifar10", data=str(tmp_path), validation=4, seed=seed)
        for seed in (0, 1)
    ]
    found = [load_data(config).validation.labels for config in configs]
    assert torch.equal(*found)


def test_the_centre_is_cut_where_nothing_is_resized() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    assert np.array_equal(centre_crop(picture, 8, 20), picture[6:14, 11:19])


def test_held_out_images_are_never_trained_on() -> None:
    source = Arrays(torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1), torch.arange(50))
    train, validation = hold_out(source, 10)
    assert sorted([*train.labels.tolist(), *validation.labels.tolist()]) == list(range(50))
    assert torch.equal(hold_out(source, 10)[1].labels, validation.labels)
    few = [hold_out(source, count, limit=7)[0].labels for count in (10, 20)]
    assert len(few[0]) == 7 and torch.equal(*few)
    assert set(validation.labels.tolist()) < set(hold_out(source, 20)[1].labels.tolist())
    assert torch.equal(hold_out(source, 0.2)[1].labels, validation.labels)
    assert len(hold_out(source, 0.001)[1].labels) == 1
    with pytest.raises(SnnRlError, match=r"cannot hold out 50 of 50 .* --set validation=N"):
        hold_out(source, 50)
    with pytest.raises(ConfigError, match="a whole number of images, or a share below 1"):
        validate(VisionConfig, {"dataset": "folder", "validation": 1.5}, "test")


def test_a_small_folder_of_images_has_a_preset_that_fits(tmp_path: Path) -> None:
    tree(tmp_path / "train", 2, 20)
    tree(tmp_path / "test", 2, 1)
    preset = shipped("vision/folder-small") | {"data": str(tmp_path), "workers": 0}
    config = validate(VisionConfig, preset, "test")
    data = load_data(config)
    assert (len(data.train.labels), len(data.validation.labels)) == (36, 4)
    assert data.shape == (3, 64, 64)
    assert max(config.ann.epochs, config.spiking.epochs) <= 30


@pytest.mark.skipif(not UNPACK.exists(), reason="shared/data/cifar10 is not at hand")
def test_real_cifar10(tmp_path: Path) -> None:
    subprocess.run([sys.executable, UNPACK, tmp_path], check=True, capture_output=True)
    train, test, names = load_cifar(tmp_path, 10)
    assert names[:3] == ("airplane", "automobile", "bird")
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    mean = train.images.float().mean((0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
