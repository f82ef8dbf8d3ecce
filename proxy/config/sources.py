"""
From flags, environment and file to a `Config`: pure functions of what each of them says.

    flag  >  environment  >  file (--config FILE, TOML)  >  default

A name outside the list of settings stops the start: a setting that nothing reads is worse than none.
"""

import argparse
import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from proxy.config.checks import answers_itself, check_ports, checked_backends
from proxy.config.records import Backend
from proxy.config.rows import Row
from proxy.config.settings import OPTIONS, SETTINGS, Config, ConfigError
from proxy.translate.profile import PROFILE_CHOICES
from proxy.values import (
    base_urls,
    from_file,
    from_text,
    header_name,
    header_token,
    header_tokens,
    headers_text,
    http_url,
    plain,
)

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
    config = msgspec.structs.replace(config, backends=_with_keys(config.backends, read_file))
    checked_backends(config)
    check_ports(config)
    if answers_itself(config):
        raise ConfigError("vllm_base: points at the address that this proxy listens on")
    return config


def _with_keys(backends: tuple[Backend, ...], read_file: Reader) -> tuple[Backend, ...]:
    return tuple(_with_key(backend, f"backends[{i}]", read_file) for i, backend in enumerate(backends))


def _with_key(backend: Backend, origin: str, read_file: Reader) -> Backend:
    if not backend.api_key_file:
        return backend
    if backend.api_key:
        raise ConfigError(f"{origin}: api_key and api_key_file are both set")
    key = _read(backend.api_key_file, f"{origin}.api_key_file", read_file).strip()
    if not key:
        raise ConfigError(f"{origin}.api_key_file: the file is empty")
    return msgspec.structs.replace(backend, api_key=key)


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
            flags = (row.flag, row.about.alias) if row.about.alias else (row.flag,)
            parser.add_argument(*flags, dest=row.keys[-1], metavar="VALUE", default=absent, help=text)


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


def _unknown(what: str, name: str, valid: Iterable[str], *, otherwise: str = "see devstral-proxy --help") -> str:
    near = difflib.get_close_matches(name, list(valid), n=1)
    return f"unknown {what} {name}; " + (f"did you mean {near[0]}?" if near else otherwise)


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
    if name not in PROFILE_CHOICES:
        choices = f"use one of {', '.join(PROFILE_CHOICES)}"
        raise ValueError(_unknown("profile", name, PROFILE_CHOICES, otherwise=choices))
    return name


_CHECKS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {
        "vllm_base": base_urls,
        "vllm_api_key": header_token,
        "api_keys": header_tokens,
        "batch_keys": header_tokens,
        "session_header": header_name,
        "otlp_endpoint": http_url,
        "otlp_traces_endpoint": http_url,
        "otlp_headers": headers_text,
        "profile": _known_profile,
    }
)


def _checked(name: str, value: Any, origin: str) -> Any:
    try:
        return _CHECKS[name](value) if name in _CHECKS else value
    except ValueError as exc:
        raise ConfigError(f"{origin}: {exc}") from None
