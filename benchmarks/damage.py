"""One thing at random that is wrong with a saved agent or a file of a run, for fuzz.py."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

CANARY = "canary_of_the_fuzzer"
"""A module that a damaged card names: nothing may ever import it."""
NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, 7, 64, 255, 1024, 2**24, 10**6, 10**9, 2**63, 10**30, 0.5, -0.0, 1e-30, 1e30,
    1e308, float("inf"), float("nan"), True, False, None, "", "1", "false", f"{CANARY}:CartPole-v1",
    [], {}, [1], [10**9], [2**24, 2**24], {"a": 1}, "\x1b[2J", "../..", [[[]]],
]  # fmt: skip


def mutate_agent(folder: Path, generator: np.random.Generator) -> str:
    """Change one thing about a saved agent; returns what."""
    kind = generator.choice(["card", "card", "card", "graph", "weights", "weights", "file"])
    card = json.loads((folder / "agent.json").read_text())
    if kind == "card":
        path = _change(card, generator)
        (folder / "agent.json").write_text(json.dumps(card))
        return f"card {path}"
    if kind == "graph":
        nodes, what = card["graph"], int(generator.integers(4))
        i, j = generator.integers(len(nodes), size=2).tolist()
        if what == 0:
            del nodes[i]
        elif what == 1:
            nodes[i], nodes[j] = nodes[j], nodes[i]
        elif what == 2:
            nodes.insert(j, copy.deepcopy(nodes[i]))
        else:
            nodes[i]["inputs"] = [nodes[j]["name"]] * len(nodes[i]["inputs"])
        (folder / "agent.json").write_text(json.dumps(card))
        return f"graph {what} {i} {j}"
    if kind == "weights":
        what = _change_weights(folder, generator)
        if generator.random() < 0.8:  # as one who means it would
            digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
            (folder / "agent.json").write_text(json.dumps({**card, "weights_sha256": digest}))
        return what
    return mutate_file(
        folder / str(generator.choice(["agent.json", "weights.safetensors"])), generator
    )


def mutate_file(path: Path, generator: np.random.Generator) -> str:
    """Damage a file, or put something else in its place; returns what."""
    kind = str(
        generator.choice(["bit", "bit", "truncate", "link", "pipe", "folder", "gone", "huge"])
    )
    whole = path.read_bytes()
    if kind == "bit" and whole:
        place = int(generator.integers(len(whole)))
        changed = bytearray(whole)
        changed[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
    elif kind == "truncate":
        path.write_bytes(whole[: int(generator.integers(len(whole) + 1))])
    elif kind == "huge":
        os.truncate(path, 2**36)
    else:
        path.unlink()
        if kind == "link":
            path.symlink_to("/dev/zero")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
    return f"{path.name} {kind}"


def _change(card: dict[str, Any], generator: np.random.Generator) -> str:
    """Replace, remove or add to a random place of a JSON document; returns where."""
    places: list[tuple[Any, Any, str]] = []

    def walk(value: Any, path: str) -> None:
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in list(entries):
            places.append((value, key, f"{path}.{key}"))
            if isinstance(entry, dict | list):
                walk(entry, f"{path}.{key}")

    walk(card, "")
    holder, key, path = places[int(generator.integers(len(places)))]
    if generator.random() < 0.1:
        del holder[key]
        return f"{path} removed"
    value = NUMBERS[int(generator.integers(len(NUMBERS)))]
    holder[key] = value
    return f"{path} = {value!r}"


def _change_weights(folder: Path, generator: np.random.Generator) -> str:
    path = folder / "weights.safetensors"
    arrays = load_file(path)
    name = str(generator.choice(sorted(arrays)))
    value, what = arrays[name], int(generator.integers(5))
    if what == 0:
        flat = value.copy().reshape(-1).view(np.uint8)
        flat[int(generator.integers(len(flat)))] ^= 1 << int(generator.integers(8))
        arrays[name] = flat.view(value.dtype).reshape(value.shape)
    elif what == 1:
        kinds = ["float16", "float32", "float64", "int8", "int16", "int32", "uint8", "bool"]
        arrays[name] = value.astype(str(generator.choice(kinds)))
    elif what == 2:
        arrays[name] = np.full_like(value, generator.choice([-32768, 0, 1, 32767]))
    elif what == 3:
        arrays[name] = value.reshape(-1)[:-1].copy()
    else:
        del arrays[name]
    save_file(arrays, path)
    return f"weights {name} {what}"
