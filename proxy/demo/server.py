"""The demo upstream's routes on 127.0.0.1, with vLLM 0.32's answers for what it does not have."""

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.demo import answer
from proxy.demo.model import generate
from proxy.demo.parameters import MODEL, wants_stream, whole_number
from proxy.demo.refusal import Refusal, field_refused
from proxy.demo.validate import check_request, prompt_tokens

#: larger than the proxy's own limit, so that the proxy's is the one that is met
_MAX_BODY = 64 * 1024 * 1024
#: how long `close` waits for answers that are still being given
_CLOSE_S = 1.0
_VERSION = "0.32.0+demo"
_CHAT, _MODELS, _HEALTH, _VERSION_PATH = _PATHS = ("/v1/chat/completions", "/v1/models", "/health", "/version")


class DemoUpstream:
    """
    A chat server without a model, on a free port of 127.0.0.1: `start()`, `url`, `close()`.

    `leak` makes it say every call as text, like a server without a tool parser; `chunk_delay_s` is the pause after each
    streamed chunk; `max_model_len` is the context in tokens, which are words here. Any bearer key is taken.
    """

    def __init__(self, *, leak: bool = False, chunk_delay_s: float = 0.01, max_model_len: int = 131_072) -> None:
        self._leak = leak
        self._chunk_delay_s = chunk_delay_s
        self._max_model_len = max_model_len
        self._created = int(time.time())
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=_CLOSE_S)

    async def start(self) -> None:
        """Listen; after this `url` is known."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()

    @property
    def url(self) -> str:
        """The base address, without a path: `http://127.0.0.1:PORT`. Known between `start` and `close`."""
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def close(self) -> None:
        """Stop listening; answers under way get a second to end."""
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[_answer_failures])
        app.router.add_post(_CHAT, self._chat)
        app.router.add_get(_MODELS, self._models, allow_head=False)
        app.router.add_get(_HEALTH, _health, allow_head=False)
        app.router.add_get(_VERSION_PATH, _version, allow_head=False)
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        """Answer a chat completion, whole or streamed; a refusal leaves before the stream begins."""
        if request.content_type != "application/json":
            message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
            raise Refusal(message, kind="Bad Request")
        body = _decoded(await request.read())
        check_request(body, self._max_model_len)
        frame = answer.Frame(f"chatcmpl-{secrets.token_hex(8)}", int(time.time()), MODEL, prompt_tokens(body))
        generations = [generate(body, leak=self._leak)] * (whole_number(body, "n") or 1)
        if not wants_stream(body):
            return _json(answer.completion(frame, generations))
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return await self._stream(request, answer.chunks(frame, generations, usage=usage))

    async def _stream(self, request: web.Request, chunks: Iterator[dict[str, Any]]) -> web.StreamResponse:
        """Send `chunks` as server-sent events, one at a time; a client that leaves ends it."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            for chunk in chunks:
                await response.write(b"data: " + _encoded(chunk) + b"\n\n")
                await asyncio.sleep(self._chunk_delay_s)
            await response.write(b"data: [DONE]\n\n")
        except ConnectionResetError:
            return response
        await response.write_eof()
        return response

    async def _models(self, request: web.Request) -> web.Response:
        model = {
            "id": MODEL,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": MODEL,
            "parent": None,
            "max_model_len": self._max_model_len,
            "permission": [],
        }
        return _json({"object": "list", "data": [model]})


async def _health(request: web.Request) -> web.Response:
    return web.Response()


async def _version(request: web.Request) -> web.Response:
    return _json({"version": _VERSION})


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=_encoded(value), status=status, content_type="application/json")


def _encoded(value: Any) -> bytes:
    """Return compact JSON; half a surrogate pair, which Python's decoder lets through, becomes a question mark."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def _decoded(raw: bytes) -> Any:
    """Return the body's JSON; Python's own decoder, as in FastAPI, so that NaN passes and is refused by its range."""
    if not raw:
        raise field_refused("missing", "", "Field required", None)
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        raise field_refused("json_invalid", str(error.pos), "JSON decode error", {}) from None
    except (ValueError, RecursionError):  # not UTF-8, a number of more than 4,300 digits, too deep
        raise web.HTTPBadRequest(reason="There was an error parsing the body") from None


@web.middleware
async def _answer_failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give refusals vLLM's error object, and everything else FastAPI's `{"detail": …}`."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _json(refusal.body(), refusal.status)
    except web.HTTPNotFound as error:
        bare = request.path.rstrip("/")
        if bare in _PATHS:
            return web.Response(status=307, headers={"Location": str(request.url.with_path(bare))})
        return _json({"detail": error.reason}, error.status)
    except web.HTTPException as error:
        response = _json({"detail": error.reason}, error.status)
        response.headers.extend({name: error.headers[name] for name in ("Allow",) if name in error.headers})
        return response
