"""An issuer of the tests' own: real keys, real signatures, and a server on 127.0.0.1 that can be made to misbehave."""

import base64
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web
from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

MODELS = {model.name: model for model in JWS_ALGORITHMS}

#: One of each kind, made once: RSA keys take a second.
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
OTHER_RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
P256 = ECKey.generate_key("P-256", {"kid": "p256"})
P384 = ECKey.generate_key("P-384", {"kid": "p384"})
P521 = ECKey.generate_key("P-521", {"kid": "p521"})
ED25519 = OKPKey.generate_key("Ed25519", {"kid": "ed25519"})

AUDIENCE = "devstral"


def b64(data: bytes | dict[str, Any]) -> str:
    """Return base64url without padding, of an object's JSON."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def public(*keys: Key) -> dict[str, Any]:
    """Return the key set that publishes these keys."""
    return {"keys": [key.as_dict(private=False) for key in keys]}


def signed(header: Any, claims: Any, key: Key, algorithm: str = "RS256") -> str:
    """Return a token with any header and claims, signed as `algorithm` wants it, whatever the header says."""
    content = f"{b64(header)}.{b64(claims)}"
    return f"{content}.{b64(MODELS[algorithm].sign(content.encode(), key))}"


def claims_of(issuer: str, **claims: Any) -> dict[str, Any]:
    """Return claims that are good for five minutes; those that are None are left out."""
    now = int(time.time())
    plain = {"iss": issuer, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300} | claims
    return {name: value for name, value in plain.items() if value is not None}


def token_of(issuer: str, key: Key = RSA, algorithm: str = "RS256", **claims: Any) -> str:
    """Return a good token."""
    return signed({"alg": algorithm, "kid": key.kid, "typ": "at+jwt"}, claims_of(issuer, **claims), key, algorithm)


def oct_key(secret: bytes) -> OctKey:
    """Return a shared secret of any bytes, also of those that joserfc would not take for one."""
    return OctKey(secret, secret)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class IssuerServer:
    """
    A server of keys: `keys` is what it publishes, `asked` counts requests by path.

    `answers[path]` replaces what it says there.
    """

    def __init__(self, *keys: Key, port: int = 0) -> None:
        self.keys: Any = public(*keys)
        self.port = port
        self.asked: Counter[str] = Counter()
        self.answers: dict[str, Handler] = {}
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def metadata(self) -> dict[str, Any]:
        return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after `stop()` again on the same port."""
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked[request.path] += 1
        if request.path in self.answers:
            return await self.answers[request.path](request)  # type: ignore[arg-type]
        if request.path == "/.well-known/openid-configuration":
            return web.json_response(self.metadata)
        if request.path == "/jwks":
            return web.json_response(self.keys)
        return web.Response(status=404)
