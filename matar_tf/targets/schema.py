"""The JSON Schema of target files, for editors and other programs."""

from __future__ import annotations

from typing import Any, cast

from matar_tf.targets.target import Target

__all__ = ["target_json_schema"]


def target_json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of a target file.

    It knows keys, types, ranges and choices. What ties keys together (a rate for each
    pair of widths, the class, what needs a [cpu]) is checked by `load_target` only.
    """
    schema = Target.model_json_schema(by_alias=True)
    table = cast("dict[str, Any]", schema["$defs"]["TableCompute"])
    # The rows stand in a CSV file of their own.
    del table["properties"]["entries"]
    table["required"].remove("entries")
    del schema["$defs"]["TableEntry"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
