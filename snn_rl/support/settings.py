"""Typed settings from YAML files and `key=value` texts; every mistake is named with its path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from snn_rl.errors import ConfigError, SnnRlError
from snn_rl.support.files import read_text


class Section(BaseModel):
    """Base of all settings: frozen, strictly typed, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def _as_whole(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdecimal() else key


WholeKey = Annotated[int, BeforeValidator(_as_whole)]
"""A whole number as the key of a mapping, of which JSON makes a text."""

Settings = TypeVar("Settings", bound=Section)


def validate(kind: type[Settings], data: Mapping[str, Any], source: str) -> Settings:
    """Settings of type `kind` from plain data.

    Raises:
        ConfigError: the first mistake: `source`, the path of the key, and what is allowed.
    """
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(error, kind)}") from None


def shipped(name: str) -> dict[str, Any]:
    """Settings shipped as configs/<name>.yaml, or {} where there are none."""
    file = resources.files("snn_rl.configs") / f"{name}.yaml"
    return dict(_parse(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def shipped_names() -> list[str]:
    """Names of the files in configs/, without .yaml."""
    files = (file.name for file in resources.files("snn_rl.configs").iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top, section by section; an empty mapping empties a section."""
    result = dict(base)
    for key, value in changes.items():
        both = bool(value) and isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from Python as a file would hold them: NumPy's numbers and tuples are taken, too."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: convert(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple | np.ndarray):
            return [convert(entry) for entry in value]
        return value.item() if isinstance(value, np.generic) else value

    return {key: convert(value) for key, value in settings.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """Plain data of a YAML file. Raises ConfigError if it is not a mapping."""
    try:
        data = _parse(read_text(path))
    except SnnRlError as error:
        raise ConfigError(str(error)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values, e.g. 'seed: 0'")
    return data


def override(base: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`base` with 'section.key=value' texts on top, one after the other: section={} empties what
    came before it, and only that. Raises ConfigError as `parse_overrides`."""
    result = dict(base)
    for text in overrides:
        result = merge(result, parse_overrides([text]))
    return result


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Nested settings from 'section.key=value' texts; values are read as YAML.

    Raises:
        ConfigError: a text that is not of this form.
    """
    result: dict[str, Any] = {}
    for setting in overrides:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting!r} must look like key=value, e.g. ann.gamma=0.99")
        value = parse_value(text, f"--set {path}")
        for key in reversed(path.split(".")):
            value = {int(key) if key.isdecimal() else key: value}
        result = merge(result, value)
    return result


def parse_value(text: str, source: str) -> Any:
    """A value that is written as YAML. Raises ConfigError, which names `source`."""
    try:
        return _parse(text)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{source}: {text!r} is not a YAML value") from None


class _Loader(yaml.SafeLoader):
    """YAML whose floats need no point: 5e-4, as in YAML 1.2, JSON and Python."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse(text: str) -> Any:
    return yaml.load(text, _Loader)


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first mistake: where, what, and what is allowed."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = _section(kind, first["loc"][:-1]).model_fields
        close = difflib.get_close_matches(str(first["loc"][-1]), allowed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key '{path}'; {hint}allowed are {', '.join(allowed)}"
    if first["type"] == "missing":
        return f"'{path}' is missing"
    if first["type"] == "model_type":
        return f"{path} must hold keys and values, not {first['input']!r}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f", not {first['input']!r}"
    return f"{path + ': ' if path else ''}{message}{shown}"


def _section(kind: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    section: Any = kind
    for part in path:
        section = section.model_fields[part].annotation
    found: type[BaseModel] = section
    return found
