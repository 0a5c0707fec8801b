"""numpy columns <-> Postgres binary: whole arrays as parameters, rows to copy in, whole columns as results.

No Python object per value. An array parameter is a header, then a length word before each element; a row of COPY is the
number of its fields, then a length word before each; a column result is the elements alone, as
`string_agg(float8send(...), '')` glues them. All are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncConnection
from psycopg.adapt import Dumper
from psycopg.pq import Format

from klinecast.columns import Column

_FLOAT8 = 701
_INT8 = 20
_ELEMENT = {
    _FLOAT8: np.dtype([("length", ">i4"), ("value", ">f8")]),
    _INT8: np.dtype([("length", ">i4"), ("value", ">i8")]),
}
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)  # no flags, no extension
_COPY_TRAILER = struct.pack(">h", -1)
_HEADER = struct.Struct(">iiIii")  # dimensions, whether there are NULLs, element oid, length, lower bound


@dataclass(frozen=True, slots=True)
class Float8Array:
    """A float8[] parameter."""

    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Int8Array:
    """An int8[] parameter."""

    values: NDArray[np.int64]


class _Float8ArrayDumper(Dumper):
    format = Format.BINARY
    oid = 1022

    def dump(self, obj: Float8Array) -> bytes:
        return _array_bytes(obj.values, _FLOAT8)


class _Int8ArrayDumper(Dumper):
    format = Format.BINARY
    oid = 1016

    def dump(self, obj: Int8Array) -> bytes:
        return _array_bytes(obj.values, _INT8)


def register_arrays(connection: AsyncConnection[tuple[object, ...]]) -> None:
    """Teach a connection the two array parameters."""
    connection.adapters.register_dumper(Float8Array, _Float8ArrayDumper)
    connection.adapters.register_dumper(Int8Array, _Int8ArrayDumper)


def array_parameter(values: Column) -> Float8Array | Int8Array:
    """Wrap a column as the parameter of its type."""
    if values.dtype.kind == "f":
        return Float8Array(np.asarray(values, dtype=np.float64))
    return Int8Array(np.asarray(values, dtype=np.int64))


def copy_rows(columns: Mapping[str, Column]) -> bytes:
    """Return columns of one length, none of whose values is NULL, as the whole input of a COPY ... (FORMAT BINARY)."""
    fields = [
        (f"{name}{part}", dtype)
        for name, values in columns.items()
        for part, dtype in (("#", ">i4"), ("", ">f8" if values.dtype.kind == "f" else ">i8"))
    ]
    rows = np.empty(len(next(iter(columns.values()))), dtype=[("#", ">i2"), *fields])
    rows["#"] = len(columns)
    for name, values in columns.items():
        rows[f"{name}#"] = 8
        rows[name] = values
    return _COPY_HEADER + rows.tobytes() + _COPY_TRAILER


def column_from_bytes(raw: bytes, name: str) -> Column:
    """Read a glued column as an array of its own in the machine's byte order."""
    if name in ("open_time_ms", "trade_count"):
        return np.frombuffer(raw, dtype=">i8").astype(np.int64)
    return np.frombuffer(raw, dtype=">f8").astype(np.float64)


def wire_column(raw: bytes, name: str) -> Column:
    """Read a sealed column, little-endian as on the wire, where it lies."""
    return np.frombuffer(raw, dtype="<i8" if name in ("open_time_ms", "trade_count") else "<f8")


def _array_bytes(values: Column, oid: int) -> bytes:
    elements = np.empty(len(values), dtype=_ELEMENT[oid])
    elements["length"] = 8
    elements["value"] = values
    return _HEADER.pack(1, 0, oid, len(values), 1) + elements.tobytes()
