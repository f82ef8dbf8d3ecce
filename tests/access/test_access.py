"""Who is let in, by what, and what everybody else is told."""

import asyncio
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.access.access import Access, check_access
from proxy.access.checks import is_required
from proxy.access.issuer import BETWEEN_S, FRESH_S
from proxy.access.keys import encode_entries, new_key
from proxy.access.verifier import MOST_REMEMBERED, REMEMBERED_S
from proxy.config import Config, ConfigError, Grant, Issuer, Tier
from proxy.errors import NotDecided, ProxyError, Unauthorized
from tests.access.signing import AUDIENCE, OTHER_RSA, P256, RSA, IssuerServer, claims_of, public, signed, token_of
from tests.fakes import until

GOLD = Tier(requests_per_minute=100, operator=True)
PLAIN = Tier(requests_per_minute=10)
TIERS = {"gold": GOLD, "default": PLAIN}


class Clock:
    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


def headers(*values):
    return CIMultiDictProxy(CIMultiDict([("Host", "x"), *(("Authorization", value) for value in values)]))


def bearer(token):
    return headers(f"Bearer {token}")


def keys(*names, tier="", expires=None):
    """Return keys by name, and the text of their file."""
    made = {name: new_key(name, tier, datetime.now(UTC), expires) for name in names}
    return {name: key for name, (key, _) in made.items()}, encode_entries(entry for _, entry in made.values())


async def asked(access, given_headers, certificate_name=None):
    """Return who asks as (name, tier), or what he is told as (status, code)."""
    try:
        principal = await access.principal(given_headers, certificate_name)
    except ProxyError as exc:
        return exc.status, exc.code
    return principal.name, principal.tier_name


NOBODY = (401, "invalid_api_key")


# --- without authentication


async def test_where_nothing_is_set_up_everybody_is_anyone():
    access = Access(Config(tiers=TIERS))

    assert access.is_required is False
    for given_headers in (headers(), bearer("x"), headers("a", "b"), headers("Basic x")):
        principal = access.known(given_headers)
        assert (principal.name, principal.tier_name, principal.tier) == ("", "default", PLAIN)
    assert Access(Config()).known(headers()).tier == Tier()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"auth": "open"}, False),
        ({"auth": "required", "api_keys": "k"}, True),
        ({"api_keys": "k"}, True),
        ({"keys": encode_entries([])}, True),
        ({"issuers": (Issuer(url="https://id.example", audience=("a",)),)}, True),
        ({"tls_client_ca_file": "ca.pem"}, True),
        ({"tls_cert_file": "cert.pem"}, False),
    ],
)
def test_authentication_is_required_as_soon_as_there_is_a_method(settings, expected):
    config = Config(**settings)

    assert is_required(config) is expected
    assert Access(config).is_required is expected


# --- API keys


async def test_a_key_of_the_file_is_its_name_with_its_tier():
    made, text = keys("alice", tier="gold")
    access = Access(Config(keys=text, tiers=TIERS))

    principal = access.known(bearer(made["alice"]))

    assert (principal.name, principal.tier_name, principal.tier) == ("alice", "gold", GOLD)
    assert access.known(bearer(made["alice"])) is principal
    assert await access.principal(bearer(made["alice"]), None) is principal
    assert await asked(access, bearer(made["alice"][:-1])) == NOBODY


async def test_a_key_without_a_tier_has_the_default_one():
    made, text = keys("alice")

    assert Access(Config(keys=text, tiers=TIERS)).known(bearer(made["alice"])).tier is PLAIN
    assert Access(Config(keys=text)).known(bearer(made["alice"])).tier == Tier()


async def test_a_key_of_a_tier_that_is_not_there_may_nothing():
    made, text = keys("alice", tier="platinum")
    access = Access(Config(keys=text, tiers=TIERS))

    assert access.known(bearer(made["alice"])) is None
    assert await asked(access, bearer(made["alice"])) == (403, "unknown_tier")


async def test_a_key_is_good_until_it_expires():
    clock = Clock()
    made, text = keys("alice", expires=datetime.now(UTC) + timedelta(hours=1))
    access = Access(Config(keys=text), clock=clock)
    assert access.known(bearer(made["alice"])).name == "alice"

    clock.now += 3601

    assert access.known(bearer(made["alice"])) is None
    assert await asked(access, bearer(made["alice"])) == NOBODY


async def test_tokens_of_the_settings_are_principals_by_their_place_and_not_kept():
    access = Access(Config(api_keys="first-secret,second-secret", tiers=TIERS))

    assert [access.known(bearer(f"{name}-secret")).name for name in ("first", "second")] == [
        "api_keys[0]",
        "api_keys[1]",
    ]
    for wrong in ("first-secre", "first-secret,second-secret", ",", "FIRST-SECRET", "dsp_x"):
        assert await asked(access, bearer(wrong)) == NOBODY
    assert "secret" not in repr({name: getattr(access, name) for name in vars(access)})


async def test_a_generated_key_may_stand_among_the_tokens_of_the_settings():
    made, _ = keys("alice")
    access = Access(Config(api_keys=made["alice"], keys=keys("bob")[1]))

    assert access.known(bearer(made["alice"])).name == "api_keys[0]"


async def test_other_settings_are_in_effect_at_once():
    made, text = keys("alice", "bob")
    access = Access(Config(keys=text))
    assert access.known(bearer(made["alice"])).name == "alice"

    without_alice = json.loads(text)
    del without_alice["keys"][0]
    access.apply(Config(keys=json.dumps(without_alice)))
    assert await asked(access, bearer(made["alice"])) == NOBODY
    assert access.known(bearer(made["bob"])).name == "bob"

    with pytest.raises(ConfigError):
        access.apply(Config(keys="{"))
    assert access.known(bearer(made["bob"])).name == "bob"

    access.apply(Config())
    assert access.known(headers()).name == ""


# --- the header


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {}", "Bearer {} "])
async def test_the_scheme_is_bearer_in_any_case(form):
    access = Access(Config(api_keys="k1"))

    assert access.known(headers(form.format("k1"))).name == "api_keys[0]"


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("",),
        ("k1",),
        ("Bearer",),
        ("Bearer ",),
        ("Bearer\tk1",),
        ("Basic k1",),
        ("Bearer: k1",),
        ("Bearerk1",),
        ("Bearer k1 k1",),
        ("Bearer k1, Bearer k1",),
        ("Token k1",),
        ("Bearer k1", "Bearer k1"),
        ("Bearer k1", "Basic x"),
        ("Bearer " + "k" * 8193,),
        ("Bearer k1\udcff",),
    ],
)
async def test_everything_else_is_nobody(values):
    access = Access(Config(api_keys="k1," + "k" * 8193))

    assert access.known(headers(*values)) is None
    assert await asked(access, headers(*values)) == NOBODY


async def test_a_key_anywhere_else_is_not_looked_at():
    access = Access(Config(api_keys="k1"))
    others = [
        ("x-api-key", "k1"),
        ("api-key", "k1"),
        ("Cookie", "Authorization=Bearer k1"),
        ("Proxy-Authorization", "Bearer k1"),
    ]

    assert await asked(access, CIMultiDictProxy(CIMultiDict(others))) == NOBODY


async def test_a_refusal_says_how_to_do_it_and_nothing_of_what_came():
    secret, jwt = "dsp_0123456789ab_SECRET", token_of("https://SECRET.example", sub="SECRET")
    access = Access(Config(api_keys="k1", issuers=(Issuer(url="https://id.example", audience=("a",)),)))
    for given_headers in (headers(), bearer(secret), bearer(jwt), headers("Basic SECRET"), headers(secret, secret)):
        with pytest.raises(Unauthorized) as caught:
            await access.principal(given_headers, None)
        assert caught.value.headers["WWW-Authenticate"].startswith("Bearer")
        assert "SECRET" not in caught.value.message + str(caught.value.headers)
        for part in jwt.split("."):
            assert part[:12] not in caught.value.message
    with pytest.raises(Unauthorized, match="Send `Authorization: Bearer`"):
        await access.principal(headers(), None)


KEY, TOKEN = "an API key", "a token of an issuer that is accepted here"


@pytest.mark.parametrize(
    ("settings", "ways"),
    [
        ({"api_keys": "k1"}, KEY),
        ({"issuers": (Issuer(url="https://id.example", audience=("a",)),)}, TOKEN),
        (
            {"api_keys": "k1", "issuers": (Issuer(url="https://id.example", audience=("a",)),)},
            f"{KEY}, or with {TOKEN}",
        ),
    ],
    ids=["keys", "issuers", "both"],
)
async def test_a_refusal_names_the_ways_that_there_are(settings, ways):
    access = Access(Config(**settings))
    for given_headers, challenge in ((headers(), "Bearer"), (bearer("wrong"), 'Bearer error="invalid_token"')):
        with pytest.raises(Unauthorized) as caught:
            await access.principal(given_headers, None)
        assert caught.value.message.endswith(f"Send `Authorization: Bearer` with {ways}.")
        assert caught.value.headers["WWW-Authenticate"] == challenge


@given(st.lists(st.text(st.characters(max_codepoint=0x1FF)), max_size=3))
def test_any_headers_are_known_or_refused(values):
    access = Access(Config(api_keys="k1", keys=keys("alice")[1]))

    assert asyncio.run(asked(access, headers(*values))) == NOBODY


# --- certificates


async def test_a_certificate_is_enough_where_there_is_nothing_else():
    access = Access(Config(tls_client_ca_file="ca.pem", tiers=TIERS))

    assert await asked(access, headers(), "alice") == ("cert:alice", "default")
    assert access.known(headers(), "Team A").name == "cert:Team A"
    assert access.known(headers(), "alice\n").name.startswith("cert:~")
    for name in (None, ""):
        assert await asked(access, bearer("x"), name) == NOBODY


async def test_with_keys_a_certificate_is_not_enough():
    made, text = keys("alice")
    access = Access(Config(tls_client_ca_file="ca.pem", keys=text))

    assert await asked(access, headers(), "bob") == NOBODY
    assert await asked(access, bearer(made["alice"]), "bob") == ("alice", "default")


# --- JSON Web Tokens


class Case:
    """A door with one issuer, its server, and the time."""

    def __init__(self, server, **settings):
        self.server = server
        self.clock = Clock()
        self.notes = []
        self.issuer = Issuer(**({"url": server.url, "audience": (AUDIENCE,)} | settings))
        self.config = Config(issuers=(self.issuer,), tiers=TIERS)
        self.access = Access(self.config, lambda event, **fields: self.notes.append((event, fields)), clock=self.clock)

    def token(self, key=RSA, algorithm="RS256", **claims):
        return token_of(self.server.url, key, algorithm, **claims)

    async def asked(self, token):
        return await asked(self.access, bearer(token))

    async def reason(self, token):
        with pytest.raises(Unauthorized) as caught:
            await self.access.principal(bearer(token), None)
        return caught.value.message.removeprefix("The token is not accepted: ").removesuffix(".")

    @property
    def alice(self):
        return f"{self.server.url}#alice", "default"


@pytest.fixture
async def server():
    async with IssuerServer(RSA, P256) as server:
        yield server


@pytest.fixture
async def case(server):
    case = Case(server)
    yield case
    await case.access.close()


async def test_a_token_is_checked_once_and_then_known(server, case):
    token = case.token()
    assert case.access.known(bearer(token)) is None

    assert await case.asked(token) == case.alice

    assert case.access.known(bearer(token)).name == f"{server.url}#alice"
    assert case.access.known(bearer(token)).tier is PLAIN
    assert case.access.known(bearer(token + "x")) is None
    assert server.asked["/jwks"] == 1


async def test_a_token_is_known_for_a_minute_and_not_longer_than_it_lasts(case):
    now = case.clock.now
    long, short = case.token(exp=now + 300), case.token(exp=now + 20)
    for token in (long, short):
        await case.asked(token)

    case.clock.now = now + 19
    assert case.access.known(bearer(short)) is not None
    case.clock.now = now + 20
    assert case.access.known(bearer(short)) is None
    assert case.access.known(bearer(long)) is not None
    case.clock.now = now + REMEMBERED_S
    assert case.access.known(bearer(long)) is None
    assert await case.asked(short) == NOBODY
    assert await case.asked(long) == case.alice


async def test_what_is_remembered_is_forgotten_with_the_keys(server, case):
    """A key that leaked is taken back by the issuer: its tokens end with the next look at the key set."""
    token = case.token()
    await case.asked(token)
    server.keys = public(P256)
    case.clock.now += FRESH_S / 10
    assert case.access.known(bearer(token)) is not None

    await case.asked(signed({"alg": "RS256", "kid": "new"}, claims_of(server.url), OTHER_RSA))

    assert case.access.known(bearer(token)) is None
    assert await case.reason(token) == "it is not signed by a key of its issuer"


async def test_keys_are_replaced_without_a_refusal(server, case):
    """Rotation: the new key's first token makes for a look, the old key's tokens are none from then on."""
    assert await case.asked(case.token()) == case.alice
    case.clock.now += BETWEEN_S
    server.keys = public(OTHER_RSA)
    new = signed({"alg": "RS256", "kid": "rsa-2"}, claims_of(server.url), OTHER_RSA)
    server.keys["keys"][0]["kid"] = "rsa-2"

    assert await case.asked(new) == case.alice
    assert await case.asked(case.token(sub="bob")) == NOBODY
    assert server.asked["/jwks"] == 2


async def test_a_key_that_is_replaced_under_its_own_name_counts_from_the_next_look(server, case):
    await case.asked(case.token())
    server.keys = public(OTHER_RSA)
    assert await case.asked(case.token(OTHER_RSA)) == NOBODY

    case.clock.now += FRESH_S + 1
    await case.asked(case.token(sub="bob"))  # makes for the look, and does not wait for it
    await until(lambda: [event for event, _ in case.notes] == ["issuer_keys", "issuer_keys"])
    assert await case.asked(case.token(OTHER_RSA)) == case.alice


async def test_a_flood_of_unknown_keys_is_not_one_of_requests(server, case):
    await case.asked(case.token())
    case.clock.now += BETWEEN_S
    claims = claims_of(server.url)
    tokens = [signed({"alg": "RS256", "kid": f"k{n}"}, claims, OTHER_RSA) for n in range(200)]

    assert set(await asyncio.gather(*map(case.asked, tokens))) == {NOBODY}
    assert server.asked["/jwks"] == 2
    for token in tokens:
        assert await case.asked(token) == NOBODY
    assert server.asked["/jwks"] == 2


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1}, "it has expired"),
        ({"exp": None}, "it does not say when it expires"),
        ({"nbf": 2_000_000_000}, "it is not valid yet"),
        ({"iat": 2_000_000_000}, "it is not valid yet"),
        ({"aud": "other"}, "it is for another audience"),
        ({"aud": None}, "it is for another audience"),
        ({"aud": ["other", AUDIENCE]}, None),
        ({"iss": "https://id.example"}, "its issuer is not one that is accepted here"),
        ({"iss": None}, "it does not name its issuer"),
        ({"sub": None}, "it does not say who it is for"),
    ],
)
async def test_a_good_signature_is_not_enough(claims, reason, case):
    token = case.token(**claims)

    if reason is None:
        assert await case.asked(token) == case.alice
    else:
        assert await case.reason(token) == reason
        assert case.access.known(bearer(token)) is None


async def test_without_a_good_signature_nothing_is_said_of_the_claims(case):
    """Who cannot sign learns nothing: neither whose audience it would be nor what scope it would need."""
    assert await case.reason(case.token(OTHER_RSA, exp=1, aud="x")) == "it is not signed by a key of its issuer"


async def test_an_algorithm_must_be_allowed_as_well_as_fit(server):
    case = Case(server, algorithms=("ES256",))

    assert await case.asked(case.token(P256, "ES256")) == case.alice
    assert await case.reason(case.token()) == "its algorithm is not one that is accepted here"
    assert await case.reason(case.token(RSA, "PS256")) == "its algorithm is not one that is accepted here"


async def test_scopes_and_claims_give_the_tier(server):
    grants = (Grant(claims={"groups": "ops"}, tier="gold"), Grant(scopes=("chat",), tier="default"))
    case = Case(server, scopes=("openid",), claims={"org": "acme"}, grants=grants)
    good = {"scope": "openid", "org": "acme"}

    principal = await case.access.principal(bearer(case.token(**good, groups=["dev", "ops"])), None)
    assert (principal.tier_name, principal.tier) == ("gold", GOLD)
    assert await case.asked(case.token(scope="chat openid", org="acme")) == case.alice
    assert await case.asked(case.token(**good)) == (403, "no_tier")
    assert await case.asked(case.token(scope="chat", org="acme")) == (403, "insufficient_scope")
    assert await case.asked(case.token(scope="openid chat", org="other")) == (403, "missing_claim")


async def test_two_issuers_are_told_apart(server):
    async with IssuerServer(OTHER_RSA) as second:
        issuers = tuple(Issuer(url=one.url, audience=(AUDIENCE,)) for one in (server, second))
        access = Access(Config(issuers=issuers))

        assert await asked(access, bearer(token_of(server.url))) == (f"{server.url}#alice", "default")
        assert await asked(access, bearer(token_of(second.url, OTHER_RSA))) == (f"{second.url}#alice", "default")
        assert await asked(access, bearer(token_of(second.url, RSA))) == NOBODY
        assert await asked(access, bearer(token_of(server.url, OTHER_RSA))) == NOBODY


async def test_keys_and_tokens_go_side_by_side(server):
    made, text = keys("alice")
    access = Access(Config(keys=text, api_keys="k1", issuers=(Issuer(url=server.url, audience=(AUDIENCE,)),)))

    assert await asked(access, bearer(made["alice"])) == ("alice", "default")
    assert await asked(access, bearer("k1")) == ("api_keys[0]", "default")
    assert await asked(access, bearer(token_of(server.url))) == (f"{server.url}#alice", "default")
    assert await asked(access, bearer("other")) == NOBODY


async def test_an_issuer_that_is_down_is_the_proxys_trouble_and_not_the_clients(server, case):
    await server.stop()
    with pytest.raises(NotDecided) as caught:
        await case.access.principal(bearer(case.token()), None)
    assert caught.value.status == 503
    assert int(caught.value.headers["Retry-After"]) >= 1
    assert [event for event, _ in case.notes] == ["issuer_failed"]

    await server.start()
    case.clock.now += BETWEEN_S
    assert await case.asked(case.token()) == case.alice


async def test_cached_keys_outlive_their_issuer(server, case):
    await case.asked(case.token())
    await server.stop()
    case.clock.now += 12 * 3600

    token = case.token(exp=int(case.clock.now) + 60, sub="bob")
    assert await case.asked(token) == (f"{server.url}#bob", "default")


async def test_other_settings_keep_the_keys_of_an_issuer_that_stays(server, case):
    await case.asked(case.token())
    case.access.apply(Config(issuers=(case.issuer,), tiers={"default": GOLD}))

    assert case.access.known(bearer(case.token())) is None  # what it may do has changed
    assert (await case.access.principal(bearer(case.token()), None)).tier is GOLD
    assert server.asked["/jwks"] == 1

    stricter = Issuer(url=server.url, audience=(AUDIENCE,), scopes=("chat",))
    case.access.apply(Config(issuers=(stricter,)))
    assert await case.asked(case.token()) == (403, "insufficient_scope")
    case.access.apply(Config(api_keys="k1"))
    assert await case.asked(case.token()) == NOBODY


async def test_an_issuers_authority_is_read_again_with_the_settings(tmp_path, server):
    """The path stays the same when certificates are renewed."""
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    case = Case(server, ca_file=str(ca_file))
    await case.asked(case.token())
    [source] = case.access._verifier.sources.values()
    before = source.fetcher

    trustme.CA().cert_pem.write_to_path(str(ca_file))
    case.access.apply(case.config)
    assert case.access._verifier.sources[server.url] is source
    assert source.fetcher is not before

    ca_file.write_text("no certificate")
    with pytest.raises(ConfigError, match="ca_file"):
        case.access.apply(case.config)


async def test_an_issuer_that_was_replaced_finishes_what_is_under_way_or_is_closed_with_the_rest(server, case):
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        return web.json_response(server.keys)

    server.answers["/jwks"] = slow
    waiting = [asyncio.ensure_future(case.asked(case.token(sub=name))) for name in ("alice", "bob")]
    await until(lambda: server.asked["/jwks"] == 1)
    case.access.apply(Config(api_keys="k1"))
    assert not any(request.done() for request in waiting)
    release.set()
    assert await waiting[0] == case.alice

    release.clear()
    case.access.apply(case.config)
    late = asyncio.ensure_future(case.asked(case.token()))
    await until(lambda: server.asked["/jwks"] == 2)
    case.access.apply(Config())
    await case.access.close()
    assert await late == (503, "undecided")
    assert "issuer_failed" not in [event for event, _ in case.notes]  # it was ended, and did not wait for its deadline


async def test_the_memory_of_tokens_is_bounded(case):
    await case.asked(case.token())
    verifier = case.access._verifier
    [remembered] = verifier._memory.values()
    for n in range(2 * MOST_REMEMBERED):
        verifier._remember(f"token {n}", remembered)

    assert len(verifier._memory) == MOST_REMEMBERED


# --- settings that cannot be used


ISSUER = {"url": "https://id.example", "audience": ("a",)}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"auth": "open", "api_keys": "SECRET"}, "auth: open"),
        ({"auth": "open", "tls_client_ca_file": "SECRET"}, "auth: open"),
        ({"auth": "required"}, "auth: required"),
        ({"keys": "SECRET"}, "keys_file: not a file that `devstral-proxy keys` has written"),
        ({"issuers": (Issuer(**ISSUER), Issuer(**ISSUER))}, "issuers: two have the same url"),
        ({"issuers": (Issuer(**(ISSUER | {"url": "http://SECRET.example"})),)}, "issuers[0]: expected https://"),
        ({"issuers": (Issuer(**(ISSUER | {"url": "https://id.example?SECRET"})),)}, "issuers[0]: url"),
        ({"issuers": (Issuer(**ISSUER, jwks_url="ftp://SECRET"),)}, "issuers[0]: expected https://"),
        ({"issuers": (Issuer(**(ISSUER | {"audience": ()})),)}, "issuers[0]: audience"),
        ({"issuers": (Issuer(**(ISSUER | {"audience": ("",)})),)}, "issuers[0]: audience"),
        ({"issuers": (Issuer(**ISSUER, algorithms=()),)}, "issuers[0]: algorithms"),
        ({"issuers": (Issuer(**ISSUER, tier="gold"),)}, "issuers[0]: tier"),
        ({"issuers": (Issuer(**ISSUER, grants=(Grant(tier="gold"),)),)}, "issuers[0]: tier"),
        ({"issuers": (Issuer(**ISSUER, ca_file="/nowhere/ca.pem"),)}, "issuers: ca_file: cannot use /nowhere/ca.pem"),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(settings, says):
    with pytest.raises(ConfigError) as caught:
        check_access(Config(**settings))

    assert says in str(caught.value)
    assert "SECRET" not in str(caught.value)


WITHOUT_LIBRARY = """
import sys
for name in {missing}:
    sys.modules[name] = None
from proxy.access.access import check_access
from proxy.config import Config, Issuer
check_access(Config(api_keys="k1"))
print(*sorted(name for name in ("joserfc", "cryptography") if sys.modules.get(name)))
try:
    check_access(Config(issuers=(Issuer(url="https://id.example", audience=("a",)),)))
except ValueError as exc:
    print(exc)
"""


@pytest.mark.parametrize("missing", [("joserfc",), ("cryptography",), ()])
def test_the_library_is_needed_and_loaded_only_for_issuers(missing):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARY.format(missing=missing)], capture_output=True, text=True, timeout=60
    )
    says = "issuers: JSON Web Tokens need a library: pip install 'devstral-proxy[jwt]'"

    assert done.stderr == ""
    assert done.stdout.splitlines() == ["", says] if missing else [""]
