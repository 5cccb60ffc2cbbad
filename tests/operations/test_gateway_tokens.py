"""Tokens that are none of dCMMS's access tokens, each refused with 401 by the code that every request goes through."""

import base64
import json
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth import Authenticator
from gateway.errors import ApiError
from tests.gateways import SECRET, claims, token

RSA = rsa.generate_private_key(65_537, 2_048)
NO_TEXT = [None, "", 0, 1, True, 1.5, [], ["super_admin"], {}, {"role": "super_admin"}, "x" * 257]
NO_INSTANT = [None, "", "soon", str(int(time.time()) + 3_600), True, [], {}, 0, -1, 1, 10**30, -(10**30), 1e300]
NO_INSTANT += [int(time.time()) - 1, time.time() + 10 * 366 * 86_400, ...]
NO_TENANT = ["no uuid", "%", "*", "00000000-0000-4000-8000-0000000000aa ", "00000000000040008000000000000aa"]
OTHER_KINDS = ["refresh", "id", "Access", "", None, 0, False, ["access"], {"access": 1}]


@pytest.fixture(scope="module")
def authenticator() -> Authenticator:
    return Authenticator(SECRET)


def encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload: bytes, header: dict[str, Any] | None = None) -> str:
    """Return a well-signed token over whatever bytes, which no library would make."""
    head = f"{encoded(header or {'alg': 'HS256', 'typ': 'JWT'})}.{encoded(payload)}"
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{head}.{encoded(algorithm.sign(head.encode(), SECRET.encode()))}"


def bad_claims() -> Iterator[dict[str, Any]]:
    for name in ("id", "tenantId", "email", "username", "role"):
        yield from (claims(**{name: value}) for value in (*NO_TEXT, ...))
    yield from (claims(tenantId=value) for value in NO_TENANT)
    yield from (claims(exp=value) for value in NO_INSTANT)
    for name in ("type", "tokenType", "token_type", "token_use"):
        yield from (claims(**{name: value}) for value in OTHER_KINDS)
    yield claims(nbf=int(time.time()) + 86_400)
    yield claims(nbf="later")
    yield claims(iat=int(time.time()) + 86_400)
    yield claims(iat=[])
    yield claims(aud="another service")


def bad_tokens() -> Iterator[str]:
    good = token("super_admin")
    head, payload, signature = good.split(".")
    yield from (jwt.encode(claims(), SECRET, algorithm=name) for name in ("HS384", "HS512"))
    yield jwt.encode(claims(), RSA, algorithm="RS256")
    yield jwt.encode(claims(), None, algorithm="none")
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for other in (public, b"", b"secret", SECRET.encode() + b" ", SECRET[:-1].encode(), SECRET.upper().encode()):
        algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        yield f"{head}.{payload}.{encoded(algorithm.sign(f'{head}.{payload}'.encode(), other))}"
    for name in ("none", "None", "NONE", "", "HS256 ", "hs256", "HS384", "RS256", "ES256", None, ["HS256"], 256):
        yield f"{encoded({'alg': name, 'typ': 'JWT'})}.{payload}."
        yield signed(json.dumps(claims()).encode(), {"alg": name, "typ": "JWT"})
    yield signed(json.dumps(claims()).encode(), {"alg": "HS256", "crit": ["b64"], "b64": False})
    for other in ("super_admin", "tenant_admin"):
        yield f"{head}.{encoded(claims(other, 'bb'))}.{signature}"
    for raw in (b"", b"null", b"[]", b"1", b'"text"', b"{", b"\xff", b"{}", b"[" * 5_000, b'{"exp": NaN}'):
        yield signed(raw)
    yield from (good[:-1], good + "x", good + ".", good + "." + signature, f"{head}.{payload}", f"{head}..{signature}")
    yield from (".", "..", "...", "x", "null", "undefined", "é", "\x00", "a" * 10_000, good.replace(".", " "))
    yield from (f"{good} {good}", f"{good},{good}", good.upper(), good.swapcase(), good[::-1])


BAD = [jwt.encode(one, SECRET, algorithm="HS256") for one in bad_claims()] + list(bad_tokens())


def test_two_hundred_bad_tokens_are_refused(authenticator: Authenticator) -> None:
    assert len(BAD) == len(set(BAD)) >= 190
    for bad in BAD:
        refuses(authenticator, f"Bearer {bad}")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer\t{}", "Token {}", "Bearer Bearer {}", " Bearer {}"],
)
def test_other_headers_are_refused(authenticator: Authenticator, header: str | None) -> None:
    refuses(authenticator, header and header.format(token()))


def test_good_tokens_are_taken(authenticator: Authenticator) -> None:
    for header in (f"Bearer {token()}", f"bearer {token('super_admin', type='access')}", f"BEARER {token(more=[1])}"):
        assert authenticator.caller(header).email == "somebody@dcmms.example"
    assert authenticator.caller(f"Bearer {token('super_admin')}").tenant is None
    capitals = token(tenantId="ABCDEF00-0000-4000-8000-0000000000AA")
    assert authenticator.caller(f"Bearer {capitals}").tenant == "abcdef00-0000-4000-8000-0000000000aa"


def test_a_token_that_was_good_expires(authenticator: Authenticator) -> None:
    short = f"Bearer {token(exp=int(time.time()) + 2)}"
    assert authenticator.caller(short)
    time.sleep(2.1)
    refuses(authenticator, short)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_changed_token_is_taken(authenticator: Authenticator, data: st.DataObject) -> None:
    good = token("operator", exp=int(time.time()) + 3_600)
    place = data.draw(st.integers(0, len(good) - 2))  # the last character has bits that mean nothing
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != good[place]))
    refuses(authenticator, f"Bearer {good[:place]}{other}{good[place + 1 :]}")


@settings(max_examples=200, deadline=None)
@given(junk=st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_no_junk_is_taken(authenticator: Authenticator, junk: str) -> None:
    refuses(authenticator, f"Bearer {junk}")
    refuses(authenticator, junk)


def refuses(authenticator: Authenticator, header: str | None) -> None:
    with pytest.raises(ApiError) as refusal:
        authenticator.caller(header)
    assert refusal.value.status_code == HTTPStatus.UNAUTHORIZED
    # what is shorter may be a word of ours
    assert not header or len(header) < 20 or header[7:] not in refusal.value.detail
