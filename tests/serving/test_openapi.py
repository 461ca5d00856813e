"""The description of the server: its exported copy is current, and the server keeps to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mscsa_deploy.serving.openapi import description, text

EXPORTED = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_exported_copy_is_current():
    if EXPORTED.read_text(encoding="utf-8") != text():
        EXPORTED.write_text(text(), encoding="utf-8")
        pytest.fail("docs/openapi.json was out of date and has been written anew; look at it and run again")


def test_server_hands_out_the_description(client):
    assert client.get("/openapi.json").json == description()


def test_every_route_is_described_and_every_described_path_exists(client):
    from mscsa_deploy.serving.application import Handlers, Service

    routes = {route.path for route in Handlers(Service(()), client.repository).routes()}
    pages = {"/", "/page.js", "/page.css", "/v2/"}
    assert set(description()["paths"]) == routes - pages


def test_references_resolve():
    named = set(re.findall(r'"#/components/schemas/(\w+)"', text()))
    assert named == set(description()["components"]["schemas"])


def resolved(schema):
    """The schema with its references replaced, so that a plain checker can read it."""
    schemas = description()["components"]["schemas"]
    if "$ref" in schema:
        return resolved(schemas[schema["$ref"].rsplit("/", 1)[1]])
    return schema


KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def check(value, schema):
    """Judge `value` by the few keywords that the description uses."""
    schema = resolved(schema)
    if "type" in schema:
        assert isinstance(value, KINDS[schema["type"]]), (value, schema)
    if "enum" in schema:
        assert value in schema["enum"]
    for name in schema.get("required", []):
        assert name in value
    for name, inner in schema.get("properties", {}).items():
        if name in value:
            check(value[name], inner)
    for item in value if schema.get("type") == "array" else []:
        check(item, schema.get("items", {}))


@pytest.mark.parametrize("model", ["colors", "color"])
def test_answers_keep_to_the_description(client, tiny, model):
    paths = description()["paths"]
    for path, item in paths.items():
        place = path.replace("{name}", model).replace("{version}", "1")
        if "get" not in item or path in ("/metrics", "/openapi.json"):
            continue
        schema = item["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        check(client.get(place).json, schema)
        if "{name}" in path:
            missing = client.get(path.replace("{name}", "none").replace("{version}", "1"))
            error = item["get"]["responses"][str(missing.status)]["content"]["application/json"]["schema"]
            check(missing.json, error)
    answers = paths["/v2/models/{name}/picture"]["post"]["responses"]
    check(
        client.picture(tiny.picture(tiny.scene()), model=model).json,
        answers["200"]["content"]["application/json"]["schema"],
    )
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 3], "data": [1, 2, 3]}
    inference = paths["/v2/models/{name}/infer"]["post"]["responses"]
    check(
        client.infer({"inputs": [pixels]}, model=model).json,
        inference["200"]["content"]["application/json"]["schema"],
    )
