"""
Write what is rendered from results/*.json anew: the README's section, results/latest.md and the charts.

    python -m benchmarks.readme

Nothing is measured. A test holds the README's section equal to what `performance` returns.
"""

import re
import sys
from pathlib import Path
from typing import Final

from benchmarks import chart, tables
from benchmarks.programs import ROOT
from benchmarks.report import BESIDE_PEERS, LATEST, RESULTS, Results, load_all, sections

README: Final = ROOT / "README.md"
#: The whole runs, and what their charts and tables are called.
TITLES: Final = {BESIDE_PEERS: "Beside other proxies", LATEST: "Beside a bare relay"}
_BLOCK: Final = re.compile(r"(?<=<!-- performance -->\n).*(?=<!-- end of performance -->)", re.DOTALL)

_COMMANDS: Final = {
    BESIDE_PEERS: ("make bench-peers", "installs the other proxies and measures all of them"),
    LATEST: ("make bench", "measures the proxy beside a relay that only copies, and nginx"),
    "instructions": ("make bench-instructions", "counts instructions, which needs no quiet machine"),
}

_NOT_MEASURED: Final = (
    "A real model server, which takes seconds where the proxy takes microseconds.",
    "TLS, slow networks, clients far away: everything talks over the loopback device.",
    "Machines with more than two processors; the peers run with one processor each, as the proxy does.",
    "What the other proxies do besides forwarding: none of them repairs requests for Mistral models, and the features "
    "that they have and this one lacks are idle.",
)


def performance(kept: Results) -> str:
    """Return the README's section: what was reached, what it costs beside others, and where it loses."""
    name = next((name for name in TITLES if name in kept), None)
    if name is None:
        return "Nothing has been measured yet: `make bench`.\n"
    main = kept[name]
    parts = [
        "CPU-µs are microseconds of processor time, user and system, that a program needs for one request, or for one "
        "event of a stream; they survive noise, requests per second and latencies do not. Ratios are medians over "
        "rounds in which all programs took turns on one processor, with a 95% bootstrap interval. Translation, request "
        "ids, the log and all else that is on by default was on.",
        tables.header(main),
        tables.programs_line(main),
        tables.ceiling(main),
        "**What it is meant to reach:**",
        tables.target_table(kept),
        f"**CPU-µs beside others** ([as a chart](benchmarks/results/{name}.svg)):",
        tables.cost_table(main["cases"]),
        *tables.absent_lines(main),
        tables.loss_table(main["cases"]),
        "**Where it loses:** in these cases another program is cheaper; most of them only copy bytes.",
        tables.cheaper_table(main),
        "**What was not measured:**",
        "\n".join(f"- {line}" for line in _NOT_MEASURED),
        _reproduction(kept),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _reproduction(kept: Results) -> str:
    """Say how each result that is kept was made."""
    runs = [f"`{command}` {does}" for name, (command, does) in _COMMANDS.items() if name in kept]
    others = [f"`{found['command']}`" for name, found in sections(kept).items() if name not in _COMMANDS]
    lines = [f"**To reproduce it:** {'; '.join(runs)}."]
    if others:
        lines.append(f"The other figures: {', '.join(others)}.")
    lines.append(
        "All tables are in [benchmarks/results/latest.md](benchmarks/results/latest.md), the data is beside it, and "
        "[benchmarks/README.md](benchmarks/README.md) describes the method."
    )
    return "\n".join(lines)


def write(readme: Path = README, folder: Path = RESULTS) -> None:
    """Render everything that is kept in `folder`, and the section of `readme`."""
    kept = load_all(folder)
    for name, title in TITLES.items():
        if name in kept:
            (folder / f"{name}.svg").write_text(chart.svg(kept[name], f"{title}: CPU time of each program"))
    (folder / "latest.md").write_text(tables.everything(kept, TITLES))
    readme.write_text(_BLOCK.sub(lambda _: performance(kept), readme.read_text()))


if __name__ == "__main__":
    write()
    sys.exit(0)
