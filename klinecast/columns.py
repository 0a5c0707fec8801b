"""The columnar codec: packed protobuf columns <-> numpy, without a Python object per value.

Packed doubles and fixed integers lie on the wire as the array's own little-endian bytes, so a column is written by
merging its field header and those bytes, and read through numpy's view of the repeated field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from numpy.typing import NDArray

Column = NDArray[Any]
"""An array of doubles or of 64-bit integers, as its field says."""

_WIRE_DTYPES = {1: np.dtype("<f8"), 16: np.dtype("<i8")}  # FieldDescriptor.TYPE_DOUBLE, TYPE_SFIXED64
_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}
_M = TypeVar("_M", bound=Message)


def encode_columns(message: Message, columns: Mapping[str, Column]) -> None:
    """Append each array to the packed field of its name (double or sfixed64 only)."""
    message.MergeFromString(b"".join(encode_column(message, name, values) for name, values in columns.items()))


def encode_column(message: Message, name: str, values: Column) -> bytes:
    """Return one column as it lies on the wire: field header, length, bytes."""
    field = message.DESCRIPTOR.fields_by_name[name]
    data = np.ascontiguousarray(values, dtype=_WIRE_DTYPES[field.type]).tobytes()
    return _varint(field.number << 3 | _LENGTH_DELIMITED) + _varint(len(data)) + data if data else b""


def message_bytes(message: Message, field: str, stretches: Sequence[Mapping[str, Column]]) -> bytes:
    """Serialise a message whose `field`, a message of columns, holds stretches of arrays end to end.

    Every value is copied once, into the answer; the stretches have the same columns and are not joined before.
    """
    batch: Any = message.DESCRIPTOR.fields_by_name[field]
    body: list[bytes | Column] = []
    size = 0
    for name in stretches[0]:
        parts = _packed(batch.message_type.fields_by_name[name], [stretch[name] for stretch in stretches])
        size += sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)
        body += parts
    head = message.SerializeToString() + _varint(batch.number << 3 | _LENGTH_DELIMITED) + _varint(size)
    return b"".join([head, *body])  # type: ignore[list-item]  # arrays are buffers


def read_column(message: Message, name: str) -> Column:
    """Return a packed field as an array of its own (length 0 when the column is absent)."""
    field = message.DESCRIPTOR.fields_by_name[name]
    return np.asarray(getattr(message, name), dtype=_WIRE_DTYPES[field.type].newbyteorder("="))


def read_columns(message: Message) -> dict[str, Column]:
    """Return every column that is present, by name."""
    return {
        field.name: read_column(message, field.name) for field, _ in message.ListFields() if field.type in _WIRE_DTYPES
    }


def parse_columns(message: type[_M], field: str, raw: bytes) -> tuple[_M, dict[str, Column]]:
    """Parse a message whose `field` holds packed columns: the message without it, and views of the columns in `raw`.

    The views are read-only and may be unaligned: copy what is kept. Columns in pieces, or not packed, are read the
    long way.
    """
    batch: Any = message.DESCRIPTOR.fields_by_name[field]
    known = {one.number: one for one in batch.message_type.fields if one.type in _WIRE_DTYPES}
    head: list[memoryview] = []
    columns: dict[str, Column] = {}
    try:
        for number, _, whole, body in _fields(memoryview(raw)):
            if number != batch.number:
                head.append(whole)
                continue
            for inner, kind, _, data in _fields(body):
                if kind != _LENGTH_DELIMITED or inner not in known or known[inner].name in columns:
                    return _parse_slowly(message, field, raw)
                columns[known[inner].name] = np.frombuffer(data, dtype=_WIRE_DTYPES[known[inner].type])
    except (IndexError, ValueError):
        return _parse_slowly(message, field, raw)  # says what is wrong with the bytes
    return message.FromString(b"".join(head)), columns


def _parse_slowly(message: type[_M], field: str, raw: bytes) -> tuple[_M, dict[str, Column]]:
    parsed = message.FromString(raw)
    columns = read_columns(getattr(parsed, field))
    parsed.ClearField(field)
    return parsed, columns


def _fields(view: memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """Yield number, wire type, the whole field and its body."""
    at = 0
    while at < len(view):
        start = at
        tag, at = _read_varint(view, at)
        kind, body = tag & 7, at
        if kind == _VARINT:
            _, at = _read_varint(view, at)
        elif kind == _LENGTH_DELIMITED:
            size, body = _read_varint(view, at)
            at = body + size
        elif kind in _FIXED:
            at += _FIXED[kind]
        if at > len(view) or kind not in (_VARINT, _LENGTH_DELIMITED, *_FIXED):
            raise ValueError("not a protobuf message")
        yield tag >> 3, kind, view[start:at], view[body:at]


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _packed(field: FieldDescriptor, arrays: Iterable[Column]) -> list[bytes | Column]:
    wire = [np.ascontiguousarray(values, dtype=_WIRE_DTYPES[field.type]) for values in arrays]
    size = sum(values.nbytes for values in wire)
    return [_varint(field.number << 3 | _LENGTH_DELIMITED) + _varint(size), *wire]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
