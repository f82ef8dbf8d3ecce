"""
The proxy with faults planted in it: `python -m tests.security.planted serve ...`, for test_canaries.py.

A request with the header `x-test-crash` meets code that fails with what nobody expected, in words that hold the whole
request; and every error of proxy/errors.py that is made is noted in the file that `TEST_RAISED` names.
"""

import asyncio
import os
import sys
from typing import Any

from proxy import cli, errors
from proxy.edge import question, relay
from proxy.edge.call import Call
from proxy.edge.edge import Edge

_init = errors.ProxyError.__init__
_chat, _translate = relay.chat, question.translate_request


def _noted(self: errors.ProxyError, *arguments: Any, **options: Any) -> None:
    _init(self, *arguments, **options)
    with open(os.environ["TEST_RAISED"], "a", encoding="utf-8") as file:
        file.write(type(self).__name__ + "\n")


class Planted(Exception):
    """Says too much, and so does its repr."""


def _words_of(call: Call) -> str:
    return repr([call.request.headers, str(call.request.url), call.request.query_string])


async def _crashing(edge: Edge, call: Call) -> Any:
    kind = call.request.headers.get("x-test-crash")
    loop = asyncio.get_running_loop()
    if kind == "handler":
        try:
            raise KeyError(_words_of(call))
        except KeyError as exc:
            raise Planted(_words_of(call), edge.config.vllm_api_key) from exc
    if kind == "callback":
        loop.call_soon(_crash, _words_of(call))
    if kind == "task":
        task = loop.create_task(_crash_later(_words_of(call)), name=_words_of(call))
        await asyncio.wait([task])
        del task
    if kind == "group":
        raise ExceptionGroup(_words_of(call), [ValueError(_words_of(call)), OSError(_words_of(call))])
    return await _chat(edge, call)


def _crash(words: str) -> None:
    raise Planted(words)


async def _crash_later(words: str) -> None:
    raise Planted(words)


def _crashing_translation(body: bytes, *arguments: Any, **options: Any) -> Any:
    if b'"crash_in_translation"' in body:
        raise ValueError(body.decode(), arguments, options)
    return _translate(body, *arguments, **options)


if __name__ == "__main__":
    errors.ProxyError.__init__ = _noted  # type: ignore[method-assign]
    relay.chat = _crashing
    question.translate_request = _crashing_translation
    sys.exit(cli.main())
