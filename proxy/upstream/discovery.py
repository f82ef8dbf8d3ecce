"""DNS: the addresses that a name stands for, as a headless Service in Kubernetes has one for each ready pod."""

import asyncio
import socket
from urllib.parse import urlsplit


async def addresses_of(url: str, timeout_s: float) -> tuple[str, ...]:
    """
    Return the addresses of an upstream's host, sorted, so that the same answer is the same value.

    Raises:
        OSError: the name cannot be resolved, or not within `timeout_s` (TimeoutError).
    """
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        found = await loop.getaddrinfo(parts.hostname, parts.port or 0, type=socket.SOCK_STREAM)
    return tuple(sorted({str(address[0]) for *_, address in found}))
