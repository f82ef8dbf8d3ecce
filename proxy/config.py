"""
The settings of one proxy process: a frozen record, and the pure function that fills it.

    flag  >  environment  >  file (--config FILE, TOML)  >  default

The fields of `Config` are the only list of settings. The flags, the names in the environment, the keys of
the file, `--help` and the table in the README are derived from their annotations. A name outside the list
stops the start: a setting that nothing reads is worse than none.
"""

import argparse
import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

import msgspec

from proxy.translate.options import Options
from proxy.translate.profile import PROFILE_NAMES
from proxy.values import base_url, from_file, from_text, header_token, in_words, plain

MIB: Final = 1024 * 1024
#: Arbitrary: no agent means to wait longer than a day. It keeps `inf` out of the timers.
DAY: Final = 86_400
MASK: Final = "***"

Wait = Annotated[float, msgspec.Meta(gt=0, le=DAY)]
WaitOrZero = Annotated[float, msgspec.Meta(ge=0, le=DAY)]
Size = Annotated[int, msgspec.Meta(ge=1)]


class ConfigError(ValueError):
    """The settings cannot be used: exit code 78. The text is for the operator and holds no secret."""


class About(NamedTuple):
    """What a field's annotation adds to its type: one sentence, its name in the environment, its kind of text."""

    doc: str
    env: str = ""
    form: str = ""
    secret: bool = False


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Names end in their unit: `_s` is seconds, `_bytes` is bytes."""

    vllm_base: Annotated[
        str, About("The upstream, with or without /v1; empty starts the embedded demo upstream.", "VLLM_BASE", "URL")
    ] = ""
    vllm_api_key: Annotated[
        str, About("The bearer token sent to the upstream.", "VLLM_API_KEY", "token", secret=True)
    ] = ""
    host: Annotated[str, About("The address to listen on.", "PROXY_HOST", "address")] = "127.0.0.1"
    port: Annotated[
        int, msgspec.Meta(ge=0, le=65_535), About("The port to listen on; 0 takes any free one.", "PROXY_PORT")
    ] = 9000
    workers: Annotated[
        int,
        msgspec.Meta(ge=0, le=1024),
        About("How many processes serve; 0 is one for each core that may be used.", "WORKERS"),
    ] = 0
    profile: Annotated[str, About("What the upstream is: the list of rules that applies.", "PROXY_PROFILE", "name")] = (
        "vllm-mistral-tokenizer"
    )
    options: Annotated[
        Mapping[str, Any], About("Changes to the profile's options.", "PROXY_OPTIONS", "NAME=VALUE,NAME=VALUE")
    ] = {}
    strict: Annotated[
        bool, About("Refuse a request that would lose something, instead of mending it.", "PROXY_STRICT")
    ] = False
    debug: Annotated[bool, About("Log at level debug; content is never logged.", "DEBUG")] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], About("The lowest level that is logged.", "LOG_LEVEL")
    ] = "info"
    log_file: Annotated[
        str, About("The file that log lines are appended to; empty is standard output.", "LOG_FILE", "path")
    ] = ""
    timeout_s: Annotated[WaitOrZero, About("The longest a request may take; 0 is no limit.", "TIMEOUT")] = 0
    connect_timeout_s: Annotated[Wait, About("The longest wait for a connection upstream.", "CONNECT_TIMEOUT")] = 2
    first_byte_timeout_s: Annotated[
        Wait, About("The longest wait for the upstream's status line and first event.", "FIRST_BYTE_TIMEOUT")
    ] = 300
    between_bytes_timeout_s: Annotated[
        Wait, About("The longest silence inside an answer.", "BETWEEN_BYTES_TIMEOUT")
    ] = 120
    keep_alive_s: Annotated[
        WaitOrZero,
        About("How long a stream may be silent before a comment keeps it open; 0 is no comment.", "KEEP_ALIVE"),
    ] = 15
    read_timeout_s: Annotated[Wait, About("The longest a client may take to send its body.", "READ_TIMEOUT")] = 30
    max_connections: Annotated[
        Size, About("The most connections to the upstream, of each worker.", "MAX_CONNECTIONS")
    ] = 1024
    # vLLM closes an idle connection after 5 s (VLLM_HTTP_TIMEOUT_KEEP_ALIVE): the pool must let go before it does.
    pool_idle_s: Annotated[
        Wait, About("How long an idle connection is kept; keep it below the upstream's keep-alive.", "POOL_IDLE")
    ] = 3
    max_body_bytes: Annotated[Size, About("The largest body of a request.", "MAX_BODY_BYTES")] = 32 * MIB
    max_event_bytes: Annotated[Size, About("The largest event of a stream.", "MAX_EVENT_BYTES")] = 16 * MIB
    shortcuts: Annotated[
        Literal["none", "answer", "upstream", "push"],
        About("How far the hot path leaves aiohttp's own objects; each includes the one before.", "SHORTCUTS"),
    ] = "push"
    drain_timeout_s: Annotated[WaitOrZero, About("How long SIGTERM lets running requests finish.", "DRAIN_TIMEOUT")] = (
        300
    )

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in masked(self).items())})"


class Row(NamedTuple):
    """A field of `Config` or `Options`, with the names under which it can be set."""

    name: str
    kind: Any
    default: Any
    about: About

    @property
    def flag(self) -> str:
        """The long option. A secret comes by file: every user of a machine can read a process's arguments."""
        words = "option" if self.name == "options" else self.keys[-1]
        return "--" + words.replace("_", "-")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the file."""
        return (self.name, self.name + "_file") if self.about.secret else (self.name,)

    @property
    def variables(self) -> tuple[str, ...]:
        """The names in the environment, one for each key; `_FILE` is the form known from containers."""
        return (self.about.env, self.about.env + "_FILE") if self.about.secret else (self.about.env,)

    @property
    def default_text(self) -> str:
        """The default as a user would write it, "" for an empty one."""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return "" if self.default in ("", {}) else str(self.default)

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        return self.about.form or in_words(self.kind)


def rows_of(record: type[msgspec.Struct]) -> Mapping[str, Row]:
    """Return the table of a record's fields by name."""
    return MappingProxyType({field.name: _row_of(field) for field in msgspec.structs.fields(record)})


def _row_of(field: msgspec.structs.FieldInfo) -> Row:
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    notes = [note for note in get_args(field.type)[1:] if isinstance(note, About)]
    return Row(field.name, field.type, default, notes[0] if notes else About(""))


SETTINGS: Final = rows_of(Config)
OPTIONS: Final = rows_of(Options)

_ROW_OF_KEY: Final = MappingProxyType({key: row for row in SETTINGS.values() for key in row.keys})
_KEY_OF_VARIABLE: Final = MappingProxyType(
    {name: key for row in SETTINGS.values() for name, key in zip(row.variables, row.keys, strict=True)}
)

Reader = Callable[[str], str]
#: What one source says: key -> (the value as given, where it stands).
Given = Mapping[str, tuple[Any, str]]


def load_config(argv: Sequence[str], environ: Mapping[str, str], read_file: Reader) -> Config:
    """
    Return the settings that flags, environment and file make together.

    `argv` holds flags only, without a program name or a command. `read_file` returns a file's text and may
    raise OSError or ValueError. Options are merged name by name, by the same precedence.

    Raises:
        ConfigError: a name is unknown, a value does not fit, or a file cannot be read.
    """
    flags, file = _read_flags(argv)
    sources = (
        _typed(_read_toml(file, read_file) if file else {}, from_file, read_file),
        _typed(_read_environment(environ), from_text, read_file),
        _typed(flags, from_text, read_file),
    )
    merged = {name: value for source in sources for name, value in source.items()}
    merged["options"] = {name: value for source in sources for name, value in source.get("options", {}).items()}
    config = msgspec.convert(merged, Config)
    if _answers_itself(config):
        raise ConfigError("vllm_base: points at the address that this proxy listens on")
    return config


def masked(config: Config) -> dict[str, Any]:
    """The settings as plain data, with secrets replaced: fit for a screen or a log."""
    values = msgspec.structs.asdict(config)
    return {name: MASK if SETTINGS[name].about.secret and value else value for name, value in values.items()}


# --- the three sources


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and one flag for each setting; a flag that is not given leaves no trace in the result."""
    absent = argparse.SUPPRESS
    parser.add_argument("--config", metavar="FILE", default=absent, help="Read settings from this TOML file.")
    for row in SETTINGS.values():
        facts = (row.expected, f"default {row.default_text or 'empty'}", *row.variables)
        text = f"{row.about.doc} [{'; '.join(facts)}]"
        if row.name == "options":
            parser.add_argument(
                row.flag, dest=row.name, metavar="NAME=VALUE", action="append", default=absent, help=text
            )
        elif plain(row.kind) is bool:
            parser.add_argument(
                row.flag, dest=row.name, metavar="BOOL", nargs="?", const="true", default=absent, help=text
            )
        else:
            parser.add_argument(row.flag, dest=row.keys[-1], metavar="VALUE", default=absent, help=text)


class _FlagParser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(message)


def _read_flags(argv: Sequence[str]) -> tuple[Given, str]:
    """Return what the flags say, and the path that `--config` names or ""."""
    parser = _FlagParser(add_help=False, allow_abbrev=False)
    add_flags(parser)
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = ("--config", *(row.flag for row in SETTINGS.values()))
        raise ConfigError(_unknown("flag", unknown[0].partition("=")[0], flags))
    values = vars(known)
    file = values.pop("config", "")
    return {key: (value, f"flag {_ROW_OF_KEY[key].flag}") for key, value in values.items()}, file


def _read_environment(environ: Mapping[str, str]) -> Given:
    """Empty counts as unset: compose files and charts pass on `${NAME:-}`."""
    for name in environ:
        if name.startswith("PROXY_") and name not in _KEY_OF_VARIABLE:
            raise ConfigError(_unknown("environment variable", name, _KEY_OF_VARIABLE))
    present = ((name, key) for name, key in _KEY_OF_VARIABLE.items() if environ.get(name))
    return {key: (environ[name], f"environment variable {name}") for name, key in present}


def _read_toml(path: str, read_file: Reader) -> Given:
    try:
        values = tomllib.loads(_read(path, "flag --config", read_file))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from None
    for key in values:
        if key not in _ROW_OF_KEY:
            raise ConfigError(_unknown(f"key in {path}:", key, _ROW_OF_KEY))
    return {key: (value, f"{path}: {key}") for key, value in values.items()}


def _read(path: str, origin: str, read_file: Reader) -> str:
    try:
        return read_file(path)
    except OSError as exc:
        raise ConfigError(f"{origin}: cannot read {path}: {exc.strerror or type(exc).__name__}") from None
    except ValueError:
        raise ConfigError(f"{origin}: {path!r} is not a file of UTF-8 text") from None


def _unknown(what: str, name: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(valid), n=1)
    return f"unknown {what} {name}; " + (f"did you mean {near[0]}?" if near else "see devstral-proxy --help")


# --- from what a source says to values


def _typed(given: Given, convert: Callable[[Any, Any], Any], read_file: Reader) -> dict[str, Any]:
    """Return one source's values by field name; `convert` is `from_text` or `from_file`."""
    values: dict[str, Any] = {}
    for key, (raw, origin) in given.items():
        row = _ROW_OF_KEY[key]
        if row.name in values:
            raise ConfigError(f"{origin}: {' and '.join(row.keys)} are both set")
        if row.name == "options":
            values[row.name] = _options(raw, origin, convert)
            continue
        value = _fitted(row, raw, origin, convert)
        if key != row.name and not (value := _read(value, origin, read_file).strip()):
            raise ConfigError(f"{origin}: the file is empty")
        values[row.name] = _checked(row.name, value, origin)
    return values


def _fitted(row: Row, raw: Any, origin: str, convert: Callable[[Any, Any], Any]) -> Any:
    try:
        return convert(row.kind, raw)
    except ValueError as exc:
        raise ConfigError(f"{origin}: {exc}") from None


def _options(raw: Any, origin: str, convert: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Return overrides by option name: from a table of the file, a list of flags, or a variable's text."""
    if convert is from_file:
        if not isinstance(raw, dict):
            raise ConfigError(f"{origin}: expected a table")
        return {name: _fitted(_option(name, origin), raw[name], f"{origin}.{name}", convert) for name in raw}
    pairs = _NEXT_OPTION.split(raw.strip(" ,")) if isinstance(raw, str) else raw
    values = {}
    for name, equals, text in (pair.partition("=") for pair in pairs):
        if not equals:
            raise ConfigError(f"{origin}: expected NAME=VALUE")
        row = _option(name.strip(), origin)
        values[row.name] = _fitted(row, text.strip(), f"{origin}: option {row.name}", convert)
    return values


# A comma ends an option only where another one starts, so lists and sentences may hold commas.
_NEXT_OPTION: Final = re.compile(r"\s*,\s*(?=\w+\s*=)")


def _option(name: str, origin: str) -> Row:
    if name not in OPTIONS:
        raise ConfigError(f"{origin}: {_unknown('option', name, OPTIONS)}")
    return OPTIONS[name]


def _known_profile(name: str) -> str:
    if name not in PROFILE_NAMES:
        raise ValueError(_unknown("profile", name, PROFILE_NAMES))
    return name


_CHECKS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {"vllm_base": base_url, "vllm_api_key": header_token, "profile": _known_profile}
)


def _checked(name: str, value: Any, origin: str) -> Any:
    try:
        return _CHECKS[name](value) if name in _CHECKS else value
    except ValueError as exc:
        raise ConfigError(f"{origin}: {exc}") from None


_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_ANY_ADDRESS: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - compared with, not bound to


def _answers_itself(config: Config) -> bool:
    """True when the upstream is this proxy: one request would go round until no socket is left."""
    if not config.vllm_base:
        return False
    upstream = urlsplit(config.vllm_base)
    port = upstream.port or {"http": 80, "https": 443}[upstream.scheme]
    here = {config.host} | (_LOOPBACK if config.host in _LOOPBACK | _ANY_ADDRESS else set())
    return port == config.port and upstream.hostname in here
