"""What a run found, as data for programs and as Markdown for people."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.figures import Ratio, paired_ratio
from benchmarks.programs import has_nginx
from benchmarks.rounds import NGINX, PROXY, RELAY, RELAY_AGAIN, ROUNDS_PER_START, Measured, Plan, Sample

FOLDER: Final = Path(__file__).parent
RESULTS: Final = FOLDER / "results"
README: Final = FOLDER / "README.md"
_BLOCK: Final = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- end of results -->)", re.DOTALL)
_PACKAGES: Final = ("devstral-proxy", "aiohttp", "uvloop", "msgspec", "orjson", "structlog")


def machine() -> dict[str, Any]:
    """Return what the figures depend on, the load that others put on the machine included."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True)
    return {
        "processor": cpu.group(1) if cpu else platform.machine(),
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "compiler": compiler.stdout.splitlines()[0],
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}, **_nginx()},
    }


def _nginx() -> dict[str, str]:
    if not has_nginx():
        return {}
    done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
    return {"nginx": done.stderr.strip().partition("/")[2]}


def results(
    plan: Plan, measured: Measured, where: dict[str, Any], bodies: str, translate: list[dict[str, Any]], note: str
) -> dict[str, Any]:
    """Return everything as plain data: what results/latest.json holds."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "note": note,
        "machine": where,
        "rounds": plan.rounds,
        "rounds_per_start": ROUNDS_PER_START,
        "bodies": bodies,
        "cases": {
            case.name: {
                "meaning": case.meaning,
                "unit": case.unit,
                "requests": plan.requests(case),
                "connections": case.connections,
                **_case(measured.samples[case.name]),
            }
            for case in plan.cases
        },
        "translation": {
            name: {
                "cpu_us": round(median(costs), 1),
                "share": _ratio(costs, _costs(measured.samples[name][PROXY])),
            }
            for name, costs in measured.translation_us.items()
        },
        "resident_mb": {name: round(size, 1) for name, size in measured.resident_mb.items()},
        "translate": translate,
    }


def _case(samples: dict[str, list[Sample]]) -> dict[str, Any]:
    costs = {name: _costs(of_program) for name, of_program in samples.items()}
    found = {
        "programs": {name: _program(of_program) for name, of_program in samples.items()},
        "proxy_to_relay": _ratio(costs[PROXY], costs[RELAY]),
        "relay_to_itself": _ratio(costs[RELAY_AGAIN], costs[RELAY]),
    }
    if NGINX in costs:
        found["proxy_to_nginx"] = _ratio(costs[PROXY], costs[NGINX])
    return found


def _program(samples: list[Sample]) -> dict[str, float]:
    return {
        "cpu_us": round(median(_costs(samples)), 2),
        "per_second": round(median(sample.per_second for sample in samples), 1),
        "latency_p50_us": round(median(sample.latency_us["p50"] for sample in samples), 1),
        "latency_p99_us": round(median(sample.latency_us["p99"] for sample in samples), 1),
        "transit_p50_us": round(median(sample.transit_us["p50"] for sample in samples), 1),
        "transit_p99_us": round(median(sample.transit_us["p99"] for sample in samples), 1),
    }


def _costs(samples: list[Sample]) -> list[float]:
    return [sample.cpu_us for sample in samples]


def _ratio(above: list[float], below: list[float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in paired_ratio(above, below)._asdict().items()}


# --- for people


def markdown(found: Mapping[str, Any]) -> str:
    """Return the header and the table of ratios."""
    where = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    lines = [
        f"Measured on {found['date']} on {where['processors']} × {where['processor']}, Linux {where['kernel']}, "
        f"load average {where['load_average_before']} before the run.",
        f"{versions}; {where['compiler']}; bodies {found['bodies']}.",
        f"{found['rounds']} rounds in random order, all programs restarted and warmed up every "
        f"{found['rounds_per_start']} rounds, no request failed and no event was lost.",
        *([f"**Note:** {found['note']}"] if found["note"] else []),
        "",
        _ratio_table(found["cases"]),
        "",
        _share_table(found["translation"]),
    ]
    return "\n".join(lines) + "\n"


def full_markdown(found: Mapping[str, Any]) -> str:
    """Return everything: what results/latest.md holds."""
    memory = ", ".join(f"{name} {size} MB" for name, size in found["resident_mb"].items())
    parts = [
        "# Results\n",
        markdown(found),
        "## Throughput and latency\n\nThey depend on this machine and on what else it does: compare within one run "
        "only. Times are microseconds, medians over the rounds.\n",
        _speed_table(found["cases"]) + "\n",
        f"Memory in use at the end: {memory}.\n",
        "## Translation by itself\n",
        translation_table(found["translate"]) + "\n",
    ]
    return "\n".join(parts)


def translation_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows of translate.py as Markdown."""
    columns = ["what", "profile", "per", "CPU-µs, smallest", "CPU-µs, median", "rules that changed something"]
    return _table(columns, [_translation_row(row) for row in rows])


def _translation_row(row: Mapping[str, Any]) -> list[str]:
    costs = [f"{row[field]:.1f}" for field in ("smallest_us", "median_us")]
    return [row["what"], row["profile"], row["unit"], *costs, str(row["rules"])]


def _ratio_table(cases: Mapping[str, Any]) -> str:
    with_nginx = any("proxy_to_nginx" in case for case in cases.values())
    columns = ["case", "what", "per", "relay, CPU-µs", "proxy, CPU-µs", "proxy / relay", "relay / itself"]
    columns += ["nginx, CPU-µs", "proxy / nginx"] if with_nginx else []
    rows = []
    for name, case in cases.items():
        cost = {program: f"{figures['cpu_us']:.1f}" for program, figures in case["programs"].items()}
        row = [name, case["meaning"], case["unit"], cost[RELAY], cost[PROXY]]
        row += [_text(case["proxy_to_relay"]), _text(case["relay_to_itself"])]
        row += [cost[NGINX], _text(case["proxy_to_nginx"])] if with_nginx else []
        rows.append(row)
    return _table(columns, rows)


def _share_table(translation: Mapping[str, Any]) -> str:
    rows = [[name, f"{found['cpu_us']:.1f}", _text(found["share"])] for name, found in translation.items()]
    return _table(["case", "translation alone, CPU-µs per request", "share of the proxy's CPU"], rows)


def _speed_table(cases: Mapping[str, Any]) -> str:
    fields = ("latency_p50_us", "latency_p99_us", "transit_p50_us", "transit_p99_us")
    rows = [
        [name, program, f"{figures['per_second']:.0f}", *(_whole_us(figures[field]) for field in fields)]
        for name, case in cases.items()
        for program, figures in sorted(case["programs"].items())
    ]
    return _table(["case", "program", "requests/s", "answer p50", "answer p99", "event p50", "event p99"], rows)


def _whole_us(time_us: float) -> str:
    """Return a time as text; 0 means that the answer has no events."""
    return f"{time_us:.0f}" if time_us else "–"


def _text(ratio: Mapping[str, float]) -> str:
    return str(Ratio(**ratio))


def _table(columns: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows])


def save(found: dict[str, Any]) -> None:
    """Write results/latest.json, results/latest.md and the block of the README."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    (RESULTS / "latest.md").write_text(full_markdown(found))
    README.write_text(_BLOCK.sub(lambda _: markdown(found), README.read_text()))
