"""
The settings of one proxy process: a frozen record.

The fields of `Config` are the only list of settings. The flags, the names in the environment, the keys of the file,
`--help` and the table in the README are derived from their annotations, and so are the tables of the records inside it
(records.py).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from proxy.config.records import (
    MIB,
    About,
    Backend,
    CachePolicy,
    Issuer,
    ModelSettings,
    Size,
    SizeOrZero,
    Tier,
    Wait,
    WaitOrZero,
)
from proxy.config.rows import rows_of
from proxy.translate.options import Options
from proxy.translate.profile import PROFILE_CHOICES
from proxy.values import header_pairs

MASK: Final = "***"


class ConfigError(ValueError):
    """The settings cannot be used: exit code 78. The text is for the operator and holds no secret."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Names end in their unit: `_s` is seconds, `_bytes` is bytes."""

    # --- model servers

    vllm_base: Annotated[
        str,
        About(
            "The upstream, with or without /v1, or several with commas between them;"
            " empty without `backends` starts the embedded demo upstream.",
            "VLLM_BASE",
            "URL",
        ),
    ] = ""
    vllm_api_key: Annotated[
        str, About("The bearer token sent to the upstream.", "VLLM_API_KEY", "token", secret=True)
    ] = ""
    backends: Annotated[
        tuple[Backend, ...], About("The upstreams one by one, instead of `vllm_base`.", "PROXY_BACKENDS")
    ] = ()
    models: Annotated[
        Mapping[str, ModelSettings],
        About("Timeouts, rates and cache of single models, by the model's name.", "PROXY_MODELS"),
    ] = {}
    profile: Annotated[
        str,
        About("What the upstream is: the list of rules that applies.", "PROXY_PROFILE", " or ".join(PROFILE_CHOICES)),
    ] = "auto"
    options: Annotated[
        Mapping[str, Any], About("Changes to the profile's options.", "PROXY_OPTIONS", "NAME=VALUE,NAME=VALUE")
    ] = {}
    strict: Annotated[
        bool, About("Refuse a request that would lose something, instead of mending it.", "PROXY_STRICT")
    ] = False

    # --- this process

    host: Annotated[str, About("The address to listen on.", "PROXY_HOST", "address")] = "127.0.0.1"
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65_535), About("The port to listen on; 0 takes any free one.", "PROXY_PORT")
    ] = 9000
    reuse_port: Annotated[
        bool,
        About(
            "Let another instance with this setting share the port, so that a new version can take over.", "REUSE_PORT"
        ),
    ] = False
    metrics_port: Annotated[
        int,
        msgspec.Meta(ge=0, le=65_535),
        About(
            "The port of a listener of its own for /metrics, which then is not on `port`; 0 is none.",
            "PROXY_METRICS_PORT",
            alias="--prometheus-port",
        ),
    ] = 0
    metrics_host: Annotated[
        str, About("The address that this listener listens on.", "PROXY_METRICS_HOST", "address")
    ] = "127.0.0.1"
    metrics_auth: Annotated[
        Literal["auto", "open"],
        About(
            "Whether this listener asks for an operator's key: `auto` is where `port` would, `open` is never.",
            "PROXY_METRICS_AUTH",
        ),
    ] = "auto"
    workers: Annotated[
        int,
        msgspec.Meta(ge=0, le=1024),
        About("How many processes serve; 0 is one for each core that may be used.", "WORKERS"),
    ] = 0
    watch_config_s: Annotated[
        WaitOrZero,
        About("How often the files of the configuration are looked at for changes; 0 is never.", "WATCH_CONFIG"),
    ] = 2
    drain_delay_s: Annotated[
        WaitOrZero,
        About("How long SIGTERM goes on accepting, so that balancers see that it is not ready.", "DRAIN_DELAY"),
    ] = 5
    drain_timeout_s: Annotated[
        WaitOrZero, About("How long running requests may then take to finish.", "DRAIN_TIMEOUT")
    ] = 300
    shortcuts: Annotated[
        Literal["none", "answer", "upstream", "push"],
        About("How far the hot path leaves aiohttp's own objects; each includes the one before.", "SHORTCUTS"),
    ] = "push"

    # --- who may come in

    auth: Annotated[
        Literal["auto", "required", "open"],
        About(
            "Whether requests need a key or a token: `auto` is as soon as there are any, and off loopback always;"
            " `open` serves everybody anywhere.",
            "PROXY_AUTH",
        ),
    ] = "auto"
    api_keys: Annotated[
        str,
        About("Bearer tokens that are accepted, with commas between them.", "PROXY_API_KEYS", "tokens", secret=True),
    ] = ""
    keys: Annotated[
        str,
        About("What `devstral-proxy keys` has written: salted hashes of keys.", "PROXY_KEYS", "JSON", secret=True),
    ] = ""
    issuers: Annotated[tuple[Issuer, ...], About("Who signs JSON Web Tokens that are accepted.", "PROXY_ISSUERS")] = ()
    tiers: Annotated[
        Mapping[str, Tier],
        About("What principals may do; `default` is for those who have no other tier.", "PROXY_TIERS"),
    ] = {}
    tls_cert_file: Annotated[
        str, About("The certificate of this proxy, in PEM, with its chain; empty is no TLS.", "TLS_CERT_FILE", "path")
    ] = ""
    tls_key_file: Annotated[
        str, About("Its private key, in PEM; empty is that it stands in `tls_cert_file`.", "TLS_KEY_FILE", "path")
    ] = ""
    tls_client_ca_file: Annotated[
        str,
        About(
            "The certificates, in PEM, that clients' certificates must come from; empty asks for none.",
            "TLS_CLIENT_CA_FILE",
            "path",
        ),
    ] = ""
    ui: Annotated[
        Literal["auto", "on", "off"],
        About(
            "Whether there is a status page at /ui: `auto` is where all that is listened on is loopback.", "PROXY_UI"
        ),
    ] = "auto"

    # --- what is shared by requests

    store_url: Annotated[
        str,
        About(
            "The Valkey or Redis server where instances count together; empty counts in this instance's memory.",
            "STORE_URL",
            "URL",
            secret=True,
        ),
    ] = ""
    store_failure: Annotated[
        Literal["open", "closed"],
        About(
            "Without that server each instance counts by itself (`open`), or limited requests are refused (`closed`).",
            "STORE_FAILURE",
        ),
    ] = "open"
    store_timeout_s: Annotated[Wait, About("The longest wait for that server.", "STORE_TIMEOUT")] = 0.25
    cache: Annotated[
        CachePolicy,
        About(
            "Which answers are kept and given again: none, those whose request asks for it, or also all with"
            " temperature 0.",
            "CACHE",
        ),
    ] = "off"
    cache_ttl_s: Annotated[Wait, About("How long an answer is kept.", "CACHE_TTL")] = 300
    cache_max_bytes: Annotated[Size, About("The most bytes of answers that a worker keeps.", "CACHE_MAX_BYTES")] = (
        64 * MIB
    )
    cache_shared: Annotated[bool, About("Whether principals get each other's answers.", "CACHE_SHARED")] = False

    # --- log

    debug: Annotated[bool, About("Log at level debug; content is never logged.", "DEBUG")] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], About("The lowest level that is logged.", "LOG_LEVEL")
    ] = "info"
    log_file: Annotated[
        str, About("The file of log lines, reopened on SIGHUP; empty is standard output.", "LOG_FILE", "path")
    ] = ""
    log_sample: Annotated[
        float,
        msgspec.Meta(ge=0, le=1),
        About("The share of requests that are logged; failed, slow, resent and mended ones always are.", "LOG_SAMPLE"),
    ] = 1
    log_slow_s: Annotated[
        WaitOrZero, About("From how long a request counts as slow there; 0 is that none does.", "LOG_SLOW")
    ] = 0

    # --- traces

    otlp_endpoint: Annotated[
        str,
        About(
            "The OpenTelemetry receiver that spans are sent to, without /v1/traces; empty sends none.",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "URL",
        ),
    ] = ""
    otlp_traces_endpoint: Annotated[
        str,
        About("The whole URL of that receiver, instead of it.", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "URL"),
    ] = ""
    otlp_headers: Annotated[
        str,
        About("Headers that are sent to it.", "OTEL_EXPORTER_OTLP_HEADERS", "NAME=VALUE,NAME=VALUE", secret=True),
    ] = ""
    otel_sdk_disabled: Annotated[bool, About("Send no spans, whatever else is set.", "OTEL_SDK_DISABLED")] = False

    # --- timers

    timeout_s: Annotated[WaitOrZero, About("The longest a request may take; 0 is no limit.", "TIMEOUT")] = 0
    connect_timeout_s: Annotated[Wait, About("The longest wait for a connection upstream.", "CONNECT_TIMEOUT")] = 2
    first_byte_timeout_s: Annotated[
        Wait, About("The longest wait for the upstream's status line and first event.", "FIRST_BYTE_TIMEOUT")
    ] = 300
    between_bytes_timeout_s: Annotated[
        Wait, About("The longest silence inside an answer.", "BETWEEN_BYTES_TIMEOUT")
    ] = 120
    longest_timeout_s: Annotated[
        Wait, About("The longest that a request's own headers may set a timer to.", "LONGEST_TIMEOUT")
    ] = 3600
    keep_alive_s: Annotated[
        WaitOrZero,
        About("How long a stream may be silent before a comment keeps it open; 0 is no comment.", "KEEP_ALIVE"),
    ] = 15
    header_timeout_s: Annotated[
        Wait, About("The longest a client may take to send the headers of a request.", "HEADER_TIMEOUT")
    ] = 10
    read_timeout_s: Annotated[Wait, About("The longest a client may take to send its body.", "READ_TIMEOUT")] = 30
    write_timeout_s: Annotated[
        Wait,
        About("A client that reads less than 16 KiB of what waits for it in so long is left.", "WRITE_TIMEOUT"),
    ] = 60
    client_idle_s: Annotated[Wait, About("How long a client's connection is kept between requests.", "CLIENT_IDLE")] = (
        75
    )

    # --- choice of a model server

    balance: Annotated[
        Literal["least_in_flight", "round_robin", "power_of_two", "session", "prefix"],
        About("The policy that picks an upstream where there are several.", "BALANCE"),
    ] = "least_in_flight"
    session_header: Annotated[
        str,
        About(
            "The header by which `balance=session` tells sessions apart; else it is `user`.", "SESSION_HEADER", "name"
        ),
    ] = "x-session-id"
    zone: Annotated[
        str,
        About(
            "The proxy's own zone, whose upstreams come first, and those that come next, with commas between them.",
            "ZONE",
            "names",
        ),
    ] = ""
    # Arbitrary: four workers so send 256 requests to a replica, a usual `max_num_seqs` of vLLM.
    zone_spill: Annotated[
        SizeOrZero,
        About(
            "From how many of a worker's requests, for each weight of 1, a zone is full and the next one is asked;"
            " 0 is never.",
            "ZONE_SPILL",
        ),
    ] = 64
    dns_refresh_s: Annotated[
        Wait, About("How often the names of backends with `dns` are looked up.", "DNS_REFRESH")
    ] = 10
    health_interval_s: Annotated[Wait, About("How often each upstream's /health is asked.", "HEALTH_INTERVAL")] = 5
    eject_after: Annotated[
        Size,
        About(
            "So many failures in a row open an upstream's breaker; a refused connection does at once.", "EJECT_AFTER"
        ),
    ] = 5
    eject_s: Annotated[
        Wait,
        About("How long an open breaker waits before it is tried; doubled each time, up to a minute.", "EJECT_TIME"),
    ] = 5
    slow_start_s: Annotated[
        WaitOrZero, About("How long a returning upstream takes to get its full share.", "SLOW_START")
    ] = 30
    wedge_timeout_s: Annotated[
        WaitOrZero,
        About(
            "An upstream with requests that sends no byte for so long gets no more of them; 0 is never.",
            "WEDGE_TIMEOUT",
        ),
    ] = 120
    max_attempts: Annotated[
        int,
        msgspec.Meta(ge=1, le=2),
        About("How often a request is sent, if nothing of an answer came.", "MAX_ATTEMPTS"),
    ] = 2
    retry_budget: Annotated[
        float, msgspec.Meta(ge=0, le=1), About("The share of requests that may be sent a second time.", "RETRY_BUDGET")
    ] = 0.2
    failover: Annotated[
        Literal["off", "text"],
        About("Whether an answer that broke off in plain text is continued by another upstream.", "FAILOVER"),
    ] = "text"

    # --- bounds, of each worker

    max_connections: Annotated[
        Size, About("The most connections of each worker to one upstream.", "MAX_CONNECTIONS")
    ] = 2048
    # vLLM closes an idle connection after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE): the pool must let go before it does.
    pool_idle_s: Annotated[
        Wait, About("How long an idle connection is kept; keep it below the upstream's keep-alive.", "POOL_IDLE")
    ] = 3
    max_in_flight: Annotated[Size, About("The most requests that a worker runs at once.", "MAX_IN_FLIGHT")] = 2048
    max_queue: Annotated[SizeOrZero, About("The most requests that wait for one of them to end.", "MAX_QUEUE")] = 512
    queue_timeout_s: Annotated[Wait, About("The longest that a request waits so.", "QUEUE_TIMEOUT")] = 10
    batch_keys: Annotated[
        str,
        About(
            "Bearer tokens, with commas between them, whose requests wait behind all others.",
            "BATCH_KEYS",
            "tokens",
            secret=True,
        ),
    ] = ""
    max_body_bytes: Annotated[Size, About("The largest body of a request.", "MAX_BODY_BYTES")] = 32 * MIB
    max_buffered_bytes: Annotated[
        Size, About("The most bytes of requests' bodies that a worker holds at once.", "MAX_BUFFERED_BYTES")
    ] = 256 * MIB
    max_event_bytes: Annotated[Size, About("The largest event of a stream.", "MAX_EVENT_BYTES")] = 16 * MIB

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in masked(self).items())})"


SETTINGS: Final = rows_of(Config)
OPTIONS: Final = rows_of(Options)


def masked(config: Config) -> dict[str, Any]:
    """The settings as plain data, with secrets replaced: fit for a screen or a log."""
    values: dict[str, Any] = {name: getattr(config, name) for name in SETTINGS}
    for name, row in SETTINGS.items():
        if row.about.secret and values[name]:
            values[name] = MASK
    values["backends"] = [_without_secret(backend) for backend in config.backends]
    for name in ("models", "issuers", "tiers"):
        values[name] = msgspec.to_builtins(values[name])
    return values


def _without_secret(backend: Backend) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(backend)
    return {**plain, "api_key": MASK if backend.api_key else ""}


def secrets_of(config: Config) -> tuple[str, ...]:
    """Return every key that the settings hold."""
    keys = (
        config.vllm_api_key,
        *config.batch_keys.split(","),
        *config.api_keys.split(","),
        *(backend.api_key for backend in config.backends),
        config.store_url,
        *(word for value in header_pairs(config.otlp_headers).values() for word in (value, value.partition(" ")[2])),
        unquote(urlsplit(config.store_url).password or ""),
    )
    return tuple(key for key in keys if key)
