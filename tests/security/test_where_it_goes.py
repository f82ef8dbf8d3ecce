"""
F32: where a request goes is the configuration's business alone (CWE-918, OWASP API7:2023).

tests/faults/test_f32_where_it_goes.py has the headers and fields that gateways were caught with. Here is everything
else that names an address: headers of more gateways, fields of every shape, models, targets, things to fetch, redirects
of each kind, and tokens that say where their keys are. Two witnesses tell where the process went: a trap, which is a
real server that must not see a connection, and the interpreter's own record of whatever it connects to.
BerriAI/litellm#24952, #37053; Portkey-AI/gateway#1718 (CVE-2025-66405); mlflow/mlflow#25761.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import pytest
from aiohttp import web

from proxy.config import Issuer
from tests.access.signing import AUDIENCE, OTHER_RSA, RSA, IssuerServer, claims_of, public, signed, token_of
from tests.fakes import ScriptedUpstream, completion, text_stream, whole

# --- the witnesses


class Trap:
    """A server on 127.0.0.1 that counts the connections it gets and says nothing."""

    def __init__(self) -> None:
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._count, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _count(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def spellings(self) -> list[str]:
        """The trap's address as filters have been passed with it, and addresses that must not be asked for at all."""
        port = self.port
        return [
            *(self.url, f"{self.url}/v1", f"{self.url}/v1/chat/completions", f"//{self.address}", self.address),
            *(f"http://localhost:{port}", f"http://[::ffff:127.0.0.1]:{port}", f"http://2130706433:{port}"),
            *(f"http://0x7f.1:{port}", f"http://127.1:{port}", f"http://0:{port}", f"http://①②⑦.⓪.⓪.①:{port}"),
            *(f"http://vllm@{self.address}", f"http://{self.address}#@vllm", f"http:\\\\{self.address}"),
            *("http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/meta-data/"),
            *("http://metadata.google.internal/computeMetadata/v1/", "http://100.100.100.200/", "http://trap.invalid/"),
            *("file:///etc/passwd", "unix:///var/run/docker.sock", "gopher://127.0.0.1:1/_", "ftp://127.0.0.1/"),
        ]


class Journal:
    """What the interpreter says of this process's connections, and the names that its loops look up."""

    def __init__(self) -> None:
        self.is_open = False
        self.ports: set[int] = set()
        self.others: set[Any] = set()

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_open or event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
            return
        address = arguments[1] if event == "socket.connect" else arguments[:2]
        if isinstance(address, tuple) and address[0] == "127.0.0.1" and event == "socket.connect":
            self.ports.add(address[1])
        else:
            self.others.add((event, address))


_JOURNAL = Journal()
_HOOKS: list[Journal] = []


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    """The journal of one test. An audit hook cannot be taken off again, so there is one for all of them."""
    if not _HOOKS:
        sys.addaudithook(_JOURNAL.note)
        _HOOKS.append(_JOURNAL)
    _JOURNAL.ports, _JOURNAL.others = set(), set()

    # uvloop looks names up in C, without a word to the audit hook: whoever asks comes by here.
    async def looked_up(_loop: object, host: Any, *_: object, **__: object) -> Any:
        _JOURNAL.others.add(("lookup", host))
        raise OSError("no name is looked up in this test")

    monkeypatch.setattr("aiohttp.resolver.ThreadedResolver.resolve", looked_up)
    _JOURNAL.is_open = True
    yield _JOURNAL
    _JOURNAL.is_open = False


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    async with Trap() as server:
        yield server


def require_nowhere_else(journal: Journal, trap: Trap, *ports: int) -> None:
    """Assert that every connection was one to these ports; those of a test's client, to the first, may be unseen."""
    assert trap.connections == 0
    assert journal.others == set()
    assert journal.ports - {ports[0]} == set(ports[1:])


def port_of(upstream: ScriptedUpstream) -> int:
    return int(upstream.url.rpartition(":")[2])


BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


async def exchange(proxy: Any, lines: list[str], body: bytes | None) -> bytes:
    """Send a request made of these lines; return the answer up to the end of the connection."""
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    text = "\r\n".join([*lines, *length, "Connection: close", "", ""])
    reader, writer = await proxy.raw(text.encode() + (body or b""))
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return bytes(answer)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# --- headers, fields, models, targets

#: One name after the other.
HEADERS = """
x-forwarded-host x-forwarded-server x-forwarded-port x-forwarded-proto x-forwarded-prefix x-forwarded-for
x-original-host x-original-uri x-rewrite-uri x-http-host-override x-http-destinationurl x-proxy-url x-proxy-host
x-real-host destination proxy-host request-uri x-host-override x-backend x-backend-host x-upstream x-upstream-url
x-target x-target-host x-target-uri x-api-base x-base-url x-endpoint x-url api-base base-url openai-base-url
x-litellm-api-base x-litellm-base-url x-litellm-model-group x-litellm-proxy-base-url litellm-api-base
x-portkey-config x-portkey-provider x-portkey-virtual-key x-portkey-forward-headers x-portkey-base-url
x-helicone-target-url x-helicone-openai-api-base helicone-openai-api-base x-helicone-fallbacks
cf-aig-metadata cf-worker x-vercel-forwarded-for x-openrouter-provider x-model-provider x-kong-upstream
x-envoy-original-dst-host x-envoy-original-path x-gateway-model-name x-gateway-destination-endpoint x-prefill-host-port
x-prefiller-host-port
x-data-parallel-host-port x-session-endpoint x-callback-url x-webhook-url webhook-url referer origin via from
"""

FIELDS = """
api_base base_url api_url url uri endpoint host hostname target target_url upstream upstream_url backend backend_url
openai_api_base azure_endpoint aws_bedrock_runtime_endpoint vertex_api_base custom_llm_provider custom_host provider
providers router fallbacks models routes proxy proxies http_proxy https_proxy litellm_params litellm_metadata metadata
extra_body extra_headers extra_query headers default_headers callback callback_url webhook webhook_url success_callback
logger_fn client model_info model_list deployment deployment_id mock_url image_url file_url document_url server_url
chat_template_url adapter_path lora_request lora_path lora_name kv_transfer_params remote_host remote_port remote_url
bootstrap_host bootstrap_port guided_json_url
"""


async def test_no_header_chooses_where_a_request_goes(start_proxy, journal, trap):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        body = json.dumps(BODY).encode()
        for name in HEADERS.split():
            for value in (trap.url, trap.address, "http://169.254.169.254/", json.dumps({"url": trap.url})):
                lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"{name}: {value}"]
                assert status_of(await exchange(proxy, lines, body)) == 200, name

        assert len(upstream.requests) == 4 * len(HEADERS.split())
        assert {request.target for request in upstream.requests} == {"/v1/chat/completions"}
        sent = b"".join(request.raw for request in upstream.requests)
        assert trap.address.encode() not in sent
        assert b"169.254" not in sent
        require_nowhere_else(journal, trap, proxy.port, port_of(upstream))


async def test_no_field_chooses_where_a_request_goes(start_proxy, journal, trap):
    """Whatever its shape: it goes on to the model server, or is left out; it is none of the proxy's business."""
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        for name in FIELDS.split():
            for value in (trap.url, {"api_base": trap.url, "url": trap.url, "host": trap.address}, [trap.url]):
                async with proxy.chat(**{name: value}) as response:
                    assert response.status == 200, name

        assert {request.target for request in upstream.requests} == {"/v1/chat/completions"}
        require_nowhere_else(journal, trap, proxy.port, port_of(upstream))


@pytest.mark.parametrize("backends", [1, 2])
async def test_a_model_that_looks_like_an_address_is_a_name(start_proxy, journal, trap, backends):
    async with ScriptedUpstream([whole(completion())]) as upstream, ScriptedUpstream([whole(completion())]) as other:
        urls = [upstream.url, other.url][:backends]
        proxy = await start_proxy(",".join(urls))
        names = [*trap.spellings, *(f"{kind}/{trap.url}" for kind in ("openai", "vllm", "hosted_vllm", "azure"))]
        names += ["../../admin", "m?api_base=" + trap.url, "m#" + trap.url, "m@" + trap.address, "%00" + trap.url]
        for name in names:
            async with proxy.chat(model=name) as response:
                assert response.status == 200, name

        asked = [*upstream.requests, *other.requests]
        assert sorted(request.json["model"] for request in asked) == sorted(names)
        assert {request.target for request in asked} == {"/v1/chat/completions"}
        require_nowhere_else(journal, trap, proxy.port, *(int(url.rpartition(":")[2]) for url in urls))


async def test_no_target_and_no_host_leads_elsewhere(start_proxy, journal, trap):
    """What is not on the list of routes is refused; what is goes to the model server that is configured."""
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        here = "/v1/chat/completions"
        targets = [
            *(f"{spelling}{here}" for spelling in trap.spellings if spelling.isascii() and "\\" not in spelling),
            *(f"{here}?api_base={trap.url}", f"{here};host={trap.address}", f"{here}@{trap.address}", f"/{trap.url}"),
            *(
                f"//{trap.address}{here}",
                f"/proxy/{trap.url}",
                f"/v1/proxy?url={trap.url}",
                f"/openai/{trap.url}{here}",
            ),
            *("/v1/../admin", "/v1/%2e%2e/admin", "/v1/chat/completions/../../sleep", f"{here}/..", "*", trap.address),
        ]
        statuses = set()
        for target in targets:
            for method, host in (("POST", "x"), ("POST", trap.address), ("GET", "x"), ("CONNECT", trap.address)):
                body = json.dumps(BODY).encode() if method == "POST" else None
                answer = await exchange(proxy, [f"{method} {target} HTTP/1.1", f"Host: {host}"], body)
                statuses.add(status_of(answer))

        assert statuses <= {200, 400, 404, 405}
        assert {request.target for request in upstream.requests} == {here}
        assert {request.header("host") for request in upstream.requests} == {upstream.url.removeprefix("http://")}
        require_nowhere_else(journal, trap, proxy.port, port_of(upstream))


# --- things that somebody could fetch


def _parts(url: str) -> list[dict[str, Any]]:
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "input_image", "image_url": url},
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "file", "file": {"file_id": url, "file_url": url, "file_data": url}},
        {"type": "input_file", "file_url": url},
        {"type": "document", "source": {"type": "url", "url": url}},
        {"type": "document_url", "document_url": url},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
        {"type": "text", "text": url},
    ]


def _tools(url: str) -> list[dict[str, Any]]:
    schema = {"$schema": url, "$id": url, "type": "object", "properties": {"a": {"$ref": f"{url}/schema.json#/a"}}}
    return [
        {"type": "function", "function": {"name": "look", "description": url, "parameters": schema}},
        {"type": "mcp", "server_label": "x", "server_url": url},
        {"type": "web_search", "search_context": url},
        {"type": "custom", "custom": {"name": "free", "format": {"type": "grammar", "definition": url}}},
    ]


@pytest.mark.parametrize("profile", ["vllm-mistral-tokenizer", "vllm-hf-template", "mistral-api", "passthrough"])
async def test_nothing_that_a_request_points_at_is_fetched(start_proxy, journal, trap, profile):
    """Pictures, files, schemas and servers of tools stay links: what is to be fetched, the model server fetches."""
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, profile=profile)
        for url in trap.spellings:
            for part in _parts(url):
                async with proxy.chat(messages=[{"role": "user", "content": [part]}]) as response:
                    assert response.status == 200, part
            format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": url}}}
            async with proxy.chat(tools=_tools(url), response_format=format_) as response:
                assert response.status == 200, url

        require_nowhere_else(journal, trap, proxy.port, port_of(upstream))


# --- where an answer leads

REDIRECTS = [300, 301, 302, 303, 304, 305, 306, 307, 308]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("shortcuts", ["push", "none"])
async def test_no_redirect_of_any_kind_is_followed(start_proxy, journal, trap, shortcuts, is_streamed):
    """A model server that has been taken over must not be able to send the proxy, and the keys it holds, elsewhere."""
    async with ScriptedUpstream() as upstream:
        proxy = await start_proxy(upstream.url, shortcuts=shortcuts, vllm_api_key="a-key-of-the-model-server")
        for status in REDIRECTS:
            for place in (f"{trap.url}/v1/chat/completions", f"//{trap.address}/", "/elsewhere", f"{trap.url}\\@vllm"):
                upstream._scripts = ([whole(b"{}", status, location=place, refresh=f"0; url={place}")],)
                async with proxy.chat(stream=is_streamed) as response:
                    assert response.status == 502, status
                    assert "Location" not in response.headers
                    assert trap.address not in await response.text()

        assert {request.target for request in upstream.requests} == {"/v1/chat/completions"}
        require_nowhere_else(journal, trap, proxy.port, port_of(upstream))


async def test_no_header_of_an_answer_leads_anywhere(start_proxy, journal, trap):
    names = ("alt_svc", "link", "refresh", "content_location", "location", "proxy_authenticate", "set_cookie")
    headers = dict.fromkeys(names, f'{trap.url}/; rel="preconnect", h2="{trap.address}"; ma=3600')
    async with ScriptedUpstream([whole(completion(), **headers)]) as upstream:
        proxy = await start_proxy(upstream.url)
        for _ in range(3):
            async with proxy.chat() as response:
                assert response.status == 200
                assert trap.address not in str(response.headers)
                await response.read()

        assert all(request.header("cookie") is None for request in upstream.requests)
        require_nowhere_else(journal, trap, proxy.port, port_of(upstream))


@pytest.mark.parametrize("status", [301, 307])
async def test_no_redirect_of_a_probe_is_followed(start_proxy, journal, trap, status):
    """`auto` asks for /version and tries requests; none of these questions goes where an answer says."""
    moved = whole(b"", status, location=f"{trap.url}/")
    async with ScriptedUpstream([moved]) as upstream:
        proxy = await start_proxy(upstream.url, profile="auto")
        async with proxy.chat() as response:
            assert response.status == 502
        async with proxy.session.get(f"{proxy.url}/v1/models") as response:
            assert response.status == 502

        require_nowhere_else(journal, trap, proxy.port, port_of(upstream))


async def test_no_proxy_of_the_environment_is_asked(start_proxy, journal, trap, monkeypatch):
    """A variable that some shell exports must not send prompts and keys through a third party."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, trap.url)
    async with ScriptedUpstream([whole(completion())], [text_stream("Hi")]) as upstream:
        proxy = await start_proxy(upstream.url, shortcuts="none")
        async with proxy.chat() as response:
            assert response.status == 200
        async with proxy.chat(stream=True) as response:
            assert b"[DONE]" in await response.read()

        require_nowhere_else(journal, trap, proxy.port, port_of(upstream))


# --- where the keys of a token are


def _pointing_at(url: str, issuer: str) -> dict[str, str]:
    """Tokens that say where their keys are, or are of an issuer that nobody has configured."""
    claims = claims_of(issuer, scope="chat")
    plain = {"alg": "RS256", "kid": OTHER_RSA.kid}
    own_key = public(OTHER_RSA)["keys"][0]
    return {
        "jku": signed({**plain, "jku": f"{url}/jwks"}, claims, OTHER_RSA),
        "x5u": signed({**plain, "x5u": f"{url}/cert.pem"}, claims, OTHER_RSA),
        "jwk": signed({**plain, "jwk": own_key}, claims, OTHER_RSA),
        "kid": signed({"alg": "RS256", "kid": f"{url}/jwks"}, claims, OTHER_RSA),
        "iss": signed(plain, claims_of(url, scope="chat"), OTHER_RSA),
        "iss beside a good one": signed(plain, claims_of(f"{issuer}@{url.removeprefix('http://')}"), OTHER_RSA),
        "claims": signed(plain, {**claims, "jwks_uri": f"{url}/jwks", "azp": url}, OTHER_RSA),
    }


async def test_no_token_chooses_where_its_keys_are_fetched(start_proxy, journal, trap):
    """Its issuer is asked, and nobody else: what a token says of itself is not believed."""
    async with ScriptedUpstream([whole(completion())]) as upstream, IssuerServer(RSA) as issuer:
        proxy = await start_proxy(upstream.url, issuers=(Issuer(url=issuer.url, audience=(AUDIENCE,)),))
        for name, token in _pointing_at(trap.url, issuer.url).items():
            proxy.session.headers["Authorization"] = f"Bearer {token}"
            async with proxy.chat() as response:
                assert response.status == 401, name
        proxy.session.headers["Authorization"] = f"Bearer {token_of(issuer.url)}"
        async with proxy.chat() as response:
            assert response.status == 200

        assert len(upstream.requests) == 1
        assert set(issuer.asked) == {"/.well-known/openid-configuration", "/jwks"}
        require_nowhere_else(journal, trap, proxy.port, port_of(upstream), issuer.port)


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/jwks"])
async def test_no_redirect_of_an_issuer_is_followed(start_proxy, journal, trap, path):
    async def moved(_request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{trap.url}{path}"})

    async with ScriptedUpstream([whole(completion())]) as upstream, IssuerServer(RSA) as issuer:
        issuer.answers[path] = moved
        proxy = await start_proxy(upstream.url, issuers=(Issuer(url=issuer.url, audience=(AUDIENCE,)),))
        proxy.session.headers["Authorization"] = f"Bearer {token_of(issuer.url)}"
        async with proxy.chat() as response:
            assert response.status == 503

        assert upstream.requests == []
        assert issuer.asked[path] > 0
        assert trap.connections == 0
        assert journal.others == set()
        assert journal.ports - {proxy.port, port_of(upstream)} == {issuer.port}


async def test_the_witnesses_see_what_they_should(start_proxy, journal, trap):
    """A proxy that is configured to go to the trap goes there, and both tell."""
    proxy = await start_proxy(trap.url)
    async with proxy.chat() as response:
        assert response.status == 502
    proxy = await start_proxy("http://trap.invalid")
    async with proxy.chat() as response:
        assert response.status == 502

    assert trap.connections > 0
    assert trap.port in journal.ports
    assert ("lookup", "trap.invalid") in journal.others
