"""One fact of an ONNX file read off its bytes, for who may not need the package onnx.

A protobuf message is a row of fields, each a number with a value: a varint, 4 or 8 bytes, or bytes with their length.
The numbers below are those of ``onnx.proto``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

_GRAPH = 7  # of ModelProto
_NODE, _INITIALIZER = 1, 5  # of GraphProto
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE = 1, 2, 4, 5  # of NodeProto
_TENSOR = 5  # of AttributeProto
_DATA_TYPE, _NAME = 2, 8  # of TensorProto
_FLOAT16 = 10  # of TensorProto.DataType
_FIXED = MappingProxyType({1: 8, 5: 4})
"""Bytes of a value by wire type."""
_VARINT, _BYTES = 0, 2
_CONSTANT_OP = bytes((_OP_TYPE << 3 | _BYTES, len(b"Constant"))) + b"Constant"
"""How a node says that it is a Constant."""


class _Span(NamedTuple):
    """Where a message or text lies in the file."""

    start: int
    end: int


def has_half_scales(path: Path) -> bool:
    """Whether a DequantizeLinear of the ONNX file takes its scale in FP16, as files for TensorRT have them.

    Scales that are constants count: initializers, or what Constant nodes give. A file that is no ONNX has none; to
    tell what is wrong with it is left to who loads it.
    """
    data = path.read_bytes()
    if b"DequantizeLinear" not in data:
        return False
    try:
        return any(_graph_has(data, graph) for graph in _messages(data, _Span(0, len(data)), _GRAPH))
    except (IndexError, ValueError):
        return False


def _graph_has(data: bytes, graph: _Span) -> bool:
    halves: set[bytes] = set()
    nodes: list[_Span] = []
    for number, value in _fields(data, graph):
        if number == _NODE and isinstance(value, _Span):
            nodes.append(value)
        elif number == _INITIALIZER and isinstance(value, _Span) and _is_half(data, value):
            halves.update(_texts(data, value, _NAME))
    # To look into every node takes some 20 ms; usually there is no reason to.
    if not halves and _CONSTANT_OP not in data:
        return False
    scales: set[bytes] = set()
    for node in nodes:
        op = next(_texts(data, node, _OP_TYPE), b"")
        if op == b"DequantizeLinear":
            scales.update([*_texts(data, node, _INPUT)][1:2])
        elif op == b"Constant":
            tensors = (
                tensor for each in _messages(data, node, _ATTRIBUTE) for tensor in _messages(data, each, _TENSOR)
            )
            if any(_is_half(data, tensor) for tensor in tensors):
                halves.update(_texts(data, node, _OUTPUT))
    return bool(halves & scales)


def _is_half(data: bytes, tensor: _Span) -> bool:
    return (_DATA_TYPE, _FLOAT16) in _fields(data, tensor)


def _texts(data: bytes, message: _Span, number: int) -> Iterator[bytes]:
    return (data[span.start : span.end] for span in _messages(data, message, number))


def _messages(data: bytes, message: _Span, number: int) -> Iterator[_Span]:
    return (value for found, value in _fields(data, message) if found == number and isinstance(value, _Span))


def _fields(data: bytes, message: _Span) -> Iterator[tuple[int, int | _Span]]:
    """Number and value of each field; of bytes, where they lie.

    Raises:
        IndexError, ValueError: These are no fields.
    """
    at = message.start
    while at < message.end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > message.end:
            raise ValueError("a value beyond its message")
        yield number, _Span(at, at + size)
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and the place after it."""
    value = data[at] & 0x7F
    shift = 7
    while data[at] & 0x80:
        at += 1
        value |= (data[at] & 0x7F) << shift
        shift += 7
    return value, at + 1
