"""
Against a provider that others wrote: `oidc-provider-mock`, in a process of its own, with its real token endpoint.

Its access tokens are opaque; what it signs is the ID token of the code flow, for the client that asked for it.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.access.access import Access
from proxy.access.issuer import BETWEEN_S
from proxy.config import Config, Grant, Issuer, Tier
from proxy.errors import ProxyError
from tests.fakes import ScriptedUpstream, completion, whole

CLIENT = "devstral"
TIERS = {"ops": Tier(operator=True)}
GRANTS = (Grant(claims={"groups": "ops"}, tier="ops"),)
USERS = ({"sub": "alice", "groups": ["dev", "ops"]}, {"sub": "bob", "groups": ["dev"]})


class Provider:
    """A running provider. Its keys are new with each start."""

    def __init__(self):
        self.port = 0
        self._process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    async def start(self):
        users = (flag for user in USERS for flag in ("--user-claims", json.dumps(user)))
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(self.port), *users),
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "NO_COLOR": "1"},
        )
        async with asyncio.timeout(60):
            while not (
                found := re.search(rb"running on http://127\.0\.0\.1:(\d+)", await self._process.stderr.readline())
            ):
                assert self._process.returncode is None
        self.port = int(found[1])

    async def stop(self):
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.communicate()
            self._process = None

    async def token(self, user, client=CLIENT):
        """Go through the code flow as `client`; return the ID token of `user`."""
        redirect = "http://127.0.0.1/callback"
        asks = {"client_id": client, "redirect_uri": redirect, "response_type": "code", "scope": "openid"}
        async with aiohttp.ClientSession() as session:
            authorize = session.post(
                f"{self.url}/oauth2/authorize", params=asks, data={"sub": user}, allow_redirects=False
            )
            async with authorize as response:
                [code] = parse_qs(urlsplit(response.headers["Location"]).query)["code"]
            form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect}
            basic = {"Authorization": aiohttp.encode_basic_auth(client, "any secret")}
            exchange = session.post(f"{self.url}/oauth2/token", data=form, headers=basic)
            async with exchange as response:
                return (await response.json())["id_token"]

    def issuer(self, **settings):
        return Issuer(url=self.url, audience=(CLIENT,), **settings)


@pytest.fixture
async def provider():
    provider = Provider()
    await provider.start()
    yield provider
    await provider.stop()


class Clock:
    def __init__(self):
        self.ahead_s = 0.0

    def __call__(self):
        return time.time() + self.ahead_s


async def asked(access, token):
    """Return who asks as (name, tier), or the status and the reason."""
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {token}"}))
    try:
        principal = await access.principal(headers, None)
    except ProxyError as exc:
        return exc.status, exc.message
    return principal.name, principal.tier_name


async def test_a_token_of_the_provider_is_good_for_its_client_until_it_expires(provider):
    clock = Clock()
    access = Access(Config(issuers=(provider.issuer(),)), clock=clock)
    token = await provider.token("alice")

    assert await asked(access, token) == (f"{provider.url}#alice", "default")
    other = await provider.token("alice", client="another-application")
    assert await asked(access, other) == (401, "The token is not accepted: it is for another audience.")
    clock.ahead_s = 3700
    assert await asked(access, token) == (401, "The token is not accepted: it has expired.")


async def test_a_token_of_the_provider_is_none_by_a_clock_that_is_behind(provider):
    clock = Clock()
    clock.ahead_s = -120
    access = Access(Config(issuers=(provider.issuer(),)), clock=clock)

    reason = (401, "The token is not accepted: it is not valid yet.")
    assert await asked(access, await provider.token("alice")) == reason


async def test_its_claims_give_the_tier(provider):
    access = Access(Config(issuers=(provider.issuer(grants=GRANTS, tier="default"),), tiers=TIERS))

    assert await asked(access, await provider.token("alice")) == (f"{provider.url}#alice", "ops")
    assert await asked(access, await provider.token("bob")) == (f"{provider.url}#bob", "default")
    strict = Access(Config(issuers=(provider.issuer(grants=GRANTS),), tiers=TIERS))
    assert (await asked(strict, await provider.token("bob")))[0] == 403


async def test_a_provider_that_comes_back_with_other_keys_is_followed(provider):
    """The old keys are gone with the old process: tokens of the new one are good at once, of the old one no more."""
    clock = Clock()
    access = Access(Config(issuers=(provider.issuer(),)), clock=clock)
    old = await provider.token("alice")
    assert await asked(access, old) == (f"{provider.url}#alice", "default")
    await provider.stop()
    assert await asked(access, old) == (f"{provider.url}#alice", "default")  # its keys are known

    await provider.start()
    clock.ahead_s = BETWEEN_S
    assert await asked(access, await provider.token("bob")) == (f"{provider.url}#bob", "default")
    assert await asked(access, old) == (401, "The token is not accepted: it is not signed by a key of its issuer.")


async def test_a_provider_that_is_down_at_the_start_is_found_later(provider):
    clock = Clock()
    token = await provider.token("alice")
    await provider.stop()
    access = Access(Config(issuers=(provider.issuer(),)), clock=clock)
    status, message = await asked(access, token)
    assert (status, message) == (503, "The issuer of the token does not answer, so the token cannot be checked.")

    await provider.start()
    clock.ahead_s = BETWEEN_S
    assert await asked(access, await provider.token("alice")) == (f"{provider.url}#alice", "default")


async def test_a_token_of_the_provider_gets_through_the_proxy_and_stays_there(provider, start_proxy):
    token = await provider.token("alice")
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, issuers=(provider.issuer(grants=GRANTS, tier="default"),), tiers=TIERS)
        other = await provider.token("alice", client="another-application")
        for bearer, status in ((token, 200), (token, 200), (token[:-8], 401), (other, 401)):
            proxy.session.headers["Authorization"] = f"Bearer {bearer}"
            async with proxy.chat() as response:
                assert response.status == status
        [sent, _] = upstream.requests
        assert token not in sent.raw.decode()

    await proxy.log.line()
    assert proxy.log.lines("request")[0]["principal"] == f"{provider.url}#alice"
    for part in token.split("."):
        assert part not in proxy.log.text
