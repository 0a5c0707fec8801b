"""Backtests and events as protobuf messages; the servicer's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from klinecast.api.backtest.v1 import backtest_pb2, strategy_pb2
from services.backtest.catalogue import StrategyInfo
from services.backtest.jobs import Event, Failure, Job, State

_PROGRESS_FIELDS = ("fraction_done", "klines_done", "klines_total", "equity", "drawdown", "queue_position")


def job_to_proto(job: Job) -> backtest_pb2.Backtest:
    """Convert the row of a backtest."""
    progress = cast("Mapping[str, Any]", job.progress)
    proto = backtest_pb2.Backtest(
        backtest_id=job.key.backtest_id,
        config=backtest_pb2.BacktestConfig.FromString(job.config),
        state=state_to_proto(job.state),
        attempt=job.attempt,
        phase=_phase_to_proto(progress) if job.state is State.RUNNING else backtest_pb2.PHASE_UNSPECIFIED,
        fraction_done=1.0 if job.state is State.SUCCEEDED else progress.get("fraction_done", 0.0),
        klines_done=progress.get("klines_done", 0),
        klines_total=progress.get("klines_total", 0),
        timings_s=dict(job.timings_s),
        result_id=job.result_id or "",
        reused=job.reused,
        last_sequence=job.last_sequence,
        request_id=job.request_id or "",
        result_expired=job.result_expired if job.state is State.SUCCEEDED else None,
    )
    for name, stamp in (("create_time", job.create_time), ("start_time", job.start_time), ("end_time", job.end_time)):
        if stamp is not None:
            cast("Timestamp", getattr(proto, name)).FromDatetime(stamp)
    if job.failure is not None:
        proto.error.CopyFrom(_failure_to_proto(job.failure))
    return proto


def event_to_proto(backtest_id: str, event: Event, *, heartbeat: bool = False) -> backtest_pb2.BacktestEvent:
    """Convert an event; as a heartbeat it repeats the number."""
    body = cast("Mapping[str, Any]", event.body)
    proto = backtest_pb2.BacktestEvent(
        sequence=event.sequence,
        backtest_id=backtest_id,
        state=state_to_proto(event.state),
        attempt=event.attempt,
        phase=backtest_pb2.PHASE_UNSPECIFIED if event.state.terminal else _phase_to_proto(body),
        result_id=body.get("result_id") or "",
        reused=body.get("reused", False),
        heartbeat=heartbeat,
        timings_s=body.get("timings_s") or {},
    )
    proto.event_time.FromDatetime(event.event_time)
    for name in _PROGRESS_FIELDS:
        if body.get(name) is not None:
            setattr(proto, name, body[name])
    if event.state is State.SUCCEEDED:
        proto.fraction_done = 1.0
    if body.get("eta_s") is not None:
        proto.eta.FromMilliseconds(round(body["eta_s"] * 1000))
    if body.get("failure"):
        proto.error.CopyFrom(_failure_to_proto(Failure(**body["failure"])))
    return proto


def state_to_proto(state: State) -> backtest_pb2.BacktestState.ValueType:
    """Convert a state."""
    return backtest_pb2.BacktestState.Value(f"BACKTEST_STATE_{state.value}")


def state_from_proto(state: int) -> State | None:
    """Convert a state; None for a number that is none."""
    names = {int(number): name for name, number in backtest_pb2.BacktestState.items() if number}
    return State(names[state].removeprefix("BACKTEST_STATE_")) if state in names else None


def strategy_to_proto(info: StrategyInfo) -> strategy_pb2.Strategy:
    """Convert a registered strategy."""
    schema = Struct()
    json_format.ParseDict(dict(info.params_schema), schema)
    return strategy_pb2.Strategy(
        name=info.name, version=info.version, description=info.description, params_schema=schema, warmup=info.warmup
    )


def _phase_to_proto(body: Mapping[str, Any]) -> backtest_pb2.Phase.ValueType:
    return backtest_pb2.Phase.Value(f"PHASE_{body['phase']}") if "phase" in body else backtest_pb2.PHASE_UNSPECIFIED


def _failure_to_proto(failure: Failure) -> backtest_pb2.BacktestError:
    return backtest_pb2.BacktestError(
        reason=failure.reason, message=failure.message, kline_index=failure.kline_index, detail=failure.detail
    )
