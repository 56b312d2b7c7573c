"""One message of the AsyncAPI document as a page shows it: its headers, its fields, and all that they are made of."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

Schema = Mapping[str, Any]


class Field(NamedTuple):
    """One header, or one field of a body."""

    name: str
    kind: str
    is_required: bool
    meaning: str


class Body(NamedTuple):
    """What one schema says: fields, or the values of a code list."""

    name: str
    meaning: str
    fields: list[Field]
    values: list[str]


class Message:
    """One message, with everything it refers to."""

    def __init__(self, document: Schema, name: str) -> None:
        message = document["components"]["messages"][name]
        self._schemas: Schema = document["components"]["schemas"]
        self.name = name
        self.version = name.rpartition(".")[2]
        self.topic = next(c["address"] for c in document["channels"].values() if name in c["messages"])
        self.headers = [Field(*row) for row in self._headers(message)]
        self.bodies = [Body(*row) for row in self._bodies(_name_of(message["payload"]))]
        """Its own first, then those of the values it holds."""
        self.examples = [
            (one["headers"], msgspec.json.format(msgspec.json.encode(one["payload"]), indent=2).decode())
            for one in message.get("examples", ())
        ]

    def _headers(self, message: Schema) -> Iterator[tuple[str, str, bool, str]]:
        general, special = message["headers"]["allOf"]
        schema = self._schemas[_name_of(general)]
        for name, what in schema["properties"].items():
            here = special["properties"].get(name, what)
            yield name, kind_of(here), name in schema["required"], what.get("description", "")

    def _bodies(self, first: str) -> Iterator[tuple[str, str, list[Field], list[str]]]:
        waiting, seen = [first], set()
        while waiting:
            name = waiting.pop(0)
            if name in seen:
                continue
            seen.add(name)
            schema = self._schemas[name]
            waiting += _references(schema)
            required = schema.get("required", ())
            fields = [
                Field(field, kind_of(what), field in required, what.get("description", ""))
                for field, what in schema.get("properties", {}).items()
            ]
            yield (
                name,
                " ".join(schema.get("description", "").split()),
                fields,
                [str(v) for v in schema.get("enum", ())],
            )


def _references(schema: Any) -> Iterator[str]:
    """Names of the schemas that a schema holds, in order."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield _name_of(schema)
        for part in schema.values():
            yield from _references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _references(part)


def _name_of(reference: Schema) -> str:
    return str(reference["$ref"].rpartition("/")[2])


def kind_of(schema: Schema) -> str:
    """What a value is, on one line: `list of DangerZone`, `string, 1 to 80 characters`, `integer, 0 to 40`."""
    if "$ref" in schema:
        return _name_of(schema)
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return " | ".join(f'"{value}"' for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(map(kind_of, schema["anyOf"]))
    match schema.get("type"):
        case "array":
            return f"list of {kind_of(schema['items'])}" if "items" in schema else "list"
        case "object":
            return (
                f"names to {kind_of(schema['additionalProperties'])}" if "additionalProperties" in schema else "object"
            )
        case kind:
            return ", ".join([str(kind), *_bounds(schema)])


def _bounds(schema: Schema) -> Iterator[str]:
    if "format" in schema:
        yield schema["format"]
    if "pattern" in schema:
        yield schema["pattern"].removeprefix(r"\A").removesuffix(r"\Z")
    if "minLength" in schema or "maxLength" in schema:
        yield f"{schema.get('minLength', 0)} to {schema.get('maxLength', 'any number of')} characters"
    if "minimum" in schema or "maximum" in schema:
        yield f"{schema.get('minimum', 'any')} to {schema.get('maximum', 'any')}"
