"""Key sets and signatures: real keys, and everything that is tried with them."""

import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OKPKey, RSAKey

from proxy.access.jwks import KeySet, Verdict
from proxy.access.tokens import read_token
from proxy.errors import Unauthorized
from tests.access.signing import (
    ED25519,
    MODELS,
    OTHER_RSA,
    P256,
    P384,
    P521,
    RSA,
    b64,
    claims_of,
    oct_key,
    public,
    signed,
    token_of,
)

URL = "https://id.example"
ALL = (RSA, P256, P384, P521, ED25519)


def key_set(*keys):
    return KeySet(json.dumps(public(*keys)).encode())


def set_of(*plain):
    return KeySet(json.dumps({"keys": plain}).encode())


def judged(token, keys=None):
    """Return the verdict on a token; "refused" if it does not even come to one."""
    try:
        return (keys or key_set(*ALL)).judge(read_token(token))
    except Unauthorized:
        return "refused"


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        *((name, RSA) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        *(("ES256", P256), ("ES384", P384), ("ES512", P521), ("EdDSA", ED25519)),
    ],
)
def test_a_signature_is_good_by_the_key_that_made_it_and_by_no_other(algorithm, key):
    token = token_of(URL, key, algorithm)

    assert judged(token) is Verdict.GOOD
    others = [other for other in ALL if other is not key]
    assert judged(token, key_set(*others)) is Verdict.UNKNOWN_KEY
    header, claims, signature = token.split(".")
    other_claims = b64(claims_of(URL, sub="bob"))
    assert judged(f"{header}.{other_claims}.{signature}") is Verdict.FORGED
    for name in MODELS.keys() - {algorithm}:
        assert judged(f"{b64({'alg': name, 'kid': key.kid})}.{claims}.{signature}") is not Verdict.GOOD


def test_another_key_of_the_same_kid_is_another_key():
    assert judged(token_of(URL, OTHER_RSA)) is Verdict.FORGED
    # while a key is replaced under its old name there may be both
    assert judged(token_of(URL, OTHER_RSA), key_set(RSA, OTHER_RSA)) is Verdict.GOOD
    assert judged(token_of(URL, RSA), key_set(RSA, OTHER_RSA)) is Verdict.GOOD


def test_a_key_is_found_by_its_name_and_not_by_trying():
    """A flood of tokens would else cost a signature of every key for each."""
    for kid in ("rsa2", "RSA", "", "p256"):
        assert judged(signed({"alg": "RS256", "kid": kid}, claims_of(URL), RSA)) is Verdict.UNKNOWN_KEY


NAMES = ["none", "None", "NONE", "nOnE", "none ", "", "null", "HS256", "HS384", "HS512", "A128KW", "dir"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("signature", ["", "AA", "rsa", "valid"])
def test_no_algorithm_without_a_key_pair_is_known(name, signature):
    _, claims, valid = token_of(URL).split(".")
    forged = {"": "", "AA": "AA", "rsa": b64(b"\0" * 256), "valid": valid}[signature]

    for kid in ({"kid": "rsa"}, {}):
        assert judged(f"{b64({'alg': name, **kid})}.{claims}.{forged}") in ("refused", Verdict.FORGED)


def public_forms(key):
    """The bytes that a public key may be written as, each of which somebody has taken for a shared secret before."""
    native = key.public_key
    pem = native.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    jwk = key.as_dict(private=False)
    yield from (pem, pem.strip(), pem.replace(b"\n", b"\r\n"))
    yield native.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for plain in (jwk, {name: jwk[name] for name in jwk if name != "kid"}, {"keys": [jwk]}):
        for separators in ((",", ":"), (", ", ": ")):
            yield json.dumps(plain, separators=separators).encode()
            yield json.dumps(plain, separators=separators, sort_keys=True).encode()
    yield from (jwk.get("n", jwk.get("x")).encode(), b"", b"rsa")


@pytest.mark.parametrize("key", [RSA, P256, ED25519], ids=lambda key: key.kid)
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_never_a_shared_secret(key, algorithm):
    for secret in filter(None, public_forms(key)):
        for kid in ({"kid": key.kid}, {}):
            token = signed({"alg": algorithm, **kid}, claims_of(URL), oct_key(secret), algorithm)
            assert judged(token) is Verdict.FORGED
            # with another name for it in the header, the signature is still none
            renamed = signed({"alg": "RS256", **kid}, claims_of(URL), oct_key(secret), algorithm)
            assert judged(renamed) is not Verdict.GOOD


def test_a_shared_secret_in_a_key_set_is_passed_over():
    secret = oct_key(b"s" * 32)
    keys = set_of({"kty": "oct", "k": b64(b"s" * 32), "kid": "secret"}, RSA.as_dict(private=False))

    assert len(keys) == 1
    assert judged(signed({"alg": "HS256", "kid": "secret"}, claims_of(URL), secret, "HS256"), keys) is Verdict.FORGED


def test_a_key_in_the_header_is_not_used():
    own = RSAKey.generate_key(2048)
    link = "http://127.0.0.1:1/"
    for extra in ({"jwk": own.as_dict(private=False)}, {"jku": link}, {"x5u": link}, {"x5c": ["AA"]}):
        assert judged(signed({"alg": "RS256", "kid": "rsa", **extra}, claims_of(URL), own)) is Verdict.FORGED


def test_a_key_is_used_only_for_what_it_is_published_for():
    plain = RSA.as_dict(private=False)
    token = token_of(URL)
    for good in ({}, {"use": "sig"}, {"alg": "RS256"}, {"key_ops": ["verify"]}, {"use": "sig", "key_ops": ["verify"]}):
        assert judged(token, set_of(plain | good)) is Verdict.GOOD
    for other in ({"use": "enc"}, {"alg": "PS256"}, {"alg": "RSA-OAEP"}, {"key_ops": ["encrypt"]}, {"key_ops": []}):
        assert judged(token, set_of(plain | other, P256.as_dict(private=False))) is Verdict.UNKNOWN_KEY


def test_a_token_without_a_kid_is_tried_with_the_only_key_of_its_kind():
    """OpenID Connect Core 1.0, 10.1: with several keys `kid` must be there."""
    token = signed({"alg": "RS256"}, claims_of(URL), RSA)

    assert judged(token, key_set(RSA, P256)) is Verdict.GOOD
    assert judged(token, key_set(RSA, OTHER_RSA)) is Verdict.UNKNOWN_KEY
    assert judged(token, key_set(OTHER_RSA)) is Verdict.UNKNOWN_KEY


JUNK = [
    5,
    None,
    [],
    {},
    "key",
    {"kty": "RSA"},
    {"kty": ["RSA"]},
    {"kty": "RSA", "n": 5, "e": "AQAB"},
    {"kty": "RSA", "n": "!!", "e": "AQAB"},
    {"kty": "RSA", "n": "", "e": ""},
    {"kty": "RSA", "n": RSA.as_dict(private=False)["n"], "e": "AA"},
    {"kty": "RSA", "n": RSA.as_dict(private=False)["n"]},
    {"kty": "RSA", "n": RSA.as_dict(private=False)["n"], "e": "AQAB", "use": "magic"},
    {"kty": "RSA", "n": RSA.as_dict(private=False)["n"], "e": "AQAB", "kid": 5},
    {"kty": "RSA", "n": RSA.as_dict(private=False)["n"], "e": "AQAB", "use": "sig", "key_ops": ["encrypt"]},
    {"kty": "RSA", "n": b64(b"\xff" * 2048), "e": "AQAB"},
    {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
    {"kty": "EC", "crv": "P-256"},
    {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
    {"kty": "EC", "crv": "Ed25519", "x": "AA", "y": "AA"},
    ECKey.generate_key("secp256k1").as_dict(private=False),
    {"kty": "OKP", "crv": "X25519", "x": OKPKey.generate_key("X25519").as_dict(private=False)["x"]},
    {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
    {"kty": "OKP", "crv": "P-256", "x": "AA"},
    {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
    {"kty": "oct", "k": "c2VjcmV0"},
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_keys_that_cannot_be_used_are_passed_over(junk):
    keys = set_of(junk, RSA.as_dict(private=False), junk)

    assert len(keys) == 1
    assert judged(token_of(URL), keys) is Verdict.GOOD
    with pytest.raises(ValueError, match="no key that can be used"):
        set_of(junk)


def test_rsa_keys_are_not_taken_below_2048_bits_however_they_are_written():
    """NIST SP 800-131A. Zeros in front make a short number long, and change nothing."""
    with pytest.warns(match="2048"):
        short = RSAKey.generate_key(1024, {"kid": "short"})
    plain = short.as_dict(private=False)
    padded = b64(b"\0" * 128 + short.public_key.public_numbers().n.to_bytes(128, "big"))

    for number in (plain["n"], padded):
        with pytest.raises(ValueError, match="no key that can be used"):
            set_of(plain | {"n": number})


def test_a_private_key_that_is_published_is_used_as_the_public_one():
    keys = set_of(RSA.as_dict(private=True))

    assert judged(token_of(URL), keys) is Verdict.GOOD


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"\xff", b"[" * 100_000])
def test_what_is_no_key_set_is_a_value_error(text):
    with pytest.raises(ValueError, match="the key set"):
        KeySet(text)


ANY_JSON = st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(st.binary() | ANY_JSON.map(lambda value: json.dumps({"keys": [value]}).encode()))
def test_any_bytes_are_a_key_set_or_a_value_error(text):
    with pytest.raises(ValueError):
        KeySet(text)


TOKENS = [token_of(URL, key, algorithm) for key, algorithm in ((RSA, "RS256"), (P256, "ES256"), (ED25519, "EdDSA"))]
KEYS = key_set(*ALL)


@settings(max_examples=500)
@given(st.data())
def test_no_token_that_differs_in_a_character_is_good(data):
    token = data.draw(st.sampled_from(TOKENS))
    at = data.draw(st.integers(0, len(token) - 1))
    kind = data.draw(st.sampled_from(["replace", "insert", "delete", "swap", "cut"]))
    character = data.draw(st.sampled_from("ABCDwxyz0189-_.=+/ \n%\0é"))
    changed = {
        "replace": token[:at] + character + token[at + 1 :],
        "insert": token[:at] + character + token[at:],
        "delete": token[:at] + token[at + 1 :],
        "swap": token[:at] + token[at : at + 2][::-1] + token[at + 2 :],
        "cut": token[:at],
    }[kind]

    assert judged(token, KEYS) is Verdict.GOOD
    assert changed == token or judged(changed, KEYS) is not Verdict.GOOD


@given(st.data())
def test_no_bit_of_a_signature_can_be_turned(data):
    """Of a signature by a curve there is a twin, (r, -s), that anybody can make; it is about the same content."""
    token = data.draw(st.sampled_from(TOKENS))
    head = token.rpartition(".")[0]
    raw = bytearray(read_token(token).signature)
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8

    assert judged(f"{head}.{b64(bytes(raw))}", KEYS) is Verdict.FORGED


@pytest.mark.parametrize(
    "raw", [b"\0" * 64, b"\xff" * 64, b"", b"\0", b"\0" * 256, b"\x30\x06\x02\x01\x00\x02\x01\x00"]
)
def test_signatures_that_have_fooled_others_are_forged(raw):
    """All zeros were good for any content in CVE-2022-21449."""
    for token in TOKENS:
        head = token.rpartition(".")[0]
        assert judged(f"{head}.{b64(raw)}", KEYS) in ("refused", Verdict.FORGED)
