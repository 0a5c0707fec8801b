"""Params of strategies and indicators: protobuf -> types, bounded before anything looks at them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format, struct_pb2

from klinecast.convert.violations import Violations

MAX_PARAMS = 100
MAX_PARAMS_BYTES = 65_536


def params_from_proto(params: struct_pb2.Struct, field: str, found: Violations) -> dict[str, Any]:
    """Convert params, or note what is wrong with them and return none; numbers stay floats."""
    small = found.check(len(params.fields) <= MAX_PARAMS, field, f"must be at most {MAX_PARAMS}") and found.check(
        params.ByteSize() <= MAX_PARAMS_BYTES, field, f"must be at most {MAX_PARAMS_BYTES:,} bytes"
    )
    if not small or not found.check(all(map(math.isfinite, _numbers(params))), field, "must hold finite numbers"):
        return {}
    return dict(json_format.MessageToDict(params))


def _numbers(struct: struct_pb2.Struct) -> Iterator[float]:
    """Yield every number, however deep; protobuf itself refuses more than a hundred levels."""
    left = list(struct.fields.values())
    while left:
        value = left.pop()
        if value.HasField("number_value"):
            yield value.number_value
        left += value.list_value.values
        left += value.struct_value.fields.values()
