"""Tokens taken apart, and claims: pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.tokens import (
    LONGEST_TOKEN,
    check_claims,
    plain,
    principal_name,
    read_token,
    tier_of,
)
from proxy.config import Grant, Issuer
from proxy.errors import Forbidden, Unauthorized
from tests.access.signing import b64

URL = "https://id.example"
ISSUER = Issuer(url=URL, audience=("devstral", "other"), clock_skew_s=30)
NOW = 1_800_000_000
GOOD = {"iss": URL, "aud": "devstral", "exp": NOW + 60}


PLAIN = {"alg": "RS256"}


def text_of(header=PLAIN, claims=GOOD, signature=b"sig"):
    return f"{b64(header)}.{b64(claims)}.{b64(signature)}"


def test_a_token_is_taken_apart():
    token = read_token(text_of({"alg": "ES256", "kid": "k", "typ": "JWT"}))

    assert (token.algorithm, token.key_id, token.issuer) == ("ES256", "k", URL)
    assert token.claims == GOOD
    assert token.signed.decode() + "." + b64(token.signature) == text_of({"alg": "ES256", "kid": "k", "typ": "JWT"})


def test_keys_and_links_to_keys_in_the_header_are_not_looked_at():
    header = {"alg": "RS256", "jwk": 5, "jku": ["http://127.0.0.1/"], "x5u": {}, "x5c": "x", "new": None}

    token = read_token(text_of(header))
    assert (token.algorithm, token.key_id) == ("RS256", None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        "..",
        f"{b64({'alg': 'RS256'})}.{b64(GOOD)}.",
        f"{b64({'alg': 'RS256'})}..{b64(b'sig')}",
        text_of() + "=",
        text_of() + "\n",
        " " + text_of(),
        text_of().replace(".", "%2e"),
        text_of({"alg": None}),
        text_of({"kid": "k"}),
        text_of({"alg": ["RS256"]}),
        text_of({"alg": "RS256", "kid": 5}),
        text_of({"alg": "RS256", "typ": "logout+jwt"}),
        text_of({"alg": "RS256", "typ": "dpop+jwt"}),
        text_of({"alg": "RS256", "crit": []}),
        text_of({"alg": "RS256", "crit": ["exp"], "exp": 1}),
        text_of({"alg": "RS256", "crit": ["b64"], "b64": False}),
        text_of({"alg": "RS256", "b64": False}),
        text_of({"alg": "RS256", "crit": None}),
        text_of(claims={"aud": "devstral"}),
        text_of(claims=GOOD | {"iss": [URL]}),
        text_of(claims=GOOD | {"pad": "x" * LONGEST_TOKEN}),
        *(text_of(header) for header in (b"", b"[]", b"null", b"{", b"\xff", b"[" * 5000)),
        *(text_of(claims=claims) for claims in (b"[]", b"5", b"{", b"\xff", b"[" * 5000)),
        *(text_of(claims=b'{"iss": "https://id.example", "exp": %s}' % number) for number in (b"1e999", b"NaN")),
    ],
)
def test_what_is_no_signed_token_of_a_plain_kind_is_refused(text):
    with pytest.raises(Unauthorized) as caught:
        read_token(text)

    assert caught.value.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("padding", ["", "x", "xx"])
def test_a_part_has_one_spelling_only(part, padding):
    """The last character of base64 may have bits that mean nothing: with them there would be twins of a token."""
    parts = text_of({"alg": "RS256", "n": padding}, GOOD | {"n": padding}, b"sig" + padding.encode()).split(".")
    n_spare_bits = {0: 0, 2: 4, 3: 2}[len(parts[part]) % 4]
    read_token(".".join(parts))

    for other in range(1, 2**n_spare_bits):
        twin = ALPHABET[ALPHABET.index(parts[part][-1]) + other]
        with pytest.raises(Unauthorized, match="malformed"):
            read_token(".".join([*parts[:part], parts[part][:-1] + twin, *parts[part + 1 :]]))


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@given(st.text())
def test_any_text_is_a_token_or_refused(text):
    with pytest.raises(Unauthorized):
        read_token(text)


# --- claims


def refused(issuer=ISSUER, **changes):
    """Return why claims with these changes are refused; None if they are not."""
    claims = {name: value for name, value in (GOOD | changes).items() if value is not None}
    try:
        check_claims(claims, issuer, NOW)
    except Unauthorized as exc:
        return exc.message.removeprefix("The token is not accepted: ").removesuffix(".")
    return None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"aud": "other"}, None),
        ({"aud": ["x", "devstral"]}, None),
        ({"aud": "devstral2"}, "it is for another audience"),
        ({"aud": "Devstral"}, "it is for another audience"),
        ({"aud": ["x", "y"]}, "it is for another audience"),
        ({"aud": []}, "it is for another audience"),
        ({"aud": None}, "it is for another audience"),
        ({"aud": {"devstral": 1}}, "it is for another audience"),
        ({"aud": [["devstral"], 5, None]}, "it is for another audience"),
        ({"iss": URL + "/"}, "it is of another issuer"),
        ({"iss": None}, "it is of another issuer"),
        ({"exp": None}, "it does not say when it expires"),
        ({"exp": NOW - 29}, None),
        ({"exp": NOW - 30}, "it has expired"),
        ({"exp": NOW + 0.5}, None),
        ({"exp": str(NOW + 60)}, "its exp is not a time"),
        ({"exp": True}, "its exp is not a time"),
        ({"exp": [NOW + 60]}, "its exp is not a time"),
        ({"exp": -1}, "it has expired"),
        ({"nbf": NOW + 30}, None),
        ({"nbf": NOW + 31}, "it is not valid yet"),
        ({"nbf": "now"}, "its nbf is not a time"),
        ({"iat": NOW + 30}, None),
        ({"iat": NOW + 31}, "it is not valid yet"),
        ({"iat": False}, "its iat is not a time"),
        ({"cnf": {"jkt": "x"}}, "it is bound to a key, and only plain bearer tokens are taken"),
    ],
)
def test_claims_say_whose_for_whom_and_until_when(changes, reason):
    assert refused(**changes) == reason


def test_the_clocks_may_be_apart_as_far_as_the_setting_says():
    strict = Issuer(url=URL, audience=("devstral",), clock_skew_s=0)

    assert refused(strict, exp=NOW + 1) is None
    assert refused(strict, exp=NOW) == "it has expired"
    assert refused(strict, nbf=NOW + 1) == "it is not valid yet"
    assert check_claims(GOOD, strict, NOW) == NOW + 60


def tier(claims, /, **settings):
    """Return the tier, or the code of the failure."""
    try:
        return tier_of(claims, Issuer(url=URL, audience=("devstral",), **settings))
    except Forbidden as exc:
        return exc.code


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"scope": "chat"}, "default"),
        ({"scope": "a chat b"}, "default"),
        ({"scp": ["a", "chat"]}, "default"),
        ({"scp": "a chat"}, "default"),
        ({"scope": ["chat"]}, "default"),
        ({"scope": "chat2 chats"}, "insufficient_scope"),
        ({"scope": "a,chat"}, "insufficient_scope"),
        ({"scope": {"chat": 1}}, "insufficient_scope"),
        ({"roles": "chat"}, "insufficient_scope"),
        ({}, "insufficient_scope"),
    ],
)
def test_every_token_needs_the_required_scopes(claims, expected):
    assert tier(claims, scopes=("chat",)) == expected


@pytest.mark.parametrize(
    ("name", "claims", "expected"),
    [
        ("team", {"team": "blue"}, "default"),
        ("team", {"team": ["red", "blue"]}, "default"),
        ("team", {"team": "blue2"}, "missing_claim"),
        ("team", {"team": "red blue"}, "missing_claim"),
        ("team", {"team": {"blue": True}}, "missing_claim"),
        ("team", {"team": None}, "missing_claim"),
        ("team", {}, "missing_claim"),
        ("realm_access.roles", {"realm_access": {"roles": ["x", "blue"]}}, "default"),
        ("realm_access.roles", {"realm_access": ["roles", "blue"]}, "missing_claim"),
        ("https://x.example/team", {"https://x.example/team": "blue"}, "default"),
        ("a.b", {"a.b": "blue", "a": {"b": "red"}}, "default"),
    ],
)
def test_every_token_needs_the_required_claims(name, claims, expected):
    assert tier(claims, claims={name: "blue"}) == expected


def test_booleans_and_whole_numbers_are_compared_as_json_writes_them():
    assert tier({"email_verified": True}, claims={"email_verified": "true"}) == "default"
    assert tier({"email_verified": False}, claims={"email_verified": "true"}) == "missing_claim"
    assert tier({"org": 7}, claims={"org": "7"}) == "default"


GRANTS = (
    Grant(scopes=("chat", "admin"), tier="gold"),
    Grant(claims={"team": "blue"}, tier="silver"),
    Grant(scopes=("chat",), claims={"team": "red"}, tier="bronze"),
)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"scope": "chat admin", "team": "blue"}, "gold"),
        ({"scope": "chat", "team": "blue"}, "silver"),
        ({"scope": "chat", "team": "red"}, "bronze"),
        ({"team": "red"}, "no_tier"),
        ({}, "no_tier"),
    ],
)
def test_the_first_grant_that_fits_gives_the_tier(claims, expected):
    assert tier(claims, grants=GRANTS) == expected
    assert tier(claims, grants=GRANTS, tier="rest") == expected.replace("no_tier", "rest")


def test_without_grants_it_is_the_issuers_tier():
    assert tier({}, tier="rest") == "rest"
    assert tier({}) == "default"


def test_who_lacks_something_is_told_so_in_the_way_of_oauth():
    with pytest.raises(Forbidden) as caught:
        tier_of({}, Issuer(url=URL, audience=("devstral",), scopes=("chat",)))

    assert caught.value.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope"'


def named(claims, /, **settings):
    return principal_name(claims, Issuer(url=URL, audience=("devstral",), **settings))


def test_a_principal_is_called_by_its_issuer_and_its_claim():
    assert named({"sub": "alice"}) == "https://id.example#alice"
    assert named({"sub": "a", "email": "a@b.example"}, principal_claim="email") == "https://id.example#a@b.example"
    assert named({"uid": 7}, principal_claim="uid") == "https://id.example#7"


@pytest.mark.parametrize("value", [None, "", True, 1.5, ["alice"], {"a": "b"}])
def test_a_token_that_does_not_say_who_it_is_for_is_refused(value):
    with pytest.raises(Unauthorized, match="does not say who"):
        named({"sub": value})


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_names_stay_two_and_are_fit_for_logs(a, b):
    for name in (plain(a), plain(b), plain(plain(a))):
        assert name.isascii()
        assert name.isprintable()
        assert 0 < len(name) <= 64
    assert (plain(a) == plain(b)) == (a == b)
    # who calls himself what another one was shortened to is called otherwise
    assert plain(a) == a or plain(plain(a)) != plain(a)
