"""What a client asked, on its way to replicas: one body, translated once for each profile that it meets."""

import asyncio
from functools import partial
from typing import Final

import msgspec

from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.fronts.messages import MessagesFront
from proxy.translate.profile import Profile
from proxy.translate.request import UpstreamRequest, asked_whole, translate_request, with_stop_reason
from proxy.upstream.attempts import Errand
from proxy.upstream.choice import Ask
from proxy.upstream.prefix import Aim, aim_of
from proxy.upstream.replica import Replica

#: Translating so much takes about a millisecond: longer than what a stream's event may wait for.
LARGE_BODY: Final = 256 * 1024


class Question:
    """One request's body; `errand()` is what is asked for it."""

    __slots__ = ("_call", "_edge", "_is_strict", "_profile", "_request", "_user_agent", "body")

    _request: UpstreamRequest

    def __init__(self, edge: Edge, call: Call, body: bytes) -> None:
        self._edge = edge
        self._call = call
        self.body = body
        self._is_strict = edge.config.strict
        self._user_agent = call.request.headers.get("User-Agent", "")
        self._profile: Profile | None = None

    async def errand(self) -> tuple[Errand, UpstreamRequest]:
        """
        Choose a replica; return the errand, and the request as that replica gets it.

        Raises:
            ClientError: the request cannot be translated, or no replica serves its model.
            UpstreamUnavailable: there are no replicas.
        """
        edge, call = self._edge, self._call
        aim = self._aim()
        first = edge.pool.choose(aim.ask, aim.model)
        try:
            request = await self.translate(first.profile)
            limits = edge.deadlines.limits(call.request.headers, request.model)
        except BaseException:
            edge.pool.dropped(first)
            raise
        errand = Errand(
            first=first,
            translate=self.translate,
            request_id=call.record.request_id,
            limits=limits,
            started_at=asyncio.get_running_loop().time(),
            trail=call.record,
            model=aim.model,
            ask=aim.ask,
            new_leg=call.trace.leg,
        )
        return errand, request

    def asked_whole(self, errand: Errand, replica: Replica) -> Errand:
        """Return the errand of asking the same replica for a whole answer (R4)."""

        async def translate(profile: Profile) -> UpstreamRequest:
            return asked_whole(await self.translate(profile))

        return msgspec.structs.replace(errand, first=self._edge.pool.take(replica), translate=translate)

    async def translate(self, profile: Profile) -> UpstreamRequest:
        """
        Return the request for one profile; a large one is made in a thread, so that the streams of others go on.

        The interpreter then gives the loop its turn every millisecond (process/worker.py).

        Raises:
            ClientError: it cannot be translated.
        """
        if profile is self._profile:
            return self._request
        work = partial(translate_request, self.body, profile, strict=self._is_strict, user_agent=self._user_agent)
        if len(self.body) < LARGE_BODY:
            request = work()
        else:
            request = await asyncio.get_running_loop().run_in_executor(self._edge.translator, work)
        front = self._call.front
        if isinstance(front, MessagesFront) and front.wants_stop_reason:
            request = with_stop_reason(request)
        self._profile, self._request = profile, request
        self._call.record.profile = profile.name
        return request

    def _aim(self) -> Aim:
        """Return what the choice of a replica depends on, if it depends on anything."""
        pool = self._edge.pool
        if not pool.reads_prompts:
            return _ANY
        return aim_of(self.body, self._call.request.headers.get(pool.config.session_header))


_ANY: Final = Aim("", Ask())
