"""Tensors as the protocol writes them: datatypes, binary data, and lists of JSON values."""

from __future__ import annotations

import math
import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mscsa_deploy.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mscsa_deploy.core.tensors import Array

DATATYPES = MappingProxyType(
    {
        "BOOL": "bool",
        "UINT8": "uint8",
        "UINT16": "uint16",
        "UINT32": "uint32",
        "UINT64": "uint64",
        "INT8": "int8",
        "INT16": "int16",
        "INT32": "int32",
        "INT64": "int64",
        "FP16": "float16",
        "FP32": "float32",
        "FP64": "float64",
    }
)
"""NumPy dtype of each of the protocol's datatypes but BYTES."""

_NAMES = MappingProxyType({dtype: name for name, dtype in DATATYPES.items()})
_LENGTH = struct.Struct("<I")
MAX_RANK = 8
MAX_SIZE = 2**31 - 1
_MOST_JSON_BYTES = 256
"""What one number takes in JSON at most, a deeply indented line each; so much more is not looked at."""
_FIXED_JSON_BYTES = 4096


def datatype_of(dtype: str) -> str:
    """The protocol's name of a NumPy dtype; ``object`` arrays hold BYTES."""
    return "BYTES" if dtype == "object" else _NAMES[dtype]


def check_shape(name: str, shape: Sequence[int]) -> int:
    """The number of elements of `shape`.

    Raises:
        Refusal: A size is below 1 or beyond 32 bits, or there are more axes than any tensor here has.
    """
    if any(abs(size) > MAX_SIZE for size in shape):
        # Not named: numbers of thousands of digits have no text.
        raise Refusal(400, f"input '{name}' has a shape with a size beyond {MAX_SIZE}")
    if not 1 <= len(shape) <= MAX_RANK or min(shape) < 1:
        raise Refusal(
            400, f"input '{name}' has shape {list(shape[:MAX_RANK])}, expected 1 to {MAX_RANK} axes of at least 1"
        )
    return math.prod(shape)


def from_binary(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Array:
    """A tensor from the bytes of the binary extension: little-endian, C order; BYTES length-prefixed.

    Numbers are a read-only view of `data`; BYTES an object array of ``bytes``.

    Raises:
        Refusal: The datatype is unknown, or the bytes do not fill the shape.
    """
    count = check_shape(name, shape)
    if datatype == "BYTES":
        return _objects(_split_bytes(name, data, count), shape)
    dtype = _dtype(name, datatype)
    wanted = count * dtype.itemsize
    if data.nbytes != wanted:
        raise Refusal(
            400, f"input '{name}' came with {data.nbytes} bytes, expected {wanted} for {datatype} {list(shape)}"
        )
    return np.frombuffer(data, dtype).reshape(tuple(shape))


def from_json(name: str, datatype: str, shape: Sequence[int], data: msgspec.Raw) -> Array:
    """A tensor from JSON values, flat or nested row by row.

    Raises:
        Refusal: The datatype is unknown, a value does not fit it, or the values do not fill the shape.
    """
    count = check_shape(name, shape)
    kind: Any = str if datatype == "BYTES" else _json_kind(_dtype(name, datatype))
    _check_length(name, data, shape, text=kind is str)
    values = _flat(name, data, kind)
    if len(values) != count:
        raise Refusal(400, f"input '{name}' holds {len(values)} values, expected {count} for shape {list(shape)}")
    if datatype == "BYTES":
        return _objects([value.encode("utf-8", "surrogatepass") for value in values], shape)
    dtype = _dtype(name, datatype)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if min(values) < bounds.min or max(values) > bounds.max:
            raise Refusal(400, f"input '{name}' holds values outside {datatype} ({bounds.min}..{bounds.max})")
    with np.errstate(over="ignore"):
        return np.array(values, dtype).reshape(tuple(shape))


def to_binary(array: Array) -> bytes | memoryview:
    """The bytes of the binary extension for `array`; numbers are a view of it where it has their layout already."""
    if array.dtype == object:
        return b"".join(_LENGTH.pack(len(item)) + item for item in array.ravel())
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


def to_json(name: str, array: Array) -> list[Any]:
    """The flat list of JSON values for `array`.

    Raises:
        Refusal: It holds bytes that are no text.
    """
    if array.dtype != object:
        values: list[Any] = array.ravel().tolist()
        return values
    try:
        return [item.decode("utf-8") for item in array.ravel()]
    except UnicodeDecodeError:
        raise Refusal(
            400, f"output '{name}' is a file, which JSON cannot carry; ask for it with binary_data = true"
        ) from None


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    if datatype not in DATATYPES:
        raise Refusal(
            400, f"input '{name}' has datatype '{datatype[:32]}', expected one of BYTES, {', '.join(DATATYPES)}"
        )
    return np.dtype(DATATYPES[datatype]).newbyteorder("<")


def _json_kind(dtype: np.dtype[Any]) -> type:
    return {"b": bool, "f": float}.get(dtype.kind, int)


def _check_length(name: str, data: msgspec.Raw, shape: Sequence[int], *, text: bool) -> None:
    """Raise `Refusal` for JSON that cannot be a tensor of `shape`, before its values are made: they take much more."""
    view, count = memoryview(data), math.prod(shape)
    if not text and view.nbytes > _MOST_JSON_BYTES * count + _FIXED_JSON_BYTES:
        raise Refusal(
            400,
            f"the data of input '{name}' has {view.nbytes} bytes, more than {count} values can take",
        )
    if bytes(view).count(b"[") > MAX_RANK * count + _FIXED_JSON_BYTES:
        raise Refusal(400, f"the data of input '{name}' holds more lists than shape {list(shape)} has")


def _flat(name: str, data: msgspec.Raw, kind: type) -> list[Any]:
    """The values of a JSON list; of a nested one, row by row."""
    try:
        flat: list[Any] = msgspec.json.decode(data, type=list[kind])  # type: ignore[valid-type]
    except (msgspec.DecodeError, RecursionError, ValueError) as first:
        try:
            nested = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError, ValueError):
            nested = None
        if not (isinstance(nested, list) and any(isinstance(item, list) for item in nested)):
            raise Refusal(400, f"the data of input '{name}' is no list of {kind.__name__} values: {first}") from None
        return _flattened(name, nested, kind)
    return flat


def _flattened(name: str, nested: list[Any], kind: type) -> list[Any]:
    level: list[Any] = nested
    for _ in range(MAX_RANK):
        if not all(isinstance(item, list) for item in level):
            break
        level = [inner for item in level for inner in item]
    try:
        values: list[Any] = msgspec.convert(level, list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise Refusal(
            400, f"the data of input '{name}' is no even nesting of {kind.__name__} values: {error}"
        ) from None
    return values


def _split_bytes(name: str, data: memoryview, count: int) -> list[bytes]:
    items: list[bytes] = []
    place = 0
    while place < data.nbytes:
        if len(items) == count:
            raise Refusal(400, f"input '{name}' holds more than {count} BYTES elements")
        if data.nbytes - place < _LENGTH.size:
            raise Refusal(400, f"input '{name}' ends inside the length of a BYTES element")
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        if length > data.nbytes - place:
            raise Refusal(
                400, f"input '{name}' declares a BYTES element of {length} bytes, but {data.nbytes - place} are left"
            )
        items.append(bytes(data[place : place + length]))
        place += length
    if len(items) != count:
        raise Refusal(400, f"input '{name}' holds {len(items)} BYTES elements, expected {count}")
    return items


def _objects(items: Sequence[bytes], shape: Sequence[int]) -> Array:
    array: Array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(tuple(shape))
