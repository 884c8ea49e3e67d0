"""The JSON Schema of a plan file, for editors and other tools; `pgduet schema` prints it.

It is made from the models. What they check across keys (each replaced column has its `down`, no column is changed
twice, steps rise) cannot be said in a schema: a plan that the schema accepts may still be refused.
"""

from typing import Any

from pgduet.plan.models import IMPLEMENTED, KNOWN_OPERATIONS, Plan

_MODELS = {name: "".join(part.capitalize() for part in name.split("_")) for name in KNOWN_OPERATIONS}


def json_schema() -> dict[str, Any]:
    """Build the schema of a plan file, in JSON Schema 2020-12."""
    schema = Plan.model_json_schema(by_alias=True)
    parts = schema["$defs"]
    for name in KNOWN_OPERATIONS:
        if name not in IMPLEMENTED:
            parts.pop(_MODELS[name], None)
    for name in IMPLEMENTED:
        parts[_MODELS[name]]["properties"].pop("kind")
    parts["ReplaceColumns"]["properties"]["columns"]["items"] |= {
        "required": ["up"],
        "properties": {"up": {"type": "string"}, "default": {"type": "null"}},
    }
    parts["ReplaceColumns"]["required"].append("down")
    # What may be written short: a column's name, an operator class's, a partition's with its bound.
    columns = parts["CreateIndex"]["properties"]["columns"]
    columns["items"] = {"anyOf": [{"type": "string"}, columns["items"]]}
    parts["IndexColumn"]["properties"]["opclass"]["anyOf"].append({"type": "string"})
    columns = parts["ExtractTable"]["properties"]["columns"]
    columns["items"] = {"anyOf": [{"type": "string"}, columns["items"]]}
    partitions = parts["PartitionBy"]["properties"]["partitions"]
    bounds = {"type": "object", "additionalProperties": {"type": "string"}}
    parts["PartitionBy"]["properties"]["partitions"] = {"anyOf": [partitions, bounds]}
    schema["properties"]["operations"]["items"] = {"oneOf": [_one_key(name) for name in IMPLEMENTED]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "pgduet plan"}


def _one_key(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"$ref": f"#/$defs/{_MODELS[name]}"}},
        "required": [name],
        "additionalProperties": False,
    }
