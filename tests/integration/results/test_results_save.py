"""A save becomes visible whole or not at all, once per backtest, and what comes back is what was sent."""

from __future__ import annotations

import uuid

import numpy as np
import psycopg
import pytest

from klinecast.api.results.v1 import results_service_pb2 as pb
from klinecast.api.results.v1.results_service_pb2_grpc import ResultsServiceStub
from klinecast.client import Client, Security
from klinecast.client._channel import open_channel
from klinecast.errors import Aborted, InvalidArgument, NotFound
from tests.results import Replica, make_equity, make_header, make_trades, save


def test_what_was_saved_comes_back_bit_for_bit(client: Client) -> None:
    trades, equity = make_trades(40_000), make_equity(100_000)  # several messages each, beyond 4 MB in all
    equity["equity"][5:9] = [-0.0, np.inf, -np.inf, 5e-324]
    result = save(client, trades=trades, equity=equity)
    for found, sent in ((client.load_trades(result.result_id), trades), (client.load_equity(result.result_id), equity)):
        assert found.keys() == sent.keys()
        assert all(found[name].tobytes() == sent[name].astype(found[name].dtype).tobytes() for name in sent)
    assert result.stored_bytes * 5 < sum(column.nbytes for part in (trades, equity) for column in part.values()) * 3


def test_rows_of_release_0_1_are_still_read(client: Client, database: psycopg.Connection) -> None:
    equity = make_equity(100)
    result = save(client, equity=equity)
    message = pb.SaveResultRequest().equity
    for name, column in equity.items():
        getattr(message, name).extend(column.tolist())
    database.execute(
        "UPDATE results.chunks SET packing = 0, payload = %s WHERE save_id = "
        "(SELECT save_id FROM results.results WHERE result_id = %s)",
        (message.SerializeToString(), result.result_id),
    )
    np.testing.assert_array_equal(client.load_equity(result.result_id)["equity"], equity["equity"])


def test_the_same_save_again_changes_nothing(client: Client) -> None:
    result_id, equity = str(uuid.uuid4()), make_equity(10)
    first = save(client, result_id=result_id, equity=equity, fence=2)
    again = save(client, result_id=result_id, equity=equity, fence=1)
    assert again.create_time_ms == first.create_time_ms


def test_a_newer_attempt_replaces_and_an_older_is_refused(client: Client, database: psycopg.Connection) -> None:
    result_id = str(uuid.uuid4())
    save(client, result_id=result_id, equity=make_equity(10), fence=2)
    with pytest.raises(Aborted) as refused:
        save(client, result_id=result_id, equity=make_equity(11), fence=2)
    assert refused.value.reason == "STALE_FENCE"
    save(client, result_id=result_id, equity=make_equity(12), fence=3)
    assert len(client.load_equity(result_id)["equity"]) == 12
    assert count_orphans(database) == 0


def test_results_without_rows_are_told_apart_by_their_headers(client: Client) -> None:
    result_id, other = str(uuid.uuid4()), {"total_return": 0.2}
    first = save(client, result_id=result_id, fence=2)
    assert save(client, result_id=result_id, fence=1).create_time_ms == first.create_time_ms
    with pytest.raises(Aborted):
        save(client, result_id=result_id, statistics=other, fence=2)
    assert save(client, result_id=result_id, statistics=other, fence=3).statistics == other


def test_late_saves_of_a_deleted_result_are_refused(client: Client) -> None:
    result_id = str(uuid.uuid4())
    assert not client.delete_result(result_id, tombstone_fence=3)
    with pytest.raises(Aborted):
        save(client, result_id=result_id, equity=make_equity(10), fence=3)
    save(client, result_id=result_id, equity=make_equity(10), fence=4)


def test_a_save_that_is_cut_leaves_nothing(client: Client, replica: Replica, database: psycopg.Connection) -> None:
    header = make_header(rows=(0, 300_000))
    stub = ResultsServiceStub(open_channel(replica.service.target, Security(), ()))

    def requests():
        yield pb.SaveResultRequest(begin=pb.SaveResultBegin(header=header, fence=1))
        for start in range(0, 300_000, 30_000):
            chunk = pb.SaveResultRequest()
            for name, column in make_equity(30_000, seed=start).items():
                getattr(chunk.equity, name).extend(column.tolist())
            yield chunk  # and no commit

    with pytest.raises(Exception, match="commit"):
        stub.SaveResult(requests(), timeout=30)
    with pytest.raises(NotFound):
        client.get_result(header.result_id)
    assert count_orphans(database) == 0


def test_a_wrong_checksum_or_count_stores_nothing(client: Client) -> None:
    header = make_header(rows=(0, 11))
    with pytest.raises(InvalidArgument) as refused:
        client.save_result(header, trades=None, fills=None, equity=make_equity(10), fence=1)
    assert refused.value.reason == "CHECKSUM_MISMATCH"
    with pytest.raises(NotFound):
        client.get_result(header.result_id)


def count_orphans(database: psycopg.Connection) -> int:
    [count] = database.execute(
        "SELECT count(*) FROM results.chunks WHERE NOT EXISTS "
        "(SELECT FROM results.results WHERE results.save_id = chunks.save_id)"
    ).fetchone() or [None]
    return int(count)
