"""
Another front door: a request that is not a chat completion, answered by way of one.

    client's body --request()--> chat completion's body --> all that a chat goes through --> its answer
    client's answer <--whole()-- whole completion       <--------------------------------------+
    client's events <--piece()-- pieces of our own event stream                    <-----------+

A front translates its client's side alone. Profiles, limits, cache, retries and failover see a chat.
"""

from typing import Protocol

from proxy.errors import ProxyError


class Front(Protocol):
    """One request through another front door. An object per request, owned by its Call; for one thread at a time."""

    @property
    def rules(self) -> tuple[str, ...]:
        """The front's own rules that changed something in the request, in order; known once `request()` is over."""

    def request(self, body: bytes, *, strict: bool) -> bytes:
        """
        Return the chat completion that `body` asks for. One that is streamed asks for its usage.

        Raises:
            InvalidRequest: it cannot be translated, or `strict` is set and a rule of the front would change it.
                `param` is the path in the client's own body.
        """

    def whole(self, body: bytes) -> bytes:
        """
        Return the client's answer for the whole completion `body`.

        Raises:
            UpstreamProtocolError: it is no completion. With the profile `passthrough` nobody has looked at it before.
        """

    def piece(self, data: bytes) -> bytes:
        """
        Return the client's events for a piece of a chat's event stream, b"" if there are none.

        A piece may be cut anywhere, if seldom. Comments stay comments. An error event becomes the client's last
        event, and no answer looks whole that has not come to `[DONE]` without one. Raises nothing: what is no chunk
        of a completion is an error too.
        """

    def error_body(self, error: ProxyError) -> bytes:
        """Return the body of an error that has a status of its own; `request()` may have failed, or not have run."""
