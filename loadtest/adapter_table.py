"""The table of an adapter's options: read from a file, with names that are found from anywhere."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from .adapter import AdapterError


def read_adapter_file(path: Path) -> tuple[str | None, dict[str, Any]]:
    """The name (None when the file has none) and the options of an adapter: the table ``[adapter]`` of a TOML file, or else the whole
    of it; the same of a JSON file. A ``path/to/mine.py:Class`` in it is relative to it. AdapterError when it is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise AdapterError(f"cannot read the adapter file {path}: {error.strerror}") from None
    except ValueError as error:
        raise AdapterError(f"the adapter file {path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if isinstance(table, dict) and "adapter" in table:
        table = table["adapter"]
    if not isinstance(table, dict):
        raise AdapterError(f"expected a table of options in the adapter file {path}, found {type(table).__name__}")
    name = table.pop("name", None)
    if name is not None and (not isinstance(name, str) or not name):
        raise AdapterError(f"expected the name in the adapter file {path} as that of an adapter, found {name!r}")
    return (None if name is None else resolved(name, path.parent)), table


def resolved(name: str, folder: Path) -> str:
    """An adapter's name whose file, where it is one, is found from anywhere."""
    place, separator, attribute = name.rpartition(":")
    if separator and place.endswith(".py"):
        return f"{(folder / Path(place).expanduser()).resolve()}:{attribute}"
    return name
