"""What only the settings together can get wrong, and the list of model servers that they make."""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import msgspec

from proxy.config.records import Backend
from proxy.config.settings import Config, ConfigError
from proxy.translate.profile import PROFILE_CHOICES
from proxy.values import DEFAULT_PORTS, base_url, header_token

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_ANY_ADDRESS: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound to


def checked_backends(config: Config) -> tuple[Backend, ...]:
    """
    Return the model servers, each with its URL in one form, a name of its own, its key and its profile.

    They are `backends`, or those that `vllm_base` lists; none is the embedded demo.

    Raises:
        ConfigError: `backends` and `vllm_base` are both set, or one of them cannot be used.
    """
    if config.backends and config.vllm_base:
        raise ConfigError("vllm_base and backends are both set")
    urls = [url for url in config.vllm_base.split(",") if url]
    listed = config.backends or tuple(Backend(url=url) for url in urls)
    backends = tuple(_completed(backend, config, f"backends[{i}]") for i, backend in enumerate(listed))
    names = [backend.name for backend in backends]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two upstreams are called {repeated[0]}: give each a name, or its own address")
    return backends


def _completed(backend: Backend, config: Config, origin: str) -> Backend:
    profile = backend.profile or config.profile
    try:
        url = base_url(backend.url)
        key = header_token(backend.api_key or config.vllm_api_key)
        if not url:
            raise ValueError("the URL is empty")
        if profile not in PROFILE_CHOICES:
            raise ValueError(f"profile: use one of {', '.join(PROFILE_CHOICES)}")
        if backend.dns and url.startswith("unix:"):
            raise ValueError("dns: a socket's path has no addresses")
        if backend.ca_file and not url.startswith("https:"):
            raise ValueError("ca_file: only https:// has certificates")
    except ValueError as exc:
        raise ConfigError(f"{origin}: {exc}") from None
    name = backend.name or host_and_port(url)
    return msgspec.structs.replace(backend, url=url, name=name, api_key=key, profile=profile)


def host_and_port(url: str) -> str:
    """Return `host:port` of an upstream's URL, or the path of a socket."""
    if url.startswith("unix:"):
        return url.removeprefix("unix:")
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or DEFAULT_PORTS[parts.scheme]}"


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine alone; a name is not, except localhost."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:  # a name, which may stand for any address
        return False


def check_ports(config: Config) -> None:
    """
    Raises:
        ConfigError: both listeners are to have one port.
    """
    if config.metrics_port and config.metrics_port == config.port:
        raise ConfigError(f"metrics_port: {config.port} is the port of the proxy itself, give it another one")


def answers_itself(config: Config) -> bool:
    """True when an upstream is this proxy: one request would go round until no socket is left."""
    here = {config.host} | (_LOOPBACK if config.host in _LOOPBACK | _ANY_ADDRESS else set())
    return any(_is_at(backend.url, here, config.port) for backend in checked_backends(config))


def _is_at(url: str, hosts: set[str], port: int) -> bool:
    if url.startswith("unix:"):
        return False
    parts = urlsplit(url)
    return (parts.port or DEFAULT_PORTS[parts.scheme]) == port and parts.hostname in hosts
