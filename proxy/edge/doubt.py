"""
What aiohttp's parser takes, and what should not be taken, or not be followed by anything.

A request whose bytes two servers may read in two ways is refused, and ends its connection. One after which the parser
may have lost count is answered, and ends its connection too: nothing that is read behind it is worth an answer.
"""

import re
from typing import Final

from aiohttp import hdrs, web

from proxy.errors import MalformedHttp

# RFC 9110, 7.2 and RFC 3986, 3.2.2: a name or an address, and a port. Empty is allowed.
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]*)?")
_VERSIONS: Final = ((1, 0), (1, 1))


def refuse_doubtful(request: web.BaseRequest) -> None:
    """
    Refuse a request that aiohttp 3.14 takes against RFC 9112.

    Raises:
        MalformedHttp: its version is none that is spoken here (2.3); its coding is not chunked alone (6.1, 6.3: where
            chunked is not last, its length is not known); its Host is invalid (3.2); its target has a fragment (3.2)
            or names a user (RFC 9110, 4.2.4).
    """
    headers = request.headers
    if request.version not in _VERSIONS:
        raise MalformedHttp("The HTTP version must be 1.1 or 1.0.")
    coding = headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None and coding.lower() != "chunked":
        raise MalformedHttp("Transfer-Encoding must be chunked and nothing else.")
    host = headers.get(hdrs.HOST)
    if host is not None and _HOST.fullmatch(host) is None:
        raise MalformedHttp("The Host header is not valid.")
    target = request.raw_path
    if "#" in target or "@" in target.partition("://")[2].partition("/")[0]:
        raise MalformedHttp("The request's target is not valid.")


def is_last(request: web.BaseRequest) -> bool:
    """
    Whether the connection ends with the answer to this request, because what follows may be misread.

    aiohttp 3.14.5 gives the last trailer of a chunked request to the next request as a header of its own; drops what
    came in one read behind an Upgrade that it does not know; and reads the content of a CONNECT as requests.
    """
    headers = request.headers
    upgrade = headers.get(hdrs.UPGRADE)
    return (
        hdrs.TRANSFER_ENCODING in headers
        or (upgrade is not None and upgrade.lower() != "websocket")
        or request.method == hdrs.METH_CONNECT
    )
