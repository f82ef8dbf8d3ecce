"""What a run found, as plain data: results/latest.json, results/peers.json, and what other modules add beside them."""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.figures import middle_half, paired_ratio, shared_rounds
from benchmarks.peers import PEERS
from benchmarks.programs import ROOT, BenchmarkError, has_nginx
from benchmarks.rounds import DIRECT, PROXY, RELAY, RELAY_AGAIN, ROUNDS_PER_START, Case, Measured, Plan, Sample

FOLDER: Final = Path(__file__).parent
RESULTS: Final = FOLDER / "results"
#: The names under which a whole run is kept; every other file there is a section, see `sections`.
LATEST: Final = "latest"
BESIDE_PEERS: Final = "peers"
_PACKAGES: Final = ("devstral-proxy", "aiohttp", "uvloop", "msgspec", "orjson", "structlog")

#: All that is kept in results/, by the names of the files.
Results = Mapping[str, Mapping[str, Any]]
Samples = Mapping[str, Mapping[int, Sample]]


def machine() -> dict[str, Any]:
    """Return what the figures depend on: date, commit, machine, versions, and the load that others put on it."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "processor": cpu.group(1) if cpu else platform.machine(),
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "compiler": compiler.stdout.splitlines()[0],
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}, **_nginx()},
    }


def _commit() -> str:
    """Return the commit, with a plus when files differ from it, or "unknown" outside a repository."""
    if shutil.which("git") is None:
        return "unknown"
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def _nginx() -> dict[str, str]:
    if not has_nginx():
        return {}
    done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
    return {"nginx": done.stderr.strip().partition("/")[2]}


def results(
    plan: Plan, measured: Measured, where: dict[str, Any], bodies: str, translate: list[dict[str, Any]], note: str
) -> dict[str, Any]:
    """Return everything as plain data."""
    return {
        "command": shlex.join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
        "note": note,
        "machine": where,
        "rounds": plan.rounds,
        "rounds_per_start": ROUNDS_PER_START,
        "bodies": bodies,
        "programs": {name: _described(name, measured) for name in measured.resident_mb},
        "absent": {name: text.replace(f"{ROOT}/", "") for name, text in measured.absent.items()},
        "cases": {case.name: _case(plan, case, measured) for case in plan.chosen},
        "translation": {name: _share(name, costs, measured) for name, costs in measured.translation_us.items()},
        "translate": translate,
    }


def _described(name: str, measured: Measured) -> dict[str, Any]:
    versions = {peer.name: peer.version for peer in PEERS}
    try:
        number = versions[name]() if name in versions else ""
    except BenchmarkError:
        number = "unknown"
    return {
        "version": number,
        "threads": measured.threads[name],
        "resident_mb": round(measured.resident_mb[name], 1),
    }


def _share(name: str, costs: Mapping[int, float], measured: Measured) -> dict[str, Any]:
    return {
        "cpu_us": round(median(costs.values()), 1),
        "share": _ratio(costs, _by_round(measured.samples[name][PROXY], "cpu_us")),
    }


def _case(plan: Plan, case: Case, measured: Measured) -> dict[str, Any]:
    samples: Samples = measured.samples.get(case.name, {})
    dose = plan.dose(case)
    costs = {name: _by_round(of_program, "cpu_us") for name, of_program in samples.items()}
    speeds = {name: _by_round(of_program, "per_second") for name, of_program in samples.items()}
    others = [name for name in samples if name not in (PROXY, RELAY_AGAIN, DIRECT)]
    return {
        "meaning": case.meaning,
        "unit": case.unit,
        "pieces": case.pieces,
        **(dose._asdict() if dose else {}),
        "programs": {name: _program(list(of_program.values())) for name, of_program in samples.items()},
        "lost": {name: dict(causes) for name, causes in measured.losses.get(case.name, {}).items()},
        "proxy_to": {name: _ratio(costs[PROXY], costs[name]) for name in others},
        "throughput_to": {name: _ratio(speeds[PROXY], speeds[name]) for name in others},
        "relay_to_itself": _ratio(costs[RELAY_AGAIN], costs[RELAY]),
    }


def _program(samples: list[Sample]) -> dict[str, Any]:
    costs = [sample.cpu_us for sample in samples]
    found: dict[str, Any] = {
        "rounds": len(samples),
        "cpu_us": round(median(costs), 2),
        "cpu_us_quartiles": [round(end, 2) for end in middle_half(costs)],
        "per_second": round(median(sample.per_second for sample in samples), 1),
    }
    for what in ("latency_us", "first_event_us", "transit_us"):
        for percentile in ("p50", "p99"):
            figures = [getattr(sample, what)[percentile] for sample in samples]
            found[what.replace("_us", f"_{percentile}_us")] = round(median(figures), 1)
    return found


def _by_round(samples: Mapping[int, Sample], what: str) -> dict[int, float]:
    return {index: getattr(sample, what) for index, sample in samples.items()}


def _ratio(above: Mapping[int, float], below: Mapping[int, float]) -> dict[str, float]:
    ratio = paired_ratio(*shared_rounds(above, below))
    return {name: round(value, 3) for name, value in ratio._asdict().items()}


# --- kept in files


def save(found: Mapping[str, Any], name: str) -> None:
    """Write results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def load_all(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Return what every results/NAME.json holds."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def sections(kept: Results) -> dict[str, Mapping[str, Any]]:
    """
    Return what other modules measured: everything but the whole runs.

    A module keeps {"machine": machine(), "command": "...", "rows": [{column: text, number or None}, ...]} as
    results/NAME.json, and a `failed` in its rows counts errors; then it is in the report, under its name.
    """
    return {name: found for name, found in kept.items() if name not in (LATEST, BESIDE_PEERS) and "rows" in found}
