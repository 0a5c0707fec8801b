"""Which tokens hold, and for how long: forged, expired, rotated and removed ones, on calls and on open streams."""

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from klinecast.client import Client
from klinecast.errors import InvalidArgument, KlinecastError, NotFound, PermissionDenied, Unauthenticated
from tests.factories import make_config
from tests.results import save
from tests.security import AUDIENCE, ISSUER, Secured
from tests.suite import Suite, run_suite

CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "tenant": "a", "roles": ["user"]}


@pytest.fixture
def own(session_home: Path, database_url: str) -> Iterator[tuple[Suite, Secured]]:
    """Return a deployment whose keys and tokens may be changed."""
    home = session_home / f"secured-{uuid.uuid4().hex[:8]}"
    secured = Secured(home / "files")
    with run_suite(home, database_url, **secured.settings()) as suite:
        yield suite, secured


@pytest.fixture
def refused(secured_suite: Suite, secured: Secured) -> Callable[[str], None]:
    def check(token: str) -> None:
        with (
            secured_suite.client(security=secured.security(token)) as client,
            pytest.raises(Unauthenticated) as error,
        ):
            list(client.list_backtests())
        assert error.value.reason == "UNAUTHENTICATED"

    return check


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def test_h3_forged_tokens_are_refused(secured: Secured, refused: Callable[[str], None]) -> None:
    good = secured.provider.token("a", "user")
    head, body, signature = good.split(".")
    kid = jwt.get_unverified_header(good)["kid"]
    payload = {**CLAIMS, "exp": time.time() + 600}
    public_text = secured.provider.jwks_file.read_text()
    for forged in (
        "nonsense",
        good[:-10],
        f"{head}.{body}.",
        f"{encoded({'alg': 'none', 'kid': kid})}.{body}.",
        f"{head}.{encoded({**payload, 'tenant': 'b'})}.{signature}",
        jwt.encode(payload, f"the public key {public_text}", "HS256", headers={"kid": kid}),
        jwt.encode(payload, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": kid}),
        jwt.encode(payload, ec.generate_private_key(ec.SECP256R1()), "ES256"),
        jwt.encode(payload, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "another"}),
        "kc_" + "A" * 43,
        good + "x" * 9_000,
    ):
        refused(forged)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"iss": None},
        {"aud": None},
        {"tenant": None},
        {"tenant": ""},
        {"tenant": "../b"},
        {"tenant": ["a"]},
        {"nbf": time.time() + 86_400},
    ],
)
def test_h3_a_token_says_all_that_is_needed(
    secured: Secured, refused: Callable[[str], None], claims: dict[str, object]
) -> None:
    refused(secured.provider.token("a", "user", said=claims))


def test_clocks_may_differ_by_two_seconds(
    secured_suite: Suite, secured: Secured, refused: Callable[[str], None]
) -> None:
    with secured_suite.client(security=secured.security(secured.provider.token("a", "user", expires_s=-1))) as client:
        assert len(client.list_strategies()) > 0
    refused(secured.provider.token("a", "user", expires_s=-3))


def test_roles_may_be_words_and_strange_ones_give_nothing(secured_suite: Suite, secured: Secured) -> None:
    for roles, allowed in (("openid user", True), ("openid", False), (["root", 7, None], False), (None, False)):
        token = secured.provider.token("a", said={"roles": roles})
        with secured_suite.client(security=secured.security(token)) as client:
            if allowed:
                assert list(client.list_backtests()) is not None
            else:
                with pytest.raises(PermissionDenied, match="the role service or user is required") as error:
                    list(client.list_backtests())
                assert error.value.metadata == {"required": "service or user"}


def test_h2_unknown_methods_are_for_those_with_a_token_only(secured_suite: Suite, secured: Secured) -> None:
    credentials = grpc.ssl_channel_credentials(secured.authority.ca_file.read_bytes())
    token = secured.provider.token("a", "user")
    for service in ("data", "backtest", "results"):
        with grpc.secure_channel(secured_suite.target(service), credentials) as channel:
            for path in (
                "/klinecast.api.data.v1.DataService/Drop",
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",  # off by default
            ):
                codes = []
                for metadata in ((), (("authorization", f"Bearer {token}"),)):
                    with pytest.raises(grpc.RpcError) as error:
                        next(channel.stream_stream(path)(iter([b""]), metadata=metadata, timeout=5))
                    codes.append(error.value.code())
                assert codes == [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED]


def test_h4_a_watch_ends_when_its_token_expires_and_goes_on_with_a_newer_one(
    secured_suite: Suite, secured: Secured
) -> None:
    tenant, name = f"t-{uuid.uuid4().hex[:8]}", f"{uuid.uuid4().hex}.token"
    with secured_suite.client(security=secured.security(secured.provider.token(tenant, "user", "ingest"))) as client:
        backtest = client.create_backtest(make_config(client, strategy="slow", params={"seconds": 9.0}))
    short = secured.provider.token(tenant, "user", expires_s=0.5)
    with secured_suite.client(security=secured.security(short)) as watcher:
        began = time.monotonic()
        with pytest.raises(Unauthenticated, match="expired"):
            list(watcher.watch_backtest(backtest.backtest_id))
        assert time.monotonic() - began < 0.5 + 5
    short = secured.provider.token(tenant, "user", expires_s=0.5)
    with secured_suite.client(security=secured.security(short, name=name)) as watcher:
        events = watcher.watch_backtest(backtest.backtest_id)
        seen = [next(events)]
        secured.token_file(secured.provider.token(tenant, "user"), name)
        seen += events
    assert seen[-1].state == "SUCCEEDED"
    assert [one.sequence for one in seen] == sorted({one.sequence for one in seen})


def test_keys_are_rotated_without_a_restart(own: tuple[Suite, Secured]) -> None:
    suite, secured = own
    old = secured.provider.token("a", "user")
    with suite.client(security=secured.security(old)) as before:
        list(before.list_backtests())
        secured.provider.rotate(keep=True)
        with suite.client(security=secured.security(secured.provider.token("a", "user"))) as after:
            soon(lambda: list(after.list_backtests()))
            list(before.list_backtests())  # signed with the older key, which is there still
            secured.provider.rotate()
            soon(lambda: is_refused(before))
    secured.provider.jwks_file.write_text("{")
    time.sleep(1.2)
    with suite.client(security=secured.security(secured.provider.token("a", "user"))) as client:
        list(client.list_backtests())  # a file that cannot be used leaves the keys before in force
    assert "file_not_taken" in suite.log("backtest")


def test_static_tokens_have_a_tenant_roles_and_an_end(own: tuple[Suite, Secured]) -> None:
    suite, secured = own
    token = secured.add_static("importer", ["ingest", "user"], tenant="acme")
    expired = secured.add_static("gone", ["user"], expires="2020-01-01T00:00:00Z")
    with suite.client(security=secured.security(token)) as client:
        soon(lambda: list(client.list_backtests()))
        config = make_config(client, strategy="slow", params={"seconds": 30.0})
        events = client.run_backtest(config)
        backtest_id = next(events).backtest_id
        for change, refusal, text in (
            ({"roles": ["ingest"]}, PermissionDenied, "the role"),
            ({"tenant": "other"}, Unauthenticated, "another tenant"),
            (None, Unauthenticated, "not valid"),
        ):
            secured.change_static("importer", roles=["ingest", "user"], tenant="acme")
            soon(lambda: client.get_backtest(backtest_id))
            watch = client.watch_backtest(backtest_id)
            next(watch)
            began = time.monotonic()
            secured.remove_static("importer") if change is None else secured.change_static("importer", **change)
            with pytest.raises(refusal, match=text):
                list(watch)
            assert time.monotonic() - began < 5
    with suite.client(security=secured.security(expired)) as client, pytest.raises(Unauthenticated, match="expired"):
        list(client.list_series())
    assert token not in "".join(suite.log(name) for name in ("data", "backtest", "results"))


def test_tombstones_are_for_services(secured_suite: Suite, secured: Secured) -> None:
    result_id = str(uuid.uuid4())
    with (
        secured_suite.client(security=secured.security(secured.provider.token("a", "user"))) as user,
        secured_suite.client(security=secured.security(secured.service_token), tenant="a") as service,
    ):
        user.delete_result(result_id, tombstone_fence=5)
        assert save(service, result_id=result_id, fence=1).result_id == result_id
        with pytest.raises(PermissionDenied):
            save(user)


def test_two_tenants_and_a_whole_journey(connect: Callable[..., Client]) -> None:
    one, other = connect("user", "ingest"), connect("user")
    event = list(one.run_backtest(make_config(one)))[-1]
    assert event.state == "SUCCEEDED"
    assert len(one.load_equity(str(event.result_id))["equity"]) == 500
    assert "<!doctype html>" in one.render_report(str(event.result_id))
    for call in (
        lambda: other.get_backtest(event.backtest_id),
        lambda: other.get_result(str(event.result_id)),
        lambda: list(other.watch_backtest(event.backtest_id)),
        lambda: other.load_trades(str(event.result_id)),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(PermissionDenied, match="ingest"):
        make_config(other)


def test_a_token_is_not_shown_to_the_network(secured: Secured) -> None:
    plain = secured.security("kc_secret")
    plain = type(plain)(token_file=plain.token_file)
    for target in ("data.example:50051", "dns:///data.example:50051", "10.0.0.1:1", "ipv4:10.0.0.1:1", "[::2]:1"):
        with Client(data=target, security=plain) as client, pytest.raises(InvalidArgument, match=r"security\.ca_file"):
            list(client.list_series())
    allowed = type(plain)(token_file=plain.token_file, insecure_token_without_tls=True)
    with Client(data="ipv4:192.0.2.1:1", security=allowed, timeout_s=0.1) as client:
        assert "ca_file" not in str(problem_of(lambda: list(client.list_series())))


def problem_of(call: Callable[[], object]) -> KlinecastError | None:
    try:
        call()
    except KlinecastError as error:
        return error
    return None


def is_refused(client: Client) -> None:
    assert isinstance(problem_of(lambda: list(client.list_backtests())), Unauthenticated)


def soon(check: Callable[[], object]) -> None:
    """Wait until a check holds: a changed file is seen within a second."""
    deadline = time.monotonic() + 5
    while True:
        try:
            check()
        except (Unauthenticated, PermissionDenied, NotFound, AssertionError):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
