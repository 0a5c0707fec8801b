"""The columnar codec: what protobuf writes we read, what we write protobuf reads, whatever the encoding."""

import itertools

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from klinecast.api.data.v1 import data_service_pb2 as pb
from klinecast.columns import encode_columns, message_bytes, parse_columns, read_columns

COLUMNS = {
    "open_time_ms": np.array([1, -2, 2**62], dtype=np.int64),
    "close": np.array([1.5, np.nan, -np.inf]),
    "volume": np.array([0.0, 1e300, 5e-324]),
}


def make_message(columns=COLUMNS):
    message = pb.StreamKlinesResponse(next_open_time_ms=7, klines_sent=3, klines_total=2**40, revision=5)
    encode_columns(message.batch, columns)
    return message


def assert_columns(found, expected=COLUMNS):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_bytes_written_by_protobuf_are_read_in_place():
    message = make_message()
    head, columns = parse_columns(pb.StreamKlinesResponse, "batch", message.SerializeToString())
    assert_columns(columns)
    message.ClearField("batch")
    assert head == message


@pytest.mark.parametrize("cuts", [(), (1,), (0, 1, 2)])
def test_stretches_are_written_as_protobuf_writes_the_whole(cuts):
    edges = [0, *cuts, 3]
    stretches = [
        {name: values[start:stop] for name, values in COLUMNS.items()} for start, stop in itertools.pairwise(edges)
    ]
    head = make_message()
    head.ClearField("batch")
    assert pb.StreamKlinesResponse.FromString(message_bytes(head, "batch", stretches)) == make_message()


def test_columns_in_pieces_or_not_packed_are_read_the_long_way():
    first, second = make_message(), make_message({name: values[:1] for name, values in COLUMNS.items()})
    raw = first.SerializeToString() + second.SerializeToString()
    _, columns = parse_columns(pb.StreamKlinesResponse, "batch", raw)
    assert_columns(columns, {name: np.concatenate([values, values[:1]]) for name, values in COLUMNS.items()})
    unpacked = b"\x0a\x09" + b"\x29" + np.float64(2.5).tobytes()  # close, field 5, as a lone fixed64
    _, columns = parse_columns(pb.StreamKlinesResponse, "batch", unpacked)
    assert_columns(columns, {"close": np.array([2.5])})


def test_unknown_fields_are_passed_over():
    raw = (
        make_message().SerializeToString() + b"\xf8\x06\x01" + b"\xfd\x06abcd" + b"\xf9\x06abcdefgh" + b"\xfa\x06\x01x"
    )
    assert_columns(parse_columns(pb.StreamKlinesResponse, "batch", raw)[1])


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_protobuf_reads_them(raw):
    try:
        expected = pb.StreamKlinesResponse.FromString(raw)
    except DecodeError:
        with pytest.raises(DecodeError):
            parse_columns(pb.StreamKlinesResponse, "batch", raw)
        return
    _, columns = parse_columns(pb.StreamKlinesResponse, "batch", raw)
    for name, values in read_columns(expected.batch).items():
        np.testing.assert_array_equal(columns[name], values)
