"""
The command `healthcheck`: ask a proxy on this machine whether it lives, or is ready, for containers without curl.

    0 it does   1 it does not, or says nothing within two seconds   2 wrong usage   78 the configuration cannot be used

It starts every few seconds, so it loads little: no event loop, no client library.
"""

import argparse
import http.client
import re
import socket
import ssl
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from proxy.config import Config, ConfigError, load_config
from proxy.config.own import own_and_settings, own_parser
from proxy.usage import Usage

#: For all of it, name resolution included. A proxy answers within a millisecond; Docker's own default is 30 s.
DEADLINE_S: Final = 2.0
_PATHS: Final = {"live": "/livez", "ready": "/readyz"}
_LARGEST_BODY: Final = 4096
#: What an address to listen on means to somebody who wants to connect.
_ANY: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound to
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

_USAGE: Final = Usage(
    command="healthcheck",
    about="Ask a proxy on this machine whether it lives, or is ready.",
    examples="""\
devstral-proxy healthcheck                                is the proxy of this configuration alive?
devstral-proxy healthcheck --ready --config proxy.toml    has it a model server to work with?
devstral-proxy healthcheck http://127.0.0.1:9001          another one
devstral-proxy healthcheck unix:/run/proxy.sock
HEALTHCHECK CMD ["devstral-proxy", "healthcheck"]         in a Dockerfile""",
    notes="""\
Without URL it asks where `host` and `port` are set to listen. On this machine's own addresses https:// is not verified:
nothing secret is sent. Of another URL the certificate must be one that the system trusts.""",
    codes={0: "it is", 1: "it is not or does not say so within 2 s", 78: "the configuration cannot be used"},
    form="devstral-proxy healthcheck [--live | --ready] [URL] [FLAGS]",
)


class _Place(NamedTuple):
    """Where to ask. `context` is set for https, `path` for a socket of this machine."""

    host: str
    port: int
    context: ssl.SSLContext | None = None
    path: str = ""

    @property
    def shown(self) -> str:
        """The place as people write it."""
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def healthcheck(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """
    Run `healthcheck ARGUMENTS`; return the exit code. `--help` and wrong usage leave by SystemExit.

    Raises:
        ConfigError: the configuration cannot be used, or does not say where the proxy listens.
    """
    options, flags = own_and_settings(_USAGE, _add_own, arguments)
    if options.url and flags:
        healthcheck_parser().error(f"with URL there is nothing to set: {flags[0].partition('=')[0]}")
    place = _place_of(options.url) if options.url else _own_place(flags, environ)
    if place.context is not None and options.cert_file:
        _show(options.cert_file, place.context)
    is_well, says = _within_deadline(place, options.question)
    print(f"devstral-proxy: {says}", file=sys.stdout if is_well else sys.stderr)
    return 0 if is_well else 1


def healthcheck_parser() -> argparse.ArgumentParser:
    """Return what tells of this command's own arguments."""
    return own_parser(_USAGE, _add_own)


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", metavar="URL", nargs="?", default="", help="the proxy; else the one of the configuration"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--live", dest="question", action="store_const", const="live", default="live", help="does it turn? (default)"
    )
    which.add_argument(
        "--ready", dest="question", action="store_const", const="ready", help="does it take requests, and can it?"
    )
    parser.add_argument(
        "--cert-file",
        metavar="FILE",
        default="",
        help="a certificate and its key, in PEM, for a proxy with tls_client_ca_file",
    )


# --- where


def _own_place(flags: Sequence[str], environ: Mapping[str, str]) -> _Place:
    config: Config = load_config(flags, environ, lambda path: Path(path).read_text(encoding="utf-8"))
    if config.port == 0:
        raise ConfigError("port is 0, so only the proxy knows which it has: name the URL")
    return _Place(_ANY.get(config.host, config.host), config.port, _trusting_all() if config.tls_cert_file else None)


def _place_of(url: str) -> _Place:
    if url.startswith("unix:/"):
        return _Place("localhost", 0, path=url.removeprefix("unix:"))
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigError("URL: expected http://HOST[:PORT], https://HOST[:PORT] or unix:/PATH")
    if parts.scheme == "http":
        return _Place(host, port or 80)
    return _Place(host, port or 443, _trusting_all() if host in _LOOPBACK else ssl.create_default_context())


def _trusting_all() -> ssl.SSLContext:
    """For this machine's own addresses: a proxy's certificate rarely names loopback, and no secret is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _show(cert_file: str, context: ssl.SSLContext) -> None:
    try:
        context.load_cert_chain(cert_file)
    except OSError as exc:
        raise ConfigError(f"--cert-file: cannot use {cert_file}: {exc.strerror or type(exc).__name__}") from None


# --- the question


def _within_deadline(place: _Place, question: str) -> tuple[bool, str]:
    """Ask in a thread that is left behind at the deadline: a socket's own timeout starts anew with each byte."""
    answers: list[tuple[bool, str]] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(place, question)), daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    return answers[0] if answers else (False, _too_late(question))


def _too_late(question: str) -> str:
    return f"not {question}: no answer within {DEADLINE_S:g} s"


def _ask(place: _Place, question: str) -> tuple[bool, str]:
    connection = _connection(place)
    try:
        connection.request("GET", _PATHS[question])
        answer = connection.getresponse()
        status = _status(answer.read(_LARGEST_BODY))
    except TimeoutError:
        return False, _too_late(question)
    except ssl.SSLError as exc:
        return _tls_failed(question, exc)
    except http.client.RemoteDisconnected:
        return False, f"not {question}: the connection was closed without an answer"
    except http.client.HTTPException:
        return False, f"not {question}: what answers is not HTTP"
    except ConnectionRefusedError:
        return False, f"not {question}: nothing listens at {place.shown}"
    except OSError as exc:
        return False, f"not {question}: {exc.strerror or type(exc).__name__}"
    finally:
        connection.close()
    if answer.status == 200:
        return True, question
    return False, f"not {question}: status {answer.status}{f', {status}' if status else ''}"


def _tls_failed(question: str, exc: ssl.SSLError) -> tuple[bool, str]:
    reason = (exc.reason or type(exc).__name__).lower().replace("_", " ")
    if "certificate required" not in reason:
        return False, f"not {question}: TLS: {reason}"
    if question == "live":  # its loop has turned to say so
        return True, "live: it asks for a client's certificate"
    return False, f"not {question}: it asks for a client's certificate, see --cert-file"


def _connection(place: _Place) -> http.client.HTTPConnection:
    if place.path:
        return _UnixConnection(place.path)
    if place.context is not None:
        return http.client.HTTPSConnection(place.host, place.port, timeout=DEADLINE_S, context=place.context)
    return http.client.HTTPConnection(place.host, place.port, timeout=DEADLINE_S)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=DEADLINE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(self._path)


def _status(body: bytes) -> str:
    """Return the word that the proxy's own answers give as `status`, "" in any other body."""
    found = re.fullmatch(rb'\{"status":"([a-z_]{1,32})"\}', body)
    return found[1].decode() if found else ""
