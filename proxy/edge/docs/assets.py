"""
The files that the pages of pages.py load: this project's own, and those of Swagger UI and Redoc.

The two viewers come from the package drf-spectacular-sidecar, which holds the files that npm's swagger-ui-dist and
redoc publish, and declares Django as a dependency. Neither is imported here: the files are found by the package's
metadata, so that it is enough to install it without what it depends on. Where it is absent nothing else is missing.

    name -> Asset: its path, and its digest by the package's own list of files (RECORD), which the browser checks
"""

import hashlib
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

PACKAGE: Final = "drf-spectacular-sidecar"
#: The one that deploy/requirements-docs.txt locks; another one is used as it is.
VERSION: Final = "2026.10.1"

_STATIC: Final = "drf_spectacular_sidecar/static/drf_spectacular_sidecar"
_THEIRS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "swagger-ui.css": f"{_STATIC}/swagger-ui-dist/swagger-ui.css",
        "swagger-ui-bundle.js": f"{_STATIC}/swagger-ui-dist/swagger-ui-bundle.js",
        "redoc.standalone.js": f"{_STATIC}/redoc/bundles/redoc.standalone.js",
    }
)
_OURS: Final[Mapping[str, Path]] = MappingProxyType(
    {name: Path(__file__).parent / name for name in ("docs.js", "docs.css", "redoc.js", "redoc.css")}
)
#: All that can be asked for.
NAMES: Final = (*_OURS, *_THEIRS)


class Asset(NamedTuple):
    """A file that is there; `sha256` is what it should be."""

    path: Path
    sha256: bytes

    @property
    def tag(self) -> str:
        """What its address ends in: it changes with the content."""
        return self.sha256.hex()[:16]

    @property
    def integrity(self) -> str:
        """What a browser compares it with: https://www.w3.org/TR/SRI/."""
        return f"sha256-{b64encode(self.sha256).decode()}"


def find_assets() -> Mapping[str, Asset]:
    """Return the files that are there, by name. It reads the package's metadata from disk: not for the loop."""
    ours = {name: Asset(path, hashlib.sha256(path.read_bytes()).digest()) for name, path in _OURS.items()}
    return {**ours, **_find_theirs()}


def _find_theirs() -> Mapping[str, Asset]:
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        return {}
    listed = {str(file): file for file in files}
    found = {}
    for name, path in _THEIRS.items():
        file = listed.get(path)
        if file is None or file.hash is None or file.hash.mode != "sha256":
            continue
        place = Path(str(file.locate()))
        if place.is_file():
            found[name] = Asset(place, urlsafe_b64decode(file.hash.value + "="))  # RECORD leaves the padding out
    return found
