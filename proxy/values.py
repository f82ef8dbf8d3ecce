"""
One value of a setting: what it must be, in words, and the way from a flag's text or a file's value to it.

Every failure is a ValueError whose text says what was expected. It quotes a number or a word that was
meant to come from a list of choices; it never quotes a URL, a key or any other free text.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

#: The port of a URL that names none.
DEFAULT_PORTS: Final = MappingProxyType({"http": 80, "https": 443})


def in_words(kind: Any) -> str:
    """What a value of this type must be: `whole number, at least 0, at most 65535`."""
    base, bounds = plain(kind), _bounds(kind)
    if get_origin(base) is Literal:
        return " or ".join(get_args(base))
    if get_origin(base) in _UNIONS:
        return " or ".join(in_words(arg) for arg in get_args(base))
    if is_structured(base):
        return "JSON list" if get_origin(base) is tuple else "JSON object"
    return _TYPE_WORDS[get_origin(base) or base] + bounds


#: A union with a Literal in it is of the older kind.
_UNIONS: Final = (UnionType, Union)

_TYPE_WORDS: Final[Mapping[Any, str]] = MappingProxyType(
    {
        bool: "true or false",
        str: "text",
        int: "whole number",
        float: "number",
        type(None): "null",
        tuple: "names, commas between them",
        Mapping: "JSON object",
    }
)


def _bounds(kind: Any) -> str:
    limits = ((limit, meta) for meta in get_args(kind)[1:] if isinstance(meta, msgspec.Meta) for limit in _LIMITS)
    return "".join(f", {words} {bound}" for (name, words), meta in limits if (bound := getattr(meta, name)) is not None)


_LIMITS: Final = (("gt", "more than"), ("ge", "at least"), ("le", "at most"))


def is_structured(base: Any) -> bool:
    """Whether a value holds records with names of their own: tables in a file, JSON in a text."""
    return any(isinstance(arg, type) and issubclass(arg, msgspec.Struct) for arg in get_args(base))


def plain(kind: Any) -> Any:
    """The type without its annotations."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def from_file(kind: Any, value: Any) -> Any:
    """
    Return a file's value as `kind`; a file has types of its own, so nothing is converted.

    Raises:
        ValueError: it is of another type, or out of bounds.
    """
    return _fitted(kind, value, value, strict=True)


def from_text(kind: Any, text: str) -> Any:
    """
    Return a flag's or a variable's text as `kind`.

    Raises:
        ValueError: it cannot be read as one, or is out of bounds.
    """
    base = plain(kind)
    reader = msgspec.json.decode if is_structured(base) else _READERS.get(get_origin(base) or base, str)
    try:
        value = reader(text)
    except msgspec.DecodeError:
        value = text
    return _fitted(kind, value, text, strict=False)


_BOOLEAN_WORDS: Final = MappingProxyType(
    {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
)

#: Brings text nearer to its type. What a reader cannot read it returns as it was, and the type refuses it.
_READERS: Final[Mapping[Any, Callable[[str], Any]]] = MappingProxyType(
    {
        bool: lambda text: _BOOLEAN_WORDS.get(text.lower(), text),
        Literal: str.lower,
        tuple: lambda text: [name.strip() for name in text.split(",") if name.strip()],
        Mapping: msgspec.json.decode,
    }
)


def _fitted(kind: Any, value: Any, given: Any, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as exc:
        if is_structured(plain(kind)):
            # names what is wrong and where; it quotes types and names, never a value
            raise ValueError(f"{str(exc)[:1].lower()}{str(exc)[1:]}") from None
        got = f", got {given!r}" if _is_quotable(kind, given) else ""
        raise ValueError(f"expected {in_words(kind)}{got}") from None


def _is_quotable(kind: Any, given: Any) -> bool:
    """True where only a number or a word from a list is meant to stand, and what stands there is short."""
    base = plain(kind)
    is_choice = base in (bool, int, float) or get_origin(base) in (Literal, *_UNIONS)
    return is_choice and isinstance(given, str | int | float) and len(str(given)) <= 40


def base_urls(urls: str) -> str:
    """
    Return upstreams' URLs in the form that `base_url` gives each, commas between them.

    Raises:
        ValueError: one of them is none.
    """
    return ",".join(base_url(url.strip(" ")) for url in urls.split(",") if url.strip(" "))


def base_url(url: str) -> str:
    """
    Return an upstream's URL without a trailing slash and without a trailing `/v1`; "" stays "".

    `unix:` and a path is a socket of this machine; it stays as it is.

    Raises:
        ValueError: it is not a plain http(s) URL. Credentials belong into the key, not into the URL.
    """
    if not url:
        return ""
    if url.startswith("unix:"):
        if not re.fullmatch(r"unix:/[^\s\\?#]+", url):
            raise ValueError("expected unix:/PATH")
        return url
    parts = _http_parts(url, "http://HOST[:PORT][/PREFIX], https://HOST[:PORT][/PREFIX] or unix:/PATH")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1').rstrip('/')}"


def header_token(token: str) -> str:
    """
    Return a bearer token that fits into a header.

    Raises:
        ValueError: it would end the header or not survive it.
    """
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise ValueError("the key must be printable ASCII without spaces, since it travels in a header")
    return token


def header_tokens(tokens: str) -> str:
    """
    Return bearer tokens, with commas between them.

    Raises:
        ValueError: one would not survive a header.
    """
    return ",".join(header_token(token.strip()) for token in tokens.split(",") if token.strip())


def http_url(url: str) -> str:
    """
    Return an http(s) URL without a trailing slash; "" stays "".

    Raises:
        ValueError: it is none, or holds credentials, a query or a fragment.
    """
    if url:
        _http_parts(url, "http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]")
    return url.rstrip("/")


def _http_parts(url: str, form: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text quotes a part of the URL
        is_url = False
    if not is_url or re.search(r"[\s\\]", url):
        raise ValueError(f"expected {form}")
    if "@" in parts.netloc:
        raise ValueError("the URL must not hold a user name or a password")
    if "?" in url or "#" in url:
        raise ValueError("the URL must not hold a query or a fragment")
    return parts


def header_pairs(text: str) -> dict[str, str]:
    """
    Return headers from `NAME=VALUE,NAME=VALUE`; a value may be percent-encoded (OpenTelemetry's form, W3C Baggage's).

    Raises:
        ValueError: it has another form, or would not survive a request.
    """
    pairs = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, value = pair.partition("=")
        decoded = unquote(value.strip())
        if not equals or not re.fullmatch(r"[\x20-\x7e]+", decoded):
            raise ValueError("expected NAME=VALUE,NAME=VALUE in printable ASCII, percent-encoded where it is not")
        pairs[header_name(name.strip()).lower()] = decoded
    return pairs


def headers_text(text: str) -> str:
    """
    Return `text`, which `header_pairs` can read.

    Raises:
        ValueError: it cannot.
    """
    header_pairs(text)
    return text


def header_name(name: str) -> str:
    """
    Return the name of a header (RFC 9110, 5.1).

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
        raise ValueError("expected the name of a header")
    return name
