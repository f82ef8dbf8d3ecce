"""
TLS on the listener: what the proxy proves itself with, and who a client says that it is.

    tls_cert_file, tls_key_file --> server_context() --> listener.py, for connections from then on
    tls_client_ca_file          ---/                     certificate_name(): the principal of a client's certificate

A context is made anew from its files and never changed. What a live one has loaded stays in it: an authority that is
not trusted any more still would be, and a certificate that came without its key would be half of a pair. The keys of
session tickets go with it too, so that no client takes up a session that an earlier context agreed to.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Final

from proxy.config import Config, ConfigError
from proxy.edge.handshake import ServerContext

#: For TLS 1.2: forward secrecy and authenticated encryption, as in Mozilla's "intermediate" (version 5.7). TLS 1.3 has
#: no others.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: The kinds of alternative names that are text. Of others `ssl` gives the same words for every certificate.
_NAMES: Final = frozenset({"DNS", "email", "URI", "IP Address"})


def server_context(config: Config) -> ssl.SSLContext | None:
    """
    Read the certificates that `config` names; return None where it names none. Blocks: it reads files.

    Raises:
        ConfigError: a file cannot be used; the message names the setting and the path, and quotes nothing.
    """
    if not config.tls_cert_file:
        for name in ("tls_key_file", "tls_client_ca_file"):
            if getattr(config, name):
                raise ConfigError(f"{name}: there is no tls_cert_file")
        return None
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    # Said here, since the system's openssl.cnf may say less.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, config.tls_cert_file, config.tls_key_file)
    if config.tls_client_ca_file:
        _load_authorities(context, config.tls_client_ca_file, "tls_client_ca_file")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def certificate_name(transport: asyncio.BaseTransport | None) -> str | None:
    """
    Return the name in the certificate that a client has proved to hold: its subject's CN, else its first alternative
    name.

    None is a client that was not asked for one (`tls_client_ca_file` is empty), one that has left, or a certificate
    without a name.
    """
    certificate = None if transport is None else transport.get_extra_info("peercert")
    if not certificate:
        return None
    subject = (pair for relative in certificate.get("subject", ()) for pair in relative)
    common = (value for kind, value in subject if kind == "commonName")
    others = (value for kind, value in certificate.get("subjectAltName", ()) if kind in _NAMES and value != "<invalid>")
    return next(common, "") or next(others, "") or None


def _load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    # Only this way it can be told which of the two files is at fault.
    _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert_file, "tls_cert_file")
    key_setting, key_path = ("tls_key_file", key_file) if key_file else ("tls_cert_file", cert_file)
    _check_readable(key_path, key_setting)

    def no_password() -> str:  # instead of a question on the terminal
        raise ConfigError(f"{key_setting}: the key in {key_path} is encrypted; give one that is not")

    try:
        context.load_cert_chain(cert_file, key_file or None, password=no_password)
    except OSError as exc:
        if getattr(exc, "reason", None) == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{key_setting}: {key_path} is not the key of the certificate in {cert_file}") from None
        raise ConfigError(f"{key_setting}: cannot use {key_path} as a key for {cert_file}: {_words(exc)}") from None


def _load_authorities(context: ssl.SSLContext, path: str, setting: str) -> None:
    _check_readable(path, setting)
    try:
        context.load_verify_locations(cafile=path)
    except OSError as exc:
        raise ConfigError(f"{setting}: cannot use {path}: {_words(exc)}") from None


def _check_readable(path: str, setting: str) -> None:
    try:
        Path(path).open("rb").close()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{setting}: cannot read {path}: {_words(exc)}") from None


def _words(exc: Exception) -> str:
    """Say what failed without what it failed on. OpenSSL's reasons are its own words."""
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "no_valid_pem").lower().replace("_", " ")
    return (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__
