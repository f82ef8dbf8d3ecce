"""What the proxy is meant to reach, as a table; `judge` says of each row how far it is."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from benchmarks.guard import is_quiet
from benchmarks.report import BESIDE_PEERS, LATEST, Results
from benchmarks.rounds import NGINX, PROXY


class Figure(NamedTuple):
    """
    What was measured, and the ends of its interval, the same as `value` where none is known.

    `blur` is the factor by which the case's noise may have moved it: 1 when the relay was equal to itself.
    """

    value: float
    low: float
    high: float
    blur: float = 1

    def __str__(self) -> str:
        text = number(self.value)
        return text if self.low == self.high else f"{text} ({number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
    """Return it as text: counts without a fraction."""
    return f"{value:,.0f}" if value.is_integer() or abs(value) >= 100 else f"{value:.2f}"


Measure = Callable[[Results], Figure | None]


class Side(Enum):
    """On which side of its limit a figure should be."""

    AT_MOST = "≤"
    AT_LEAST = "≥"


class Bound(NamedTuple):
    """A limit, the figure that it holds for, and what that is."""

    what: str
    limit: float
    measure: Measure
    side: Side = Side.AT_MOST
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.side.value} {self.limit:g}{f' {self.unit}' if self.unit else ''} {self.what}".rstrip()


class Target(NamedTuple):
    """One row: what must be reached, and what is hoped for."""

    work: str
    must: Bound
    goal: Bound | None = None


class Verdict(Enum):
    """What is said of a bound."""

    MET = "met"
    MISSED = "missed"
    TOO_NOISY = "too noisy to say"
    NOT_MEASURED = "not measured"


class Judgement(NamedTuple):
    """A bound, its figure if there is one, and the verdict."""

    bound: Bound
    figure: Figure | None
    verdict: Verdict

    def __str__(self) -> str:
        if self.figure is None or self.verdict is not Verdict.MISSED:
            return self.verdict.value
        by = abs(self.figure.value - self.bound.limit)
        share = f" ({by / self.bound.limit:.0%})" if self.bound.limit else ""
        unit = f" {self.bound.unit}" if self.bound.unit else ""
        return f"**missed** by {number(by)}{unit}{share}"


# --- how a figure is computed


def cost(case: str, other: str) -> Measure:
    """The ratio of the proxy's CPU time to another's, from the run beside peers, or else from the usual one."""
    return lambda kept: _from_case(kept, case, "proxy_to", other)


def speed(case: str, other: str) -> Measure:
    """The ratio of the requests a second in a closed loop."""
    return lambda kept: _from_case(kept, case, "throughput_to", other)


def _from_case(kept: Results, case: str, ratio: str, other: str) -> Figure | None:
    for name in (BESIDE_PEERS, LATEST):
        found = kept.get(name, {}).get("cases", {}).get(case, {})
        if other in found.get(ratio, {}):
            median, low, high = (found[ratio][other][end] for end in ("median", "low", "high"))
            itself = found["relay_to_itself"]
            return Figure(median, low, high, 1 if is_quiet(itself) else max(itself["high"], 1 / itself["low"]))
    return None


def row(section: str, field: str, *, per: float = 1, **where: Any) -> Measure:
    """One field of the row of results/SECTION.json in which `where` holds, divided by `per`."""

    def measure(kept: Results) -> Figure | None:
        for each in kept.get(section, {}).get("rows", ()):
            if all(each.get(key) == value for key, value in where.items()) and each.get(field) is not None:
                return Figure(*[each[field] / per] * 3)
        return None

    return measure


def compared(section: str, field: str) -> Measure:
    """One field of what a section says of its rows together, under `compared`."""

    def measure(kept: Results) -> Figure | None:
        value = kept.get(section, {}).get("compared", {}).get(field)
        return None if value is None else Figure(value, value, value)

    return measure


def less(first: Measure, second: Measure) -> Measure:
    """The difference of two figures."""

    def measure(kept: Results) -> Figure | None:
        above, below = first(kept), second(kept)
        return Figure(*[above.value - below.value] * 3) if above and below else None

    return measure


def failures(kept: Results) -> Figure | None:
    """The lost, cut, wrong and doubled answers of the proxy in everything that is kept; a run ends at its first."""
    counts = [
        each.get("failed", 0)
        for found in kept.values()
        for each in found.get("rows", ())
        if each.get("program", PROXY) == PROXY
    ]
    return Figure(*[float(sum(counts))] * 3) if kept else None


def _added(field: str, what: str, program: str) -> Measure:
    return row("latency", field, per=1000, what=what, program=program)


def _beside_nginx(field: str, what: str) -> Measure:
    return less(_added(field, what, PROXY), _added(field, what, NGINX))


_ROUTER: Final = "vllm-router"
_STEADY, _FIRST = "whole answer, 500/s", "first event"

TARGETS: Final = (
    Target(
        "CPU, whole answer, 0.5 KB request",
        Bound("× vllm-router", 1.5, cost("short", _ROUTER)),
        Bound("× vllm-router", 0.8, cost("short", _ROUTER)),
    ),
    Target(
        "CPU, whole answer, 63 KB agent request, all rules, next turn of a known history",
        Bound("× vllm-router", 0.7, cost("agentic-next", _ROUTER)),
        Bound("× vllm-router", 0.4, cost("agentic-next", _ROUTER)),
    ),
    Target(
        "CPU, whole answer, 63 KB agent request, all rules, nothing seen before",
        Bound("× vllm-router", 0.7, cost("agentic-new", _ROUTER)),
        Bound("× vllm-router", 0.4, cost("agentic-new", _ROUTER)),
    ),
    Target(
        "CPU, whole answer, 1 MB request, all rules",
        Bound("× vllm-router", 1.0, cost("huge", _ROUTER)),
        Bound("× vllm-router", 0.6, cost("huge", _ROUTER)),
    ),
    Target(
        "CPU per event, 500 streams × 50 events/s",
        Bound("× vllm-router", 1.2, cost("paced-500", _ROUTER)),
        Bound("× vllm-router", 0.8, cost("paced-500", _ROUTER)),
    ),
    Target(
        "CPU per event, burst of text",
        Bound("× nginx", 2, cost("text-burst", NGINX)),
        Bound("× nginx", 1.2, cost("text-burst", NGINX)),
    ),
    Target(
        "CPU per event, burst of tool-call deltas",
        Bound("× nginx", 2.5, cost("call-burst", NGINX)),
        Bound("× nginx", 1.5, cost("call-burst", NGINX)),
    ),
    Target(
        "Added latency at 500 requests/s, p50",
        Bound("", 0.8, _added("added_p50_us", _STEADY, PROXY), unit="ms"),
        Bound("above nginx", 0.2, _beside_nginx("added_p50_us", _STEADY), unit="ms"),
    ),
    Target(
        "Added latency at 500 requests/s, p99",
        Bound("", 8, _added("added_p99_us", _STEADY, PROXY), unit="ms"),
        Bound("above nginx", 2, _beside_nginx("added_p99_us", _STEADY), unit="ms"),
    ),
    Target(
        "Added time to the first event, 20 streams, p50",
        Bound("", 1.5, _added("added_p50_us", _FIRST, PROXY), unit="ms"),
        Bound("above nginx", 0.5, _beside_nginx("added_p50_us", _FIRST), unit="ms"),
    ),
    Target(
        "Requests/s of one processor, 0.5 KB",
        Bound("× nginx", 0.12, row("throughput", "to_nginx", driver="load", program=PROXY), Side.AT_LEAST),
        Bound("× vllm-router", 1, speed("short", _ROUTER), Side.AT_LEAST),
    ),
    Target(
        "Memory of one worker, idle",
        Bound("", 45, row("memory", "idle_rss_mb", program=PROXY), unit="MB"),
        Bound("", 35, row("memory", "idle_rss_mb", program=PROXY), unit="MB"),
    ),
    Target(
        "Memory of one worker, 500 streams",
        Bound("", 70, row("memory", "streams_rss_mb", program=PROXY, streams=500), unit="MB"),
        Bound("", 50, row("memory", "streams_rss_mb", program=PROXY, streams=500), unit="MB"),
    ),
    Target(
        "Loop lag, 200 streams beside 50 requests/s of 1 MB, p99",
        Bound("", 20, row("lag", "lag_p99_ms", program=PROXY, large_per_second=50), unit="ms"),
    ),
    Target(
        "Requests/s of two workers that share two processors with mock and load",
        Bound("× one", 1.9, compared("workers", "ratio"), Side.AT_LEAST),
    ),
    Target(
        "Requests/s of two workers with a processor each, from their cost",
        Bound("× one", 1.9, compared("workers", "by_cost"), Side.AT_LEAST),
    ),
    Target("Lost, cut or doubled answers, in all runs", Bound("", 0, failures)),
)


def judge(bound: Bound, kept: Results) -> Judgement:
    """
    Compare a bound with what is kept.

    In a case that was not quiet nothing is said when the limit lies in the interval, made wider by the noise: a figure
    that is far from its limit can be judged all the same.
    """
    figure = bound.measure(kept)
    if figure is None:
        return Judgement(bound, None, Verdict.NOT_MEASURED)
    if figure.blur > 1 and figure.low / figure.blur < bound.limit < figure.high * figure.blur:
        return Judgement(bound, figure, Verdict.TOO_NOISY)
    is_met = figure.value <= bound.limit if bound.side is Side.AT_MOST else figure.value >= bound.limit
    return Judgement(bound, figure, Verdict.MET if is_met else Verdict.MISSED)


def cheaper_peers(found: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float]]]:
    """Return (case, program, ratio) wherever another program needs less CPU time than the proxy, the worst first."""
    rows = [
        (case, other, ratio)
        for case, of_case in found.get("cases", {}).items()
        for other, ratio in of_case["proxy_to"].items()
        if ratio["median"] > 1
    ]
    return sorted(rows, key=lambda each: -each[2]["median"])
