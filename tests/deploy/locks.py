"""What the locks name, and what of it is needed to build the proxy only."""

import importlib.metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.engine import ROOT

#: What deploy/install.sh and the Makefile install.
EXTRAS = ("cli", "jwt", "otel", "valkey")
_BUILD = ("hatchling", "editables")


def locked(lock: str, *, python: str) -> dict[str, str]:
    """Return name and version of each package that a lock in deploy/ names for Linux and this Python."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    packages: dict[str, str] = {}
    for line in (ROOT / "deploy" / lock).read_text(encoding="utf-8").splitlines():
        if not line.startswith((" ", "#")):
            wanted = Requirement(line.rstrip("\\ "))
            if wanted.marker is None or wanted.marker.evaluate(environment):
                packages[canonicalize_name(wanted.name)] = str(wanted.specifier).removeprefix("==")
    return packages


def build_only() -> set[str]:
    """Return the packages that the build backend needs and the proxy does not, as installed in this environment."""
    return _closure(dict.fromkeys(_BUILD, ())) - _closure({"devstral-proxy": EXTRAS})


def _closure(wanted: dict[str, tuple[str, ...]]) -> set[str]:
    found: set[str] = set()
    waiting = list(wanted.items())
    while waiting:
        name, extras = waiting.pop()
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            each = Requirement(text)
            applies = each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if applies and canonicalize_name(each.name) not in found:
                waiting.append((canonicalize_name(each.name), tuple(each.extras)))
    return found
