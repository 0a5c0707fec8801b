"""The columnar codec: packed protobuf columns <-> numpy, without a Python object per value.

Packed doubles and fixed integers lie on the wire as the array's own little-endian bytes, so a column is written by
merging its field header and those bytes, and read through numpy's view of the repeated field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

Column = NDArray[Any]
"""An array of doubles or of 64-bit integers, as its field says."""

_WIRE_DTYPES = {1: np.dtype("<f8"), 16: np.dtype("<i8")}  # FieldDescriptor.TYPE_DOUBLE, TYPE_SFIXED64
_LENGTH_DELIMITED = 2


def encode_columns(message: Message, columns: Mapping[str, Column]) -> None:
    """Append each array to the packed field of its name (double or sfixed64 only)."""
    message.MergeFromString(b"".join(encode_column(message, name, values) for name, values in columns.items()))


def encode_column(message: Message, name: str, values: Column) -> bytes:
    """Return one column as it lies on the wire: field header, length, bytes."""
    field = message.DESCRIPTOR.fields_by_name[name]
    data = np.ascontiguousarray(values, dtype=_WIRE_DTYPES[field.type]).tobytes()
    return _varint(field.number << 3 | _LENGTH_DELIMITED) + _varint(len(data)) + data if data else b""


def read_column(message: Message, name: str) -> Column:
    """Return a packed field as an array of its own (length 0 when the column is absent)."""
    field = message.DESCRIPTOR.fields_by_name[name]
    return np.asarray(getattr(message, name), dtype=_WIRE_DTYPES[field.type].newbyteorder("="))


def read_columns(message: Message) -> dict[str, Column]:
    """Return every column that is present, by name."""
    return {
        field.name: read_column(message, field.name) for field, _ in message.ListFields() if field.type in _WIRE_DTYPES
    }


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
