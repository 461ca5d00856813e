"""The OpenAPI description of the server; ``docs/openapi.json`` is its exported copy."""

from __future__ import annotations

from typing import Any

from mscsa_deploy import __version__
from mscsa_deploy.core.config import to_json
from mscsa_deploy.serving.calls import ANSWERS
from mscsa_deploy.serving.datatypes import DATATYPES, MAX_RANK

Json = dict[str, Any]

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_TIMEOUT = {
    "name": "x-timeout-ms",
    "in": "header",
    "description": "The client's own deadline in milliseconds; only ever shortens the server's.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}
_HEADER_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of JSON at the start of the body; the binary tensors follow.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999_999},
}
_ANSWER = {
    "name": "answer",
    "in": "query",
    "description": "json: classes with shares or probabilities; class_map: PNG of class numbers; overlay: PNG.",
    "schema": {"type": "string", "enum": list(ANSWERS), "default": "json"},
}
_ERRORS = {
    400: "The request does not fit the protocol or the model.",
    401: "The bearer token is missing or wrong.",
    404: "No such model or version.",
    408: "The body came too slowly.",
    413: "The body or the picture is too large.",
    415: "The media type, encoding or picture format is not taken.",
    500: "The runtime failed.",
    501: "This machine cannot serve that.",
    503: "Too many requests are waiting; Retry-After says when to come again.",
    504: "The deadline passed.",
}


def description() -> Json:
    """The OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mscsa-deploy",
            "version": __version__,
            "description": "Open Inference Protocol v2 with the binary tensor extension, and pictures straight in.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _paths() -> Json:
    paths: Json = {
        "/v2": _get("Server metadata", "Server"),
        "/v2/health/live": _get("Whether the server answers", "Live", 503),
        "/v2/health/ready": _get("Whether every model can take requests", "Ready", 503),
        "/v2/repository/index": {
            **(index := _get("Models and versions", "Index")),
            "post": {**index["get"], "summary": "The same, as Triton's clients ask for it"},
        },
        "/metrics": {"get": {"summary": "Prometheus metrics", "responses": {"200": _content("text/plain", {})}}},
        "/openapi.json": {"get": {"summary": "This document", "responses": {"200": _content("application/json", {})}}},
    }
    for base, extra in (("/v2/models/{name}", []), ("/v2/models/{name}/versions/{version}", [_VERSION])):
        shared = {"parameters": [_NAME, *extra]}
        paths[base] = {**shared, **_get("Model metadata", "Model", 404)}
        paths[f"{base}/ready"] = {**shared, **_get("Whether the model can take requests", "ModelReady", 404)}
        paths[f"{base}/infer"] = {**shared, "post": _infer()}
        paths[f"{base}/picture"] = {**shared, "post": _picture()}
    return paths


def _infer() -> Json:
    return {
        "summary": "Inference",
        "parameters": [_TIMEOUT, _HEADER_LENGTH],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("Request")},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {
            "200": {
                "description": "The outputs; as octets, JSON of Inference-Header-Content-Length bytes comes first.",
                "content": {
                    "application/json": {"schema": _ref("Response")},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                },
            },
            **_errors(*_ERRORS),
        },
    }


def _picture() -> Json:
    binary = {"schema": {"type": "string", "format": "binary"}}
    kinds = ("image/jpeg", "image/png", "application/octet-stream")
    return {
        "summary": "A picture file in, its answer out, with the model's own preprocessing",
        "parameters": [_TIMEOUT, _ANSWER],
        "requestBody": {"required": True, "content": dict.fromkeys(kinds, binary)},
        "responses": {
            "200": {
                "description": "The answer",
                "content": {"application/json": {"schema": _ref("Answer")}, "image/png": binary},
            },
            **_errors(*_ERRORS),
        },
    }


def _get(summary: str, schema: str, *errors: int) -> Json:
    return {
        "get": {
            "summary": summary,
            "responses": {"200": _content("application/json", _ref(schema)), **_errors(401, *errors)},
        }
    }


def _content(kind: str, schema: Json) -> Json:
    return {"description": "OK", "content": {kind: {"schema": schema}}}


def _errors(*statuses: int) -> Json:
    return {
        str(status): {
            "description": _ERRORS[status],
            "content": {"application/json": {"schema": _ref("Error")}},
        }
        for status in statuses
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str = "", **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": required.split() or list(properties)}


def _schemas() -> Json:
    text: Json = {"type": "string"}
    flag: Json = {"type": "boolean"}
    number: Json = {"type": "number"}
    shape: Json = {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": MAX_RANK}
    kind: Json = {"type": "string", "enum": ["BYTES", *DATATYPES]}
    parameters: Json = {"type": "object"}
    tensor = _object(
        "name datatype shape", name=text, datatype=kind, shape=shape, parameters=parameters, data=_array({})
    )
    return {
        "Error": _object(error=text),
        "Server": _object(name=text, version=text, extensions=_array(text)),
        "Live": _object(live=flag),
        "Ready": _object(ready=flag),
        "ModelReady": _object(name=text, ready=flag),
        "Index": _array(_object(name=text, version=text, state=text)),
        "Declared": _object(name=text, datatype=kind, shape=shape),
        "Model": _object(
            name=text,
            versions=_array(text),
            platform=text,
            inputs=_array(_ref("Declared")),
            outputs=_array(_ref("Declared")),
            parameters=parameters,
        ),
        "Tensor": tensor,
        "Request": _object(
            "inputs",
            id=text,
            parameters=parameters,
            inputs=_array(_ref("Tensor")),
            outputs=_array(_object("name", name=text, parameters=parameters)),
        ),
        "Response": _object(
            "model_name model_version outputs",
            model_name=text,
            model_version=text,
            id=text,
            outputs=_array(_ref("Tensor")),
        ),
        "Answer": _object(
            model_name=text,
            model_version=text,
            task={"type": "string", "enum": ["cls", "seg"]},
            height={"type": "integer"},
            width={"type": "integer"},
            classes=_array(
                _object(
                    "index label",
                    index={"type": "integer"},
                    label=text,
                    probability=number,
                    share=number,
                    color=_array({"type": "integer"}),
                )
            ),
        ),
    }


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def text() -> str:
    """The description as committed in ``docs/``."""
    return to_json(description()).decode()
