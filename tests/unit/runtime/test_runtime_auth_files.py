"""What files of keys may hold, and what is made of the rest."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from klinecast.errors import Unauthenticated
from services.runtime.auth import watched
from services.runtime.auth.watched import WatchedFile
from services.runtime.auth.web_tokens import Claims, parse_keys, read_token

CLAIMS = Claims("issuer", "audience", "tenant", "roles")
ES256 = jwt.get_algorithm_by_name("ES256")
ONE, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


def public(key: ec.EllipticCurvePrivateKey, **fields: object) -> dict[str, Any]:
    return {**ES256.to_jwk(key.public_key(), as_dict=True), **fields}


def jwks(*entries: object) -> bytes:
    return json.dumps({"keys": entries}).encode()


def token(key: ec.EllipticCurvePrivateKey, **headers: str) -> str:
    payload = {"iss": "issuer", "aud": "audience", "exp": time.time() + 60, "tenant": "a", "roles": ["user"]}
    return jwt.encode(payload, key, "ES256", headers=headers)


@pytest.mark.parametrize(
    "odd",
    [
        None,
        "a string",
        7,
        [],
        {"kty": ["RSA"]},
        {"kty": "RSA", "n": 7},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "RSA-OAEP"},
        public(OTHER, kid={"not": "hashable"}),
        public(OTHER, alg=["ES256"]),
    ],
    ids=range(10),
)
def test_a_key_that_cannot_be_used_leaves_the_others(odd: object) -> None:
    keys = parse_keys(jwks(odd, public(ONE, kid="one")))
    assert read_token(token(ONE, kid="one"), keys, CLAIMS).tenant == "a"
    assert set(keys) == {"one"}
    with pytest.raises(ValueError, match="holds no public key"):
        parse_keys(jwks(odd))


def test_a_private_key_is_refused_and_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    for private in (ES256.to_jwk(ONE, as_dict=True), {"kty": "RSA", "alg": "unknown", "d": "secret"}):
        with pytest.raises(ValueError, match=r"keys\[1\]: is a private key") as error:
            parse_keys(jwks(public(OTHER), private))
        assert private["d"] not in str(error.value) + capsys.readouterr().out


def test_keys_without_an_id_are_all_tried() -> None:
    keys = parse_keys(jwks(public(ONE), public(OTHER), public(ONE, kid="named")))
    for key in (ONE, OTHER):
        assert read_token(token(key), keys, CLAIMS).tenant == "a"
    for forged in (token(ec.generate_private_key(ec.SECP256R1())), token(OTHER, kid="named"), token(ONE, kid="none")):
        with pytest.raises(Unauthenticated):
            read_token(forged, keys, CLAIMS)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("[" * 100_000, "too deeply"), ('{"keys": {}}', "a list"), ("7", "a list"), ("{", "Expecting")],
    ids=range(4),
)
def test_what_is_no_file_of_keys_is_refused(content: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_keys(content.encode())


def test_whatever_a_changed_file_breaks_the_one_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "CHECK_S", 0.0)
    path, refused = tmp_path / "file", []
    path.write_text('{"good": 1}')
    file = WatchedFile(str(path), lambda content: json.loads(content)["good"], lambda: refused.append(1))
    for content in ("[" * 100_000, "[]", "{}", "{"):  # RecursionError, TypeError, KeyError, ValueError
        path.write_text(content)
        assert file.value == 1
    assert len(refused) == 4
    path.write_text('{"good": 22}')
    assert file.value == 22
