"""A released message changes only by growing: what each contract admits is compared with what it admitted when released.

`released_schemas.json` is written by `python -m tests.events.test_released_schemas`, which adds what grew and refuses
everything else: that needs a new version (CONTRIBUTING.md).
"""

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events.envelope import CONTRACTS
from events.vocabulary import Actor

RELEASED = Path(__file__).parent / "released_schemas.json"
SAID_TO_PEOPLE = {"title", "description", "examples"}
"""What may be worded better at any time."""

Schema = dict[str, Any]


def schemas_of_today() -> Schema:
    names = [*sorted(CONTRACTS), "actor"]
    wanted = [CONTRACTS.get(name, Actor) for name in names]
    schemas, components = msgspec.json.schema_components(wanted, ref_template="#/{name}")
    return json.loads(written({"contracts": dict(zip(names, schemas, strict=True)), "components": components}))


def written(schemas: Schema) -> str:
    return json.dumps(schemas, indent=1, sort_keys=True) + "\n"


def breaks(released: Schema, today: Schema) -> Iterator[str]:
    """Each way in which a reader or a writer of the released schemas could no longer rely on them."""
    for name, schema in released["contracts"].items():
        if name in today["contracts"]:
            yield from _breaks(schema, today["contracts"][name], released, today, name)
        else:
            yield f"{name}: was released and is gone"


def _breaks(old: Schema, new: Schema, released: Schema, today: Schema, where: str) -> Iterator[str]:
    old, new = _resolved(old, released), _resolved(new, today)
    for keyword in sorted(
        (old.keys() | new.keys()) - SAID_TO_PEOPLE - {"properties", "items", "anyOf", "enum", "required"}
    ):
        if old.get(keyword) != new.get(keyword):
            yield f"{where}: {keyword} was {old.get(keyword)}, is {new.get(keyword)}"
    if gone := [code for code in old.get("enum", []) if code not in new.get("enum", [])]:
        yield f"{where}: code {gone[0]} is gone"
    if "enum" in new and "enum" not in old:
        yield f"{where}: was any value, is a list of codes"
    fields, now = old.get("properties", {}), new.get("properties", {})
    if changed := sorted(set(old.get("required", [])) ^ set(new.get("required", []))):
        yield f"{where}.{changed[0]}: must be there in one and need not in the other"
    for name, field in fields.items():
        if name in now:
            yield from _breaks(field, now[name], released, today, f"{where}.{name}")
        else:
            yield f"{where}.{name}: is gone"
    for name in now.keys() - fields.keys():
        if "default" not in now[name]:
            yield f"{where}.{name}: is new and has no default"
    old_ways, new_ways = old.get("anyOf", []), new.get("anyOf", [])
    if len(old_ways) != len(new_ways):
        yield f"{where}: has other alternatives"
    for one, other in zip(old_ways, new_ways, strict=False):
        yield from _breaks(one, other, released, today, where)
    if "items" in old and "items" in new:
        yield from _breaks(old["items"], new["items"], released, today, f"{where}[]")
    elif ("items" in old) != ("items" in new):
        yield f"{where}: is another kind of list"


def _resolved(schema: Schema, all_schemas: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    beside = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
    return all_schemas["components"][schema["$ref"].removeprefix("#/")] | beside


def released() -> Schema:
    return json.loads(RELEASED.read_text())


def test_no_released_message_has_changed_in_a_way_its_readers_could_not_know() -> None:
    assert list(breaks(released(), schemas_of_today())) == [], "this needs a new version: see CONTRIBUTING.md"


def test_what_grew_is_written_down_so_that_it_cannot_shrink_again() -> None:
    assert written(schemas_of_today()) == RELEASED.read_text(), "run `python -m tests.events.test_released_schemas`"


# That each change is noticed


def small() -> Schema:
    """A contract with one field of each kind."""
    return {
        "contracts": {"thing.v1": {"$ref": "#/Thing"}},
        "components": {
            "Thing": {
                "type": "object",
                "properties": {
                    "type": {"enum": ["thing.v1"]},
                    "id": {"type": "string", "minLength": 1, "maxLength": 80},
                    "code": {"$ref": "#/Code"},
                    "count": {"type": "integer", "default": 0},
                    "when": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}], "default": None},
                    "many": {"type": "array", "items": {"$ref": "#/Code"}, "default": []},
                },
                "required": ["type", "id", "code"],
            },
            "Code": {"enum": ["a", "b"]},
        },
    }


def changed(change: Callable[[Schema, Schema], object]) -> list[str]:
    """What is noticed after a change of the fields or of the components."""
    today = copy.deepcopy(small())
    change(today["components"]["Thing"], today["components"])
    return list(breaks(small(), today))


FORBIDDEN: dict[str, Callable[[Schema, Schema], object]] = {
    "a field is gone": lambda thing, _: thing["properties"].pop("count"),
    "a field is renamed": lambda thing, _: thing["properties"].update(number=thing["properties"].pop("count")),
    "a field has another type": lambda thing, _: thing["properties"]["count"].update(type="string"),
    "a default is another": lambda thing, _: thing["properties"]["count"].update(default=1),
    "a default is gone": lambda thing, _: thing["properties"]["count"].pop("default"),
    "an optional field must be there": lambda thing, _: thing["required"].append("count"),
    "a field need not be there any more": lambda thing, _: thing["required"].remove("id"),
    "a new field must be there": lambda thing, _: (
        thing["properties"].update(new={"type": "string", "default": ""}),
        thing["required"].append("new"),
    ),
    "a new field has no default": lambda thing, _: thing["properties"].update(new={"type": "string"}),
    "a text may be less long": lambda thing, _: thing["properties"]["id"].update(maxLength=40),
    "a text may be longer": lambda thing, _: thing["properties"]["id"].update(maxLength=160),
    "a text has a pattern": lambda thing, _: thing["properties"]["id"].update(pattern="^a"),
    "a code is gone": lambda _, components: components["Code"]["enum"].remove("a"),
    "a value may be missing": lambda thing, _: thing["properties"]["when"]["anyOf"].pop(),
    "a time is a date": lambda thing, _: thing["properties"]["when"]["anyOf"][0].update(format="date"),
    "a list holds something else": lambda thing, _: thing["properties"]["many"].update(items={"type": "string"}),
    "it is called otherwise": lambda thing, _: thing["properties"]["type"].update(enum=["thing.v2"]),
}
ALLOWED: dict[str, Callable[[Schema, Schema], object]] = {
    "nothing": lambda *_: None,
    "a new field has a default": lambda thing, _: thing["properties"].update(new={"type": "string", "default": ""}),
    "a code list grows": lambda _, components: components["Code"]["enum"].append("c"),
    "it is explained better": lambda thing, _: thing.update(description="A thing."),
}


@pytest.mark.parametrize("change", FORBIDDEN)
def test_a_change_that_needs_a_new_version_is_noticed(change: str) -> None:
    assert len(changed(FORBIDDEN[change])) >= 1


@pytest.mark.parametrize("change", ALLOWED)
def test_growing_needs_none(change: str) -> None:
    assert changed(ALLOWED[change]) == []


def test_a_contract_that_is_gone_is_noticed_and_a_new_one_is_not() -> None:
    more = small()
    more["contracts"]["other.v1"] = {"$ref": "#/Thing"}
    assert list(breaks(small(), more)) == []
    assert list(breaks(more, small())) == ["other.v1: was released and is gone"]


def main() -> int:
    today = schemas_of_today()
    refused = list(breaks(released(), today)) if RELEASED.exists() else []
    if refused:
        sys.stderr.write("".join(f"{what}\n" for what in refused) + "This needs a new version: see CONTRIBUTING.md\n")
        return 1
    RELEASED.write_text(written(today))
    return 0


if __name__ == "__main__":
    sys.exit(main())
