"""The keys of an issuer: how often they are asked for, how long they are used, and what is not taken."""

import asyncio
import ssl

import msgspec
import pytest
import trustme
from aiohttp import web

from proxy.access import fetch
from proxy.access.fetch import Fetcher, checked_url, metadata_urls
from proxy.access.issuer import BETWEEN_S, FRESH_S, RECENT_S, USABLE_S, KeySource, Need, need_of
from proxy.config import ConfigError, Issuer
from proxy.errors import NotDecided
from tests.access.signing import AUDIENCE, ED25519, OTHER_RSA, P256, RSA, IssuerServer, public
from tests.fakes import until


class Clock:
    """Seconds, as the test sets them."""

    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


class Notes(list):
    def __call__(self, event, **fields):
        self.append((event, fields))

    @property
    def events(self):
        return [event for event, _ in self]


class Case:
    """A source of keys, its server, and the time."""

    def __init__(self, server, **settings):
        self.clock = Clock()
        self.notes = Notes()
        issuer = Issuer(**({"url": server.url, "audience": (AUDIENCE,)} | settings))
        self.source = KeySource(Fetcher(issuer), self.clock, self.notes)

    async def failure(self):
        """Return why there are no keys; a wait without an end is none."""
        async with asyncio.timeout(20):
            with pytest.raises(NotDecided):
                await self.source.current()
        event, fields = self.notes[-1]
        assert event == "issuer_failed"
        return fields["error"]


@pytest.fixture
async def server():
    async with IssuerServer(RSA) as server:
        yield server


@pytest.fixture
async def case(server):
    case = Case(server)
    yield case
    await case.source.close()


# --- when


@pytest.mark.parametrize(
    ("age_s", "has_failed", "need"),
    [
        (0, False, Need.NONE),
        (FRESH_S, True, Need.NONE),
        (FRESH_S + 1, False, Need.SOON),
        (RECENT_S, False, Need.SOON),
        (RECENT_S + 1, False, Need.NOW),
        (RECENT_S + 1, True, Need.SOON),
        (USABLE_S, True, Need.SOON),
        (USABLE_S + 1, True, Need.NOW),
        (float("inf"), False, Need.NOW),
        (-1, False, Need.NOW),
    ],
)
def test_how_much_new_keys_are_needed_depends_on_the_age_of_the_old_ones(age_s, has_failed, need):
    assert need_of(age_s, has_failed=has_failed) is need


async def test_keys_are_found_by_discovery_and_kept(server, case):
    keys = await case.source.current()

    assert len(keys) == 1
    assert await case.source.current() is keys
    assert server.asked == {"/.well-known/openid-configuration": 1, "/jwks": 1}
    assert case.notes == [("issuer_keys", {"issuer": server.url, "keys": 1})]


async def test_who_come_at_once_wait_for_one_attempt(server, case):
    found = await asyncio.gather(*(case.source.current() for _ in range(50)))

    assert len({id(keys) for keys in found}) == 1
    assert server.asked["/jwks"] == 1


async def test_there_is_one_attempt_at_a_time_however_long_it_takes(server, case):
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        return web.json_response(server.keys)

    server.answers["/jwks"] = slow
    first = asyncio.ensure_future(case.source.current())
    await until(lambda: server.asked["/jwks"] == 1)
    case.clock.now += 10 * BETWEEN_S
    others = [asyncio.ensure_future(ask()) for ask in (case.source.current, case.source.newer)]
    await asyncio.sleep(0)
    release.set()

    assert await first is await others[0] is await others[1]
    assert server.asked["/jwks"] == 1


async def test_who_stops_waiting_leaves_the_attempt_to_the_others(server, case):
    release = asyncio.Event()

    async def slow(request):
        await release.wait()
        return web.json_response(server.keys)

    server.answers["/jwks"] = slow
    first, second = (asyncio.ensure_future(case.source.current()) for _ in range(2))
    await until(lambda: server.asked["/jwks"] == 1)
    first.cancel()
    await asyncio.wait({first})
    release.set()

    assert len(await second) == 1
    assert server.asked["/jwks"] == 1


async def test_keys_get_new_by_themselves_while_the_old_ones_are_used(server, case):
    old = await case.source.current()
    server.keys = public(P256)
    case.clock.now += FRESH_S + 1

    assert await case.source.current() is old
    await until(lambda: case.source.keys is not old)
    assert await case.source.current() is not old


async def test_keys_that_stayed_the_same_stay_the_same_object(server, case):
    """What is remembered of tokens goes by it."""
    old = await case.source.current()
    case.clock.now += RECENT_S + 1

    assert await case.source.current() is old
    assert server.asked["/jwks"] == 2
    assert case.notes.events == ["issuer_keys"]


async def test_old_keys_are_not_used_before_the_issuer_was_asked(server, case):
    """A key that was taken back in the night is none in the morning, not even for the first request."""
    old = await case.source.current()
    server.keys = public(P256)
    case.clock.now += RECENT_S + 1

    assert await case.source.current() is not old


async def test_old_keys_go_on_while_the_issuer_is_down_for_a_day(server, case):
    old = await case.source.current()
    await server.stop()

    case.clock.now += RECENT_S + 1
    assert await case.source.current() is old
    assert case.notes.events == ["issuer_keys", "issuer_failed"]
    case.clock.now += USABLE_S - RECENT_S - 1
    assert await case.source.current() is old
    await until(lambda: not case.source.is_busy)
    case.clock.now += 1
    with pytest.raises(NotDecided):
        await case.source.current()


async def test_an_issuer_that_is_down_at_the_start_is_found_when_it_is_back(server, case):
    await server.stop()

    assert await case.failure() == "the discovery document cannot be fetched: ClientConnectorError"
    await server.start()
    case.clock.now += BETWEEN_S - 1
    with pytest.raises(NotDecided) as caught:
        await case.source.current()
    assert caught.value.headers["Retry-After"] == "1"
    assert server.asked == {}

    case.clock.now += 1
    assert len(await case.source.current()) == 1


async def test_a_refusal_says_when_to_come_again(server, case):
    await server.stop()
    await case.failure()
    case.clock.now += 2.5

    with pytest.raises(NotDecided) as caught:
        await case.source.current()

    assert caught.value.headers["Retry-After"] == "8"
    assert caught.value.status == 503


async def test_an_unknown_key_makes_for_an_attempt_but_not_for_one_each_time(server, case):
    old = await case.source.current()
    server.keys = public(P256)

    assert await case.source.newer() is None  # there has just been one
    case.clock.now += BETWEEN_S
    found = await asyncio.gather(*(case.source.newer() for _ in range(20)))
    assert {id(keys) for keys in found} == {id(case.source.keys)} != {id(old)}
    for _ in range(100):
        case.clock.now += 1
        await case.source.newer()

    assert server.asked["/jwks"] == 2 + 100 // BETWEEN_S


async def test_an_unknown_key_is_not_called_wrong_while_the_issuer_is_down(server, case):
    await case.source.current()
    await server.stop()
    case.clock.now += BETWEEN_S

    with pytest.raises(NotDecided):
        await case.source.newer()
    with pytest.raises(NotDecided):
        await case.source.newer()
    assert case.notes.events == ["issuer_keys", "issuer_failed"]


async def test_a_clock_that_is_set_back_stops_nothing(server, case):
    await case.source.current()
    server.keys = public(P256)
    case.clock.now -= 10 * USABLE_S

    await case.source.current()
    assert server.asked["/jwks"] == 2
    assert len(await case.source.current()) == 1


async def test_closing_ends_an_attempt(server, case):
    async def never(request):
        await asyncio.sleep(3600)

    server.answers["/jwks"] = never
    waiting = asyncio.ensure_future(case.source.current())
    await until(lambda: server.asked["/jwks"])

    await case.source.close()

    assert not case.source.is_busy
    with pytest.raises(NotDecided):
        await waiting


# --- what is not taken


def answering(**kwargs):
    async def handler(request):
        return web.Response(**kwargs)

    return handler


DISCOVERY = "/.well-known/openid-configuration"


@pytest.mark.parametrize(
    ("path", "what"), [(DISCOVERY, "the discovery document"), ("/jwks", "the key set")], ids=["discovery", "jwks"]
)
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answering(status=500), ": status 500"),
        (answering(status=204), ": status 204"),
        (answering(body=b"<html>SECRET"), " is malformed"),
        (answering(body=b""), " is malformed"),
        (answering(body=b"[" * 100_000), " is malformed"),
        (answering(body=b"\xff"), " is malformed"),
        (answering(body=b" " * (512 * 1024 + 1)), " is larger than 524288 bytes"),
        (answering(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}), " is compressed, which was not asked for"),
    ],
    ids=["500", "204", "html", "empty", "deep", "binary", "huge", "gzip"],
)
async def test_what_is_not_the_document_is_not_taken_and_not_quoted(path, what, answer, says, server, case):
    server.answers[path] = answer

    assert await case.failure() == what + says


@pytest.mark.parametrize("path", [DISCOVERY, "/jwks"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(path, status, server, case):
    server.answers[path] = answering(status=status, headers={"Location": f"{server.url}/elsewhere"})

    assert (await case.failure()).endswith(f": status {status}")
    assert server.asked["/elsewhere"] == 0


@pytest.mark.parametrize("path", [DISCOVERY, "/jwks"])
async def test_a_document_that_does_not_end_is_given_up(path, server, case, monkeypatch):
    monkeypatch.setattr(fetch, "DEADLINE_S", 0.2)

    async def drips(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    server.answers[path] = drips

    assert await case.failure() == "the key set did not come within 0.2 s"


async def test_a_document_without_a_length_is_bounded_while_it_comes(server, case):
    sent = 0

    async def floods(request):
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while sent < 64 * 1024 * 1024:
            await response.write(b" " * 65_536)
            sent += 65_536

    server.answers["/jwks"] = floods

    assert await case.failure() == "the key set is larger than 524288 bytes"
    assert sent < 64 * 1024 * 1024


async def test_a_discovery_document_of_another_issuer_is_not_taken(server, case):
    for issuer in ("https://id.example", server.url + "/", server.url.upper(), ""):
        server.answers[DISCOVERY] = answering(
            body=msgspec.json.encode({"issuer": issuer, "jwks_uri": f"{server.url}/jwks"})
        )
        assert "is of another issuer" in await case.failure()
        case.clock.now += BETWEEN_S
    assert server.asked["/jwks"] == 0


@pytest.mark.parametrize(
    "jwks_uri",
    [
        "http://id.example/jwks",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "//127.0.0.1/jwks",
        "/jwks",
        "",
        "http://[::1",
    ],
)
async def test_keys_come_from_https_or_from_this_machine_only(jwks_uri, server, case):
    server.answers[DISCOVERY] = answering(body=msgspec.json.encode({"issuer": server.url, "jwks_uri": jwks_uri}))

    assert (await case.failure()).startswith("the discovery document: jwks_uri: expected https://")


async def test_metadata_of_an_oauth_server_without_openid_is_found(server, case):
    """RFC 8414, 3."""
    server.answers[DISCOVERY] = answering(status=404)
    server.answers["/.well-known/oauth-authorization-server"] = answering(body=msgspec.json.encode(server.metadata))

    assert len(await case.source.current()) == 1


async def test_keys_can_be_had_without_discovery(server):
    case = Case(server, url="https://id.example", jwks_url=f"{server.url}/jwks")

    assert len(await case.source.current()) == 1
    assert server.asked == {"/jwks": 1}


async def test_junk_in_a_key_set_does_not_hide_its_keys(server, case):
    server.keys = {"keys": [5, {"kty": "AKP"}, *public(RSA, ED25519)["keys"], {"kty": "RSA", "n": "!"}], "more": 1}

    assert len(await case.source.current()) == 2


async def test_a_key_set_without_a_usable_key_does_not_replace_a_good_one(server, case):
    old = await case.source.current()
    server.keys = {"keys": []}
    case.clock.now += RECENT_S + 1

    assert await case.source.current() is old
    assert case.notes[-1] == (
        "issuer_failed",
        {"issuer": server.url, "error": "the key set has no key that can be used"},
    )


async def test_https_is_checked_against_the_issuers_own_authority(tmp_path):
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    files = {}
    for name, ca in (("own", authority), ("stranger", stranger)):
        files[name] = str(tmp_path / f"{name}.pem")
        ca.cert_pem.write_to_path(files[name])

    async def keys(request):
        return web.json_response(public(OTHER_RSA))

    runner = web.ServerRunner(web.Server(keys))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    url = f"https://localhost:{runner.addresses[0][1]}"
    try:
        for ca_file, expected in ((files["own"], None), (files["stranger"], "Certificate"), ("", "Certificate")):
            clock, notes = Clock(), Notes()
            issuer = Issuer(url=url, audience=(AUDIENCE,), jwks_url=f"{url}/jwks", ca_file=ca_file)
            source = KeySource(Fetcher(issuer), clock, notes)
            if expected is None:
                assert len(await source.current()) == 1
            else:
                with pytest.raises(NotDecided):
                    await source.current()
                assert expected in notes[-1][1]["error"]
    finally:
        await runner.cleanup()


def test_an_authority_that_cannot_be_read_stops_the_start(tmp_path):
    issuer = Issuer(url="https://id.example", audience=(AUDIENCE,), ca_file=str(tmp_path / "missing.pem"))

    with pytest.raises(ConfigError, match=r"ca_file: cannot use .*missing\.pem"):
        Fetcher(issuer)


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        *((url, True) for url in ("https://id.example", "https://id.example:8443/realms/a", "https://id.example/")),
        *(
            (url, True)
            for url in ("http://127.0.0.1:80", "http://localhost:9400", "http://[::1]:1/x", "http://127.9.9.9")
        ),
        *(
            (url, False)
            for url in ("http://id.example", "http://localhost.example", "http://10.0.0.1", "http://0.0.0.0")
        ),
        *((url, False) for url in ("https://", "https:///x", "id.example", "", "file:///x", "https://id.example:0")),
        *((url, False) for url in ("https://a:b@id.example", "https://id.example/#x", "https://id.example/ x")),
        *((url, False) for url in ("https://id.example/\n", "https://id.example:x", "https://[", "https://ä.example")),
        *((url, False) for url in ("http://127.0.0.1@id.example", "http://127.0.0.1.id.example", "HTTP://id.example")),
    ],
)
def test_keys_come_from_checked_urls(url, is_good):
    if is_good:
        assert checked_url(url) == url
        return
    with pytest.raises(ValueError, match=r"URL|https"):
        checked_url(url)


@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        (
            "https://id.example",
            (
                "https://id.example/.well-known/openid-configuration",
                "https://id.example/.well-known/oauth-authorization-server",
            ),
        ),
        (
            "https://id.example:8443/realms/a/",
            (
                "https://id.example:8443/realms/a/.well-known/openid-configuration",
                "https://id.example:8443/.well-known/oauth-authorization-server/realms/a",
            ),
        ),
    ],
)
def test_metadata_stands_where_the_standards_say(issuer, urls):
    assert metadata_urls(issuer) == urls
