"""What a client asks for, from its bytes to the bytes of the answer; all of it happens in a worker."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from mscsa_deploy.errors import StageError
from mscsa_deploy.imaging.overlay import shares
from mscsa_deploy.serving.messages import Inference, read_request, write_response
from mscsa_deploy.serving.model import CLASS_MAP, PICTURE, Prepared, ServedModel, png
from mscsa_deploy.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mscsa_deploy.core.tensors import Array

ANSWERS = ("json", "class_map", "overlay")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.

    Args:
        body: Its bytes.
        headers: Its headers, by lower-case name.
        parts_ms: Milliseconds by part of the work; filled in by the pool.
    """

    body: bytes
    headers: Mapping[str, str]
    parts_ms: dict[str, float] = field(default_factory=dict)


class Call(Protocol):
    """One request, worked off in two steps around the network."""

    timeout_us: int
    """The client's own limit, known once the request is prepared; 0 for none."""

    def prepare(self, model: ServedModel) -> Prepared:
        """Parse, decode and preprocess."""

    def reply(self, model: ServedModel, prepared: Prepared, raw: Array) -> Reply:
        """The answer for the network's output."""


class InferCall:
    """The protocol's inference request.

    Args:
        body: The whole body.
        header_length: Of its JSON part; None when it is all JSON.
        name: Of the model, for the response.
        version: Its version, for the response.
    """

    def __init__(self, body: bytes | bytearray, header_length: int | None, *, name: str, version: str) -> None:
        self.timeout_us = 0
        self._body, self._header_length = body, header_length
        self._name, self._version = name, version
        self._asked: Inference | None = None

    def prepare(self, model: ServedModel) -> Prepared:
        """Parse the request and make the network's input of it."""
        self._asked = read_request(self._body, self._header_length)
        self.timeout_us = self._asked.timeout_us
        tensors = self._asked.tensors
        if PICTURE in tensors and self._header_length is None:
            tensors[PICTURE] = _from_base64(tensors[PICTURE])
        return model.prepare(tensors, self._asked.outputs)

    def reply(self, model: ServedModel, prepared: Prepared, raw: Array) -> Reply:
        """The protocol's response."""
        assert self._asked is not None
        try:
            outputs = model.answers(prepared, raw, list(self._asked.outputs))
        except StageError as error:
            # Finite values far outside any picture's range overflow inside the network: the client's to fix.
            raise Refusal(400, f"{error}; the input's values are outside the model's range") from error
        body, headers = write_response(outputs, self._asked, model=self._name, version=self._version)
        return Reply(body, headers)


class PictureCall:
    """A picture file, answered as JSON, as a class map PNG or as an overlay PNG.

    Args:
        data: The file.
        answer: One of `ANSWERS`.
        name: Of the model, for the response.
        version: Its version, for the response.
    """

    def __init__(self, data: bytes, answer: str, *, name: str, version: str) -> None:
        self.timeout_us = 0
        self._data, self._answer = data, answer
        self._name, self._version = name, version

    def prepare(self, model: ServedModel) -> Prepared:
        """Decode and preprocess the picture."""
        if self._answer != "json" and model.task != "seg":
            raise Refusal(400, f"'{self._answer}' is an answer of segmentation; this model classifies, ask for 'json'")
        return model.prepare_picture(self._data, (CLASS_MAP,))

    def reply(self, model: ServedModel, prepared: Prepared, raw: Array) -> Reply:
        """The answer in the form asked for."""
        if self._answer == "overlay":
            return Reply(model.overlay_png(prepared, raw), {"content-type": "image/png"})
        if self._answer == "class_map":
            return Reply(png(model.class_map(prepared, raw)), {"content-type": "image/png"})
        height, width = prepared.size
        message: dict[str, Any] = {
            "model_name": self._name,
            "model_version": self._version,
            "task": model.task,
            "height": height,
            "width": width,
            "classes": self._classes(model, prepared, raw),
        }
        return Reply(msgspec.json.encode(message), {"content-type": "application/json"})

    @staticmethod
    def _classes(model: ServedModel, prepared: Prepared, raw: Array) -> list[dict[str, Any]]:
        if model.task == "cls":
            _, top = model.runner.answer(raw, prepared.size)
            return [{"index": item.index, "label": item.label, "probability": item.probability} for item in top]
        classes = model.class_map(prepared, raw)
        found = shares(classes, int(classes.max()) + 1)
        return [
            {
                "index": index,
                "label": model.labels[index] if index < len(model.labels) else str(index),
                "share": share,
                "color": list(model.palette[index]) if index < len(model.palette) else [0, 0, 0],
            }
            for index, share in found
        ]


def _from_base64(array: Array) -> Array:
    """JSON carries no bytes: a picture comes as base64 text there."""
    result: Array = np.empty(array.shape, dtype=object)
    try:
        for place, item in np.ndenumerate(array):
            result[place] = base64.b64decode(item, validate=True)
    except (binascii.Error, TypeError) as error:
        raise Refusal(400, f"input '{PICTURE}' in JSON is base64 text of the picture file: {error}") from None
    return result
