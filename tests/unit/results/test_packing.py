"""Rows come back from their packed form bit for bit, whatever the numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from klinecast.api.results.v1.result_pb2 import EquityColumns, TradeColumns
from klinecast.convert.results import columns_to_message
from services.results.packing import message_of, pack_columns, unpack_columns
from tests.results import make_equity, make_trades

BITS = arrays.arrays(np.uint64, st.integers(1, 300))


@given(times=BITS, equity=BITS)
def test_every_bit_comes_back(times: np.ndarray, equity: np.ndarray) -> None:
    numbers = np.resize(equity.view(np.float64), len(times))
    sent = {"open_time_ms": times.view(np.int64), "equity": numbers, "close": numbers[::-1]}
    message = EquityColumns()
    columns_to_message(message, sent)
    found = unpack_columns(pack_columns(message), EquityColumns)
    assert {name: column.tobytes() for name, column in found.items()} == {
        name: column.tobytes() for name, column in sent.items()
    }


def test_the_message_comes_back_as_it_was_sent() -> None:
    for message_type, columns in ((TradeColumns, make_trades(500)), (EquityColumns, make_equity(500))):
        message = message_type()
        columns_to_message(message, columns)
        again = message_of(unpack_columns(pack_columns(message), message_type), message_type)
        assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


def test_only_what_is_wanted_is_unpacked() -> None:
    message = TradeColumns()
    columns_to_message(message, make_trades(10))
    assert unpack_columns(pack_columns(message), TradeColumns, {"profit"}).keys() == {"profit"}
