"""Columns of results: packed doubles and fixed integers as bytes, the few small integers and enums as lists."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from klinecast.columns import Column, encode_columns, read_column
from klinecast.convert.violations import Violations

_FIXED = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_SFIXED64)


def columns_to_message(message: Message, columns: Mapping[str, Column]) -> None:
    """Write columns into the repeated fields of their names."""
    fields = message.DESCRIPTOR.fields_by_name
    encode_columns(message, {name: column for name, column in columns.items() if fields[name].type in _FIXED})
    for name, column in columns.items():
        if fields[name].type not in _FIXED:
            getattr(message, name).extend(column.astype(np.int64).tolist())


def columns_from_message(message: Message) -> dict[str, Column]:
    """Read every repeated field as an array."""
    return {
        field.name: read_column(message, field.name)
        if field.type in _FIXED
        else np.asarray(getattr(message, field.name)).astype(np.int64)
        for field in message.DESCRIPTOR.fields
    }


def check_columns(message: Message, field: str) -> int:
    """Return the rows of a chunk; raise InvalidArgument naming the first column of another length."""
    lengths = {one.name: len(getattr(message, one.name)) for one in message.DESCRIPTOR.fields}
    rows = max(lengths.values())
    found = Violations()
    for name, length in lengths.items():
        found.check(length == rows, f"{field}.{name}", f"has {length} rows, others have {rows}")
    found.check(rows > 0, field, "must hold rows")
    found.raise_if_any()
    return rows
