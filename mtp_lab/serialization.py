"""Configs as plain mappings and back, their canonical JSON, and its hash: the identity of a trained run.

A dataclass with a class-level `name` (a task) stores this name under "kind", which selects the class of a union on
reading. A field that was added later (`metadata=LATER`) is left out at its default, and a renamed field keeps its key
(`metadata=stored_as(key)`). So older runs keep their hash and are still found.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

LATER = {"later": True}
"""Metadata of a field that was added when runs already existed. Its default is the behaviour of these runs."""


def stored_as(key: str) -> dict[str, str]:
    """Metadata of a renamed field: it keeps its old key in JSON, so that runs keep their hash."""
    return {"key": key}


def key_of(field: Field) -> str:
    """The JSON key of a dataclass field."""
    return field.metadata.get("key", field.name)


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass, and the dataclasses inside it, as mappings that JSON can write."""
    values = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if not ("later" in field.metadata and value == field.default):
            values[key_of(field)] = value
    mapping = {name: to_mapping(value) if is_dataclass(value) else value for name, value in values.items()}
    return mapping | ({"kind": type(config).name} if _named(type(config)) else {})


def from_mapping(kind: type, mapping: Mapping[str, Any]) -> Any:
    """A dataclass of type `kind`, or of one of the types of a union, from the result of `to_mapping`.

    Raises:
        ValueError: for an unknown kind, for unknown or missing fields, and for values that the dataclass refuses.
    """
    try:
        kinds = {member.name: member for member in get_args(kind) or (kind,) if _named(member)}
        if kinds:
            mapping = dict(mapping)
            stored_kind = mapping.pop("kind")
            if stored_kind not in kinds:
                raise TypeError(f"kind {stored_kind!r} is none of {', '.join(kinds)}")
            kind = kinds[stored_kind]
        types = get_type_hints(kind)
        names = {key_of(field): field.name for field in fields(kind)}
        for field in fields(kind):  # the version that wrote the mapping may have had another default
            if key_of(field) not in mapping and "later" not in field.metadata:
                raise KeyError(key_of(field))
        values = {names.get(key, key): value for key, value in mapping.items()}
        return kind(**{name: _value(name, types.get(name), value) for name, value in values.items()})
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a config of this version of mtp-lab: {error}") from error


def _named(kind: type) -> bool:
    """Whether mappings store the class's name under "kind": the class has a `name` that is not a field."""
    return hasattr(kind, "name") and "name" not in {field.name for field in fields(kind)}


def _value(name: str, kind: Any, value: Any) -> Any:
    nested = any(is_dataclass(member) for member in get_args(kind) or (kind,))
    if nested != isinstance(value, Mapping):
        raise TypeError(f"{name}={value!r}")
    if nested:
        return from_mapping(kind, value)
    return tuple(value) if isinstance(value, list) else value


def canonical_json(config: Any) -> str:
    """A dataclass as JSON with sorted keys: equal configs give equal strings on every machine."""
    return json.dumps(to_mapping(config), sort_keys=True, separators=(",", ":"))


def config_hash(config: Any, length: int = 10) -> str:
    """The first hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:length]
