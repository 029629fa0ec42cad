"""A configuration as text: read from a TOML file, overridden from the command line, written back, complained about.

It does not know which keys there are.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agentgrpo.errors import ConfigError, nearest

M = TypeVar("M", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a file; the files and modules it names are looked for beside it as well."""
    try:
        return _anchor(tomllib.loads(path.read_text(encoding="utf-8")), path.parent)
    except FileNotFoundError as error:
        here = ", ".join(sorted(p.name for p in path.parent.glob("*.toml"))) if path.parent.is_dir() else ""
        raise ConfigError(f"no config file '{path}'. TOML files there: {here or 'none'}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"'{path}' is not a readable TOML file: {error}") from error


def validate(model: type[M], data: Mapping[str, Any], where: str = "") -> M:
    """Validate data against a section; one ConfigError names every key that is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, item) for item in error.errors()]
        raise ConfigError("\n".join(f"{where}{line}" for line in lines)) from error


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set the key of a "section.key=value" string; the value is read as TOML, else as a plain string."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set takes section.key=value, got '{override}'")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, leaf = key.strip().split(".")
    for section in sections:
        inner = data.get(section)
        data[section] = dict(inner) if isinstance(inner, Mapping) else {}
        data = data[section]
    data[leaf] = value


def write_toml(data: Mapping[str, Any]) -> str:
    """Return plain data as TOML."""
    return "\n".join(_toml_lines(data, "")) + "\n"


def no_toml(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of plain data that would not be read from TOML as they were written."""
    if type(value) is dict and all(type(name) is str for name in value):
        for name, item in value.items():
            yield from no_toml(item, f"{key}.{name}" if key else name)
    elif type(value) is list:
        for index, item in enumerate(value):
            yield from no_toml(item, f"{key}[{index}]")
    elif isinstance(value, Mapping) or not _is_kept(value):
        yield key, value


def _is_kept(value: Any) -> bool:
    text = _toml_value(value)
    try:
        again = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return False
    return type(again) is type(value) and _toml_value(again) == text


def _anchor(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Let a config file name its neighbours: task files and env modules beside it are found from anywhere."""
    for key in ("tasks", "heldout"):
        _anchor_file(data, key, folder)
    for key in ("env", "reward"):
        module, colon, item = str(data.get(key, "")).partition(":")
        file = folder / (module if module.endswith(".py") else f"{module.replace('.', '/')}.py")
        if colon and file.is_file():
            data[key] = f"{file.resolve()}:{item}"
    if isinstance(judge := data.get("judge"), dict):
        _anchor_file(judge, "rubric_file", folder)
    arguments = data.get("env_args")
    parts = arguments.get("parts") if isinstance(arguments, dict) else None
    for part in parts if isinstance(parts, list) else ():  # of a mixture of environments
        if isinstance(part, dict):
            _anchor(part, folder)
    return data


def _anchor_file(data: dict[str, Any], key: str, folder: Path) -> None:
    name = data.get(key)
    if isinstance(name, str) and not Path(name).exists() and (folder / name).exists():
        data[key] = str((folder / name).resolve())


def _explain(model: type[BaseModel], item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    key = ".".join(location) or "config"
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f"unknown key '{key}'.{nearest(location[-1], known)} Known there: {', '.join(known)}."
    if item["type"] == "value_error":
        return f"{key}: {item['msg'].removeprefix('Value error, ')}"
    return f"{key} = {item['input']!r}: {item['msg']}"


def _keys_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return sorted(model.model_fields)


def _toml_lines(data: Mapping[str, Any], prefix: str) -> list[str]:
    lines = [f"{_toml_key(k)} = {_toml_value(v)}" for k, v in data.items() if not _is_table(v)]
    for key, value in data.items():
        if _is_table(value):
            name = f"{prefix}{_toml_key(key)}"
            lines += ["", f"[{name}]", *_toml_lines(value, f"{name}.")]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    return _toml_string(str(value))


def _toml_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    # TOML takes no control character as it is.
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c for c in escaped) + '"'
