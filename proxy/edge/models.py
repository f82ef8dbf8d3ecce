"""GET /v1/models: the model servers' own list; where they serve different models, their lists as one."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.whole import whole_body
from proxy.errors import UpstreamError, UpstreamProtocolError
from proxy.upstream.attempts import Errand, Sending
from proxy.upstream.choice import Ask
from proxy.upstream.replica import Replica

_encode = msgspec.json.Encoder().encode


async def models(edge: Edge, call: Call) -> web.StreamResponse:
    """
    Answer with the list of models, those that may be asked for.

    Raises:
        UpstreamError: no model server gave its list.
    """
    groups = _groups(edge.pool.replicas)
    allowed = call.principal.tier.models
    if len(groups) == 1 and not allowed:
        return await call.send(await _list_of(edge, call, groups[0]))
    lists, failures = [], []
    for model in groups:
        try:
            lists.append(await _list_of(edge, call, model))
        except UpstreamError as exc:
            failures.append(exc)
    if not lists:
        raise failures[0]
    listed = [model for model in _merged(lists) if not allowed or model["id"] in allowed]
    return await call.send(_encode({"object": "list", "data": listed}))


def _groups(replicas: Sequence[Replica]) -> Sequence[str]:
    """Return a model of each set of models that replicas serve; "" for those that serve any."""
    return tuple(
        dict.fromkeys(replica.backend.models[0] if replica.backend.models else "" for replica in replicas)
    ) or ("",)


async def _list_of(edge: Edge, call: Call, model: str) -> bytes:
    errand = Errand(
        first=edge.pool.choose(Ask(), model),
        translate=None,
        request_id=call.record.request_id,
        limits=edge.deadlines.limits(call.request.headers, model),
        started_at=asyncio.get_running_loop().time(),
        trail=call.record,
        model=model,
        new_leg=call.trace.leg,
    )
    async with Sending(edge.pool, errand) as sent:
        listed = await whole_body(sent.answer)
    edge.metrics.models.learn(_names_in(listed))
    return listed


def _names_in(listed: bytes) -> Sequence[str]:
    """Return the models of a list; none where it is another thing, which goes to the client as it is."""
    try:
        return tuple(model.id for model in msgspec.json.decode(listed, type=_Models).data)
    except (msgspec.DecodeError, UnicodeError):
        return ()


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def _merged(lists: Sequence[bytes]) -> list[Any]:
    """Return the models of all lists, each once."""
    models: dict[Any, Any] = {}
    for text in lists:
        try:
            for model in msgspec.json.decode(text)["data"]:
                models.setdefault(model["id"], model)
        except (msgspec.DecodeError, LookupError, TypeError):
            raise UpstreamProtocolError("A model server's list of models is none.") from None
    return list(models.values())
