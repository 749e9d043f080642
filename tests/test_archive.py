"""Foreign archives: read within bounds, refused in one sentence, never executed."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from runtimes import runtime_or_skip

from snn_rl.errors import SnnRlError
from snn_rl.exchange import archive
from snn_rl.exchange.archive import WEIGHTS_LIMIT, read_member, read_state_dict


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def zipped(path: Path, members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_the_weights_of_a_real_stable_baselines_agent_are_read(tmp_path: Path) -> None:
    sb3 = runtime_or_skip("stable_baselines3")
    model = sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=10)
    model.save(tmp_path / "model.zip")
    content = read_member(tmp_path / "model.zip", "policy.pth", WEIGHTS_LIMIT)
    found = read_state_dict(content, "policy.pth")
    expected = model.policy.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_member_that_unpacks_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bomb.zip", {"data": bytes(3 * 2**20)})
    assert path.stat().st_size < 10_000
    assert len(read_member(path, "data", 3 * 2**20)) == 3 * 2**20
    with pytest.raises(SnnRlError, match="more than 2 MiB"):
        read_member(path, "data", 2 * 2**20)


def test_what_is_no_such_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnnRlError, match="there is no file"):
        read_member(tmp_path / "none.zip", "data", 1)
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(SnnRlError, match="no zip file"):
        read_member(tmp_path / "text.zip", "data", 1)
    with pytest.raises(SnnRlError, match="holds no data"):
        read_member(zipped(tmp_path / "other.zip", {"readme": b""}), "data", 1)
    many = zipped(tmp_path / "many.zip", {str(n): b"" for n in range(300)})
    with pytest.raises(SnnRlError, match="more than 256 files"):
        read_member(many, "0", 1)


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "model.zip", {"data": bytes(range(256)) * 40}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(SnnRlError, match="damaged"):
        read_member(path, "data", 2**20)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SnnRlError, match="damaged"):
        read_member(path, "data", 2**20)


class _Command:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_in_the_weights_is_never_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    hostile = {"weight": _Command(trace)}
    for content in (saved(hostile), saved(hostile, _use_new_zipfile_serialization=False)):
        with pytest.raises(SnnRlError):
            read_state_dict(content, "policy.pth")
    with pytest.raises(SnnRlError, match="old format"):
        read_state_dict(pickle.dumps(hostile), "policy.pth")
    assert not trace.exists()


def test_weights_that_are_no_state_dict_are_refused() -> None:
    for value in (torch.ones(2), {}, {"a": 1}, {"a": {"b": torch.ones(1)}}):
        with pytest.raises(SnnRlError, match="no state dict"):
            read_state_dict(saved(value), "weights.pth")


def test_compressed_weights_are_refused() -> None:
    packed = io.BytesIO()
    plain = io.BytesIO(saved({"a": torch.zeros(9)}))
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(SnnRlError, match="compressed"):
        read_state_dict(packed.getvalue(), "weights.pth")


def test_a_flipped_bit_is_no_other_weight() -> None:
    content = bytearray(saved({"a": torch.ones(9)}))
    content[content.index(torch.ones(9).numpy().tobytes())] ^= 1
    with pytest.raises(SnnRlError, match="checksum"):
        read_state_dict(bytes(content), "weights.pth")


def test_a_torch_that_is_not_safe_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "torch_release", lambda: (2, 9))
    with pytest.raises(SnnRlError, match=r"install torch >= 2\.10"):
        read_state_dict(saved({"a": torch.zeros(1)}), "weights.pth")
