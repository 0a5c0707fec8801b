"""Execution model and statistics convention: protobuf <-> types. Fields carry the same names on both sides."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import TypeVar

from google.protobuf.message import Message

from klinecast.api.backtest.v1 import execution_model_pb2
from klinecast.convert.violations import Violations
from klinecast.types import ExecutionModel, StatisticsConvention

_T = TypeVar("_T", ExecutionModel, StatisticsConvention)


def execution_from_proto(
    proto: execution_model_pb2.ExecutionModel, field: str, violations: Violations, *, market_type: str
) -> ExecutionModel | None:
    """Convert an execution model; absent fields take their defaults. Return None after noting a violation."""
    return _from_proto(proto, ExecutionModel, field, violations, {"market_type": market_type})


def execution_to_proto(model: ExecutionModel) -> execution_model_pb2.ExecutionModel:
    """Convert an execution model; the market type travels with the series."""
    return _to_proto(model, execution_model_pb2.ExecutionModel())


def convention_from_proto(
    proto: execution_model_pb2.StatisticsConvention, field: str, violations: Violations
) -> StatisticsConvention | None:
    """Convert a convention; absent fields take their defaults. Return None after noting a violation."""
    return _from_proto(proto, StatisticsConvention, field, violations, {})


def convention_to_proto(convention: StatisticsConvention) -> execution_model_pb2.StatisticsConvention:
    """Convert a convention."""
    return _to_proto(convention, execution_model_pb2.StatisticsConvention())


def _from_proto(
    proto: Message, into: type[_T], path: str, violations: Violations, values: dict[str, object]
) -> _T | None:
    for field, value in proto.ListFields():
        enum = field.enum_type
        if enum is None:
            values[field.name] = value
        elif value in enum.values_by_number:
            values[field.name] = enum.values_by_number[value].name.removeprefix(_prefix(enum.values[0].name))
        else:
            violations.add(f"{path}.{field.name}", f"must be a value of {enum.name}")
            return None
    try:
        return into(**values)  # type: ignore[arg-type]
    except ValueError as error:
        name, _, description = str(error).partition(":")
        known = name.strip() in proto.DESCRIPTOR.fields_by_name
        violations.add(f"{path}.{name.strip()}" if known else path, description.strip() if known else str(error))
        return None


_Proto = TypeVar("_Proto", bound=Message)


def _to_proto(model: ExecutionModel | StatisticsConvention, proto: _Proto) -> _Proto:
    for one in dataclasses.fields(model):
        field = proto.DESCRIPTOR.fields_by_name.get(one.name)
        value = getattr(model, one.name)
        if field is None or value is None:
            continue
        if field.enum_type is not None and isinstance(value, StrEnum):
            value = field.enum_type.values_by_name[_prefix(field.enum_type.values[0].name) + value.name].number
        setattr(proto, one.name, value)
    return proto


def _prefix(unspecified: str) -> str:
    return unspecified.removesuffix("UNSPECIFIED")
