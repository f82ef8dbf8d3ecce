"""
Canaries: secrets that a test makes up, puts everywhere, and looks for in everything that came out.

    canaries = Canaries()
    key = canaries.new("vllm_api_key")
    ...
    assert canaries.sightings({"the log": log}) == []

A secret has leaked when a part of it has: any run of eight of its characters counts, as it is, backwards, in base64 at
each of the three offsets, in base32, in hexadecimal, percent-encoded, as escapes of JSON, and of its digests, since who
has a list of candidates can try them.
"""

import base64
import hashlib
import secrets
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

_LETTERS: Final = string.ascii_letters + string.digits
_LENGTH: Final = 32

#: How much of a form must be found, in characters. All are about 47 bits: by chance none is in a gigabyte.
_PLAIN, _HEX, _BASE32 = 8, 12, 10


class Form(NamedTuple):
    """One way in which a secret could be written; any `run` characters of it in a row give it away."""

    name: str
    text: bytes
    run: int


def forms_of(secret: str) -> Iterator[Form]:
    """Yield every form of a secret that is looked for."""
    raw = secret.encode()
    run = _HEX if set(secret) <= set(string.hexdigits) else _PLAIN
    yield Form("as it is", raw, run)
    yield Form("backwards", raw[::-1], run)
    yield Form("in lower case", raw.lower(), _BASE32)
    yield Form("in upper case", raw.upper(), _BASE32)
    for offset in range(3):
        # What stands before it in the same base64 shifts it; characters that share bits with neighbours are left out.
        packed = base64.b64encode(b"\0" * offset + raw)[-(-offset * 4 // 3) : len(raw) * 4 // 3]
        yield Form(f"in base64, offset {offset}", packed, _PLAIN)
        yield Form(f"in base64 for URLs, offset {offset}", packed.translate(_FOR_URLS), _PLAIN)
    yield Form("in base32", base64.b32encode(raw).rstrip(b"="), _BASE32)
    yield Form("in hexadecimal", raw.hex().encode(), 2 * _PLAIN)
    yield Form("in capital hexadecimal", raw.hex().upper().encode(), 2 * _PLAIN)
    yield Form("percent-encoded", b"".join(b"%%%02X" % byte for byte in raw), 3 * _PLAIN)
    yield Form("as escapes of JSON", b"".join(b"\\u%04x" % byte for byte in raw), 6 * _PLAIN)
    for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b"):
        digest = hashlib.new(algorithm, raw)
        yield Form(f"its {algorithm}", digest.hexdigest().encode(), _HEX)
        yield Form(f"its {algorithm} in base64", base64.b64encode(digest.digest()).rstrip(b"="), _PLAIN)


_FOR_URLS: Final = bytes.maketrans(b"+/", b"-_")


class Canaries:
    """Secrets by what they are, random in every run."""

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}

    def new(self, name: str) -> str:
        """Make a secret: 32 random letters and digits."""
        return self.known(name, "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH)))

    def known(self, name: str, secret: str) -> str:
        """Take a secret that somebody else has made, without the parts of it that are no secret."""
        assert name not in self._secrets
        self._secrets[name] = secret
        return secret

    def __getitem__(self, name: str) -> str:
        return self._secrets[name]

    def names(self, prefix: str = "") -> set[str]:
        """The names that begin so."""
        return {name for name in self._secrets if name.startswith(prefix)}

    def sightings(self, places: Mapping[str, bytes], *, but: Iterable[str] = ()) -> list[str]:
        """Return where which secret was seen in which form; those named in `but` may be seen."""
        runs = self._runs(set(but))
        found = set()
        for place, text in places.items():
            for length, known in runs.items():
                for piece in {text[at : at + length] for at in range(len(text) - length + 1)} & known.keys():
                    found |= {f"{place}: {name}" for name in known[piece]}
        return sorted(found)

    def _runs(self, hidden: set[str]) -> Mapping[int, Mapping[bytes, list[str]]]:
        """Return every run that gives a secret away, by its length, with what it gives away."""
        runs: dict[int, dict[bytes, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name, secret in self._secrets.items():
            if name not in hidden:
                for form in forms_of(secret):
                    for at in range(max(1, len(form.text) - form.run + 1)):
                        runs[form.run][form.text[at : at + form.run]].append(f"{name} {form.name}")
        return {length: dict(known) for length, known in runs.items()}
