"""Requests and responses of the protocol's inference call, as JSON and with the binary tensor extension.

A body is JSON, or JSON of ``Inference-Header-Content-Length`` bytes followed by the tensors that say
``binary_data_size`` in their parameters, in the order of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mscsa_deploy.serving.datatypes import datatype_of, from_binary, from_json, to_binary, to_json
from mscsa_deploy.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mscsa_deploy.core.tensors import Array

HEADER_LENGTH = "inference-header-content-length"
MAX_NAME = 256
MAX_TIMEOUT_US = 2**63 - 1
_MAX_SHOWN_BITS = 256
_UNKNOWN_SIZES = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


class InputMessage(msgspec.Struct):
    """One input of a request."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    data: msgspec.Raw = msgspec.Raw()


class OutputMessage(msgspec.Struct):
    """One output that a request asks for."""

    name: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class RequestMessage(msgspec.Struct):
    """The JSON part of a request; keys that the protocol does not know are ignored."""

    inputs: list[InputMessage]
    id: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    outputs: list[OutputMessage] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Inference:
    """A request taken apart.

    Args:
        id: The client's name for it, echoed in the response.
        tensors: Inputs by name.
        outputs: Names of the outputs asked for, each with whether it comes as binary; empty asks for all.
        binary: Whether outputs come as binary that do not say.
        timeout_us: The client's own time limit in microseconds; 0 for none.
    """

    id: str
    tensors: dict[str, Array]
    outputs: dict[str, bool]
    binary: bool
    timeout_us: int


_DECODER = msgspec.json.Decoder(RequestMessage)
_ENCODER = msgspec.json.Encoder()


def read_request(body: bytes | bytearray, header_length: int | None) -> Inference:
    """The request in `body`.

    Args:
        body: The whole body.
        header_length: Of its JSON part; None when it is all JSON.

    Raises:
        Refusal: It is not what the protocol says.
    """
    view = memoryview(body).toreadonly()
    if header_length is not None and not 0 < header_length <= len(body):
        raise Refusal(
            400,
            f"{HEADER_LENGTH} is {header_length}, but the body has {len(body)} bytes; it is cut short or mislabeled",
        )
    head, tail = view[:header_length], view[len(body) if header_length is None else header_length :]
    message = _decode(head)
    tensors = _tensors(message.inputs, tail)
    binary = _flag(message.parameters, "binary_data_output", default=False, where="the request")
    outputs = {item.name: _output(item, default=binary) for item in message.outputs}
    if len(outputs) != len(message.outputs):
        raise Refusal(400, "the request asks for an output twice")
    timeout = message.parameters.get("timeout", 0)
    if not isinstance(timeout, int) or isinstance(timeout, bool) or not 0 <= timeout <= MAX_TIMEOUT_US:
        raise Refusal(400, "the parameter 'timeout' is a number of microseconds, 0 or more, in 64 bits")
    return Inference(message.id, tensors, outputs, binary, timeout)


def write_response(
    outputs: Mapping[str, Array], asked: Inference, *, model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """The response's body and headers.

    Args:
        outputs: Tensors by name; object arrays hold BYTES.
        asked: The request.
        model: Name of the model.
        version: Its version.

    Raises:
        Refusal: An output cannot be put into JSON and was not asked for as binary.
    """
    described: list[dict[str, Any]] = []
    blobs: list[bytes | memoryview] = []
    for name, array in outputs.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(array.dtype.name),
            "shape": list(array.shape),
        }
        if asked.outputs.get(name, asked.binary):
            blobs.append(to_binary(array))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = to_json(name, array)
        described.append(entry)
    message: dict[str, Any] = {"model_name": model, "model_version": version}
    if asked.id:
        message["id"] = asked.id
    head = _ENCODER.encode({**message, "outputs": described})
    if not blobs:
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *blobs]), headers


def _decode(head: memoryview) -> RequestMessage:
    try:
        return _DECODER.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"the request is not the protocol's JSON: {error}") from None


def _tensors(inputs: Sequence[InputMessage], tail: memoryview) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    place = 0
    for item in inputs:
        name = item.name[:MAX_NAME]
        if name in tensors:
            raise Refusal(400, f"the request holds input '{name}' twice")
        if any(key in item.parameters for key in _UNKNOWN_SIZES):
            raise Refusal(400, f"input '{name}' lies in shared memory, which this server does not read; send the data")
        size = item.parameters.get("binary_data_size")
        if size is None:
            if memoryview(item.data).nbytes == 0:
                raise Refusal(400, f"input '{name}' has neither data nor binary_data_size")
            tensors[name] = from_json(name, item.datatype, item.shape, item.data)
            continue
        if memoryview(item.data).nbytes:
            raise Refusal(400, f"input '{name}' has both data and binary_data_size, expected one of them")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= tail.nbytes - place:
            # Numbers of thousands of digits have no text.
            long = isinstance(size, int) and size.bit_length() > _MAX_SHOWN_BITS
            declared, left = "too many" if long else str(size)[:32], tail.nbytes - place
            raise Refusal(
                400, f"input '{name}' declares {declared} bytes of binary data, but {left} are left in the body"
            )
        tensors[name] = from_binary(name, item.datatype, item.shape, tail[place : place + size])
        place += size
    if place != tail.nbytes:
        raise Refusal(400, f"{tail.nbytes - place} bytes of binary data belong to no input")
    return tensors


def _output(item: OutputMessage, *, default: bool) -> bool:
    where = f"output '{item.name[:MAX_NAME]}'"
    if item.parameters.get("classification"):
        raise Refusal(400, f"{where} asks for the classification extension; ask for 'probabilities' or 'label' instead")
    if any(key in item.parameters for key in _UNKNOWN_SIZES):
        raise Refusal(400, f"{where} is to go to shared memory, which this server does not write")
    return _flag(item.parameters, "binary_data", default=default, where=where)


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool, where: str) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"the parameter '{name}' of {where} is true or false")
    return value
