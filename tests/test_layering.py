"""The structure itself: who may import whom, and how long a page may be."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import proxy

ROOT = Path(proxy.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

#: What may be imported in a room besides the standard library and the room itself.
MAY_IMPORT = {
    "errors": {"msgspec"},
    "values": {"msgspec"},
    "usage": {"__version__"},
    "printing": set(),
    "wire": {"msgspec", "orjson", "errors"},
    "translate": {"msgspec", "orjson", "errors", "wire"},
    "fronts": {"msgspec", "orjson", "errors", "wire"},
    "config": {"msgspec", "translate", "usage", "values"},
    "observe": {
        *("msgspec", "orjson", "opentelemetry", "prometheus_client", "requests", "structlog"),
        *("__version__", "config", "errors", "values", "wire"),
    },
    "access": {"msgspec", "aiohttp", "joserfc", "multidict", "config", "errors", "printing", "usage"},
    "store": {"msgspec", "valkey", "config"},
    "demo": {"msgspec", "aiohttp"},
    "upstream": {
        *("msgspec", "aiohttp", "httptools", "multidict", "yarl"),
        *("__version__", "config", "errors", "translate", "wire"),
    },
    "edge": {
        *("msgspec", "orjson", "aiohttp", "multidict", "structlog"),
        *("__version__", "access", "config", "errors", "fronts", "observe", "store", "translate"),
        *("upstream", "wire"),
    },
    "process": {
        *("msgspec", "aiohttp", "structlog", "uvloop"),
        *("__version__", "access", "config", "demo", "edge", "fronts", "observe", "store", "translate", "upstream"),
    },
    "tail": {"msgspec", "orjson", "usage"},
    "doctor": {
        *("msgspec", "aiohttp", "multidict", "yarl", "rich"),
        *("__version__", "config", "errors", "printing", "translate", "upstream", "usage", "values", "wire"),
    },
    "healthcheck": {"config", "usage"},
    "completion": {"shtab", "config", "printing", "translate", "usage", "values"},
    "explain": {"msgspec", "config", "errors", "fronts", "printing", "translate", "usage", "wire"},
    "cli": {
        "msgspec",
        *("access", "completion", "config", "doctor", "explain", "healthcheck", "observe", "printing", "process"),
        *("tail", "usage"),
    },
    "__main__": {"cli"},
    "__init__": set(),
}

#: The pure rooms neither wait, nor talk, nor log.
PURE = ("wire", "translate", "fronts")
IMPURE = {"asyncio", "aiohttp", "logging", "selectors", "socket", "ssl", "structlog", "uvloop"}

MODULE_LINES = 400
FUNCTION_LINES = 60
#: A comment that starts like this inside a longer function says why it is one.
REASON = "# Long:"


def room_of(path):
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(path):
    """Yield the names that a module imports: rooms of this package, or top-level packages."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            yield rest.partition(".")[0] if package == ROOT.name else package


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path):
    room = room_of(path)
    foreign = {name for name in imports_of(path) if name not in sys.stdlib_module_names and name != room}

    assert foreign - MAY_IMPORT[room] == set()


def test_every_permission_is_used():
    used = {room: set() for room in MAY_IMPORT}
    for path in MODULES:
        used[room_of(path)].update(imports_of(path))
    always = {"msgspec", "orjson"}  # the codecs: any room may use them tomorrow

    assert {room: may - used[room] - always for room, may in MAY_IMPORT.items() if may - used[room] - always} == {}


@pytest.mark.parametrize("room", PURE)
def test_importing_a_pure_room_loads_nothing_that_waits_talks_or_logs(room):
    package = f"proxy.{room}"
    modules = [package, *(f"{package}.{module.name}" for module in pkgutil.iter_modules([str(ROOT / room)]))]
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)

    assert len(modules) > 1
    assert set(done.stdout.split()) & IMPURE == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_fits_its_page(path):
    assert path.read_text(encoding="utf-8").count("\n") <= MODULE_LINES


def test_a_function_fits_one_glance_or_says_why_not():
    too_long = []
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = lines[node.lineno - 1 : node.end_lineno]
                if len(body) > FUNCTION_LINES and not any(line.strip().startswith(REASON) for line in body):
                    too_long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {len(body)} lines")

    assert too_long == []


#: Run by a callback of the loop, they hand what was raised to the task that waits for it.
CARRIERS = ["upstream/exchange.py"]


def test_only_the_boundary_catches_everything():
    broad = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ExceptHandler) or isinstance(node.body[-1], ast.Raise):
                continue  # what puts things in order and passes the error on catches nothing
            if node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"):
                broad.append(str(path.relative_to(ROOT)))

    assert broad == ["edge/guard.py", *CARRIERS]
