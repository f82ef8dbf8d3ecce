"""What was found, as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from benchmarks.figures import Ratio
from benchmarks.peers import PEERS
from benchmarks.report import Results, sections
from benchmarks.rounds import DIRECT, PROXY, RELAY, RELAY_AGAIN
from benchmarks.targets import TARGETS, Bound, Judgement, cheaper_peers, judge

#: Of an error that a peer ended with.
_LONGEST_ERROR: Final = 200

#: Of columns.
ORDER: Final = (
    PROXY,
    *(peer.name for peer in PEERS if not peer.is_slow),
    RELAY,
    RELAY_AGAIN,
    *(peer.name for peer in PEERS if peer.is_slow),
    DIRECT,
)

Cases = Mapping[str, Mapping[str, Any]]


def header(found: Mapping[str, Any]) -> str:
    """Return where, when and how a whole run was measured."""
    return "\n".join(
        [
            place(found["machine"]),
            f"`{found['command']}`, bodies {found['bodies']}: {found['rounds']} rounds in random order, all programs "
            f"restarted and warmed up every {found['rounds_per_start']} rounds.",
            *([f"**Note:** {found['note']}"] if found["note"] else []),
        ]
    )


def place(where: Mapping[str, Any]) -> str:
    """Return a sentence on the machine and one on the versions."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    return (
        f"Measured on {where.get('date', 'an unknown day')} at commit {where.get('commit', 'unknown')} on "
        f"{where['processors']} × {where['processor']}, Linux {where['kernel']}, load average "
        f"{where['load_average_before']} before the run; {versions}; {where['compiler']}."
    )


def programs_line(found: Mapping[str, Any]) -> str:
    """Return version, threads and memory of each program."""
    told = [
        f"{name} {each['version']}".rstrip() + f" ({each['threads']}, {each['resident_mb']:.0f} MB)"
        for name, each in found["programs"].items()
        if name not in (DIRECT, RELAY_AGAIN)
    ]
    return f"Programs, with their threads and memory at the end: {', '.join(told)}."


def whole_run(found: Mapping[str, Any]) -> str:
    """Return everything that a whole run found."""
    parts = [
        header(found),
        programs_line(found),
        ceiling(found),
        *absent_lines(found),
        "CPU-µs of each program for one request or one event, medians over the rounds:",
        cost_table(found["cases"]),
        "The proxy's cost divided by another's, in the same round, and between what 95% of resampled medians lie:",
        ratio_table(found["cases"]),
        loss_table(found["cases"]),
        *([share_table(found["translation"])] if found["translation"] else []),
        "Requests/s and times depend on this machine and on what else it does: compare within one run only. Times are "
        "microseconds, medians over the rounds; those of `direct` are the load generator's and the mock's own.",
        speed_table(found["cases"]),
        *(["Translation by itself:", translation_table(found["translate"])] if found["translate"] else []),
    ]
    return "\n\n".join(part for part in parts if part)


def absent_lines(found: Mapping[str, Any]) -> list[str]:
    """Return a line for each program that could not be measured, with its error."""
    return [f"**Not measured: {name}.** {_short(text)}" for name, text in found["absent"].items()]


def _short(text: str) -> str:
    words = " ".join(text.split()).replace("|", "/").replace("<", "‹")
    return words if len(words) <= _LONGEST_ERROR else f"{words[:_LONGEST_ERROR]}…"


def cost_table(cases: Cases, without: Sequence[str] = (DIRECT, RELAY_AGAIN)) -> str:
    """Return CPU-microseconds with a column for each program, "fails" where it lost something in every round."""
    names = [name for name in _program_names(cases) if name not in without]
    rows = [
        [name, case["meaning"], case["unit"], *(_cost(case, program) for program in names)]
        for name, case in cases.items()
    ]
    return table(["case", "what", "per", *names], rows)


def _cost(case: Mapping[str, Any], program: str) -> str:
    if program in case["programs"]:
        return _digits(case["programs"][program]["cpu_us"])
    return "fails" if program in case["lost"] else "–"


def _digits(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"


def ratio_table(cases: Cases) -> str:
    """Return the proxy's ratio to every other program, and the relay's to itself."""
    names = [name for name in _program_names(cases) if name not in (DIRECT, RELAY_AGAIN, PROXY)]
    rows = [
        [name, *(_text(case["proxy_to"].get(other)) for other in names), _text(case["relay_to_itself"])]
        for name, case in cases.items()
    ]
    return table(["case", *(f"proxy / {name}" for name in names), "relay / itself"], rows)


def _program_names(cases: Cases) -> list[str]:
    """Return all programs, in the order of `ORDER`."""
    found = {name for case in cases.values() for name in (*case["programs"], *case["lost"])}
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def loss_table(cases: Cases) -> str:
    """Return what was lost, by case and program, or one sentence when nothing was."""
    rows = [
        [name, program, ", ".join(f"{cause.replace('_', ' ')}: {count}" for cause, count in causes.items())]
        for name, case in cases.items()
        for program, causes in case["lost"].items()
    ]
    if not rows:
        return "No request failed and no event was lost, in any program."
    return "Answers and events that were lost; all others are whole:\n\n" + table(["case", "program", "lost"], rows)


def share_table(translation: Mapping[str, Any]) -> str:
    rows = [[name, f"{found['cpu_us']:.1f}", _text(found["share"])] for name, found in translation.items()]
    return table(["case", "translation alone, CPU-µs per request", "share of the proxy's CPU"], rows)


def speed_table(cases: Cases) -> str:
    """Return requests a second, and times."""
    fields = ("latency_p50_us", "latency_p99_us", "first_event_p50_us", "transit_p50_us", "transit_p99_us")
    rows = [
        [name, program, _digits(figures["per_second"]), *(_whole_us(figures[field]) for field in fields)]
        for name, case in cases.items()
        for program, figures in sorted(case["programs"].items())
    ]
    columns = ["case", "program", "requests/s", "answer p50", "answer p99", "first event p50", "event p50", "event p99"]
    return table(columns, rows)


def _whole_us(time_us: float) -> str:
    """Return a time as text; 0 means that the answer has no events."""
    return f"{time_us:.0f}" if time_us else "–"


def translation_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows of translate.py."""
    columns = ["what", "profile", "per", "CPU-µs, smallest", "CPU-µs, median", "rules that changed something"]
    return table(columns, [_translation_row(row) for row in rows])


def _translation_row(row: Mapping[str, Any]) -> list[str]:
    costs = [f"{row[field]:.1f}" for field in ("smallest_us", "median_us")]
    return [row["what"], row["profile"], row["unit"], *costs, str(row["rules"])]


# --- targets


def target_table(kept: Results) -> str:
    """Return each target with its figures, limits and verdicts."""
    rows = []
    for target in TARGETS:
        must, goal = judge(target.must, kept), judge(target.goal, kept) if target.goal else None
        rows.append([target.work, _measured(must), str(target.must), str(must), *_goal(target.goal, must, goal)])
    return table(["work", "measured", "must", "verdict", "goal", "verdict"], rows)


def _measured(judgement: Judgement) -> str:
    if judgement.figure is None:
        return "–"
    return f"{judgement.figure}{f' {judgement.bound.unit}' if judgement.bound.unit else ''}"


def _goal(bound: Bound | None, must: Judgement, goal: Judgement | None) -> list[str]:
    """A goal may be for another figure than the must: then that is said too."""
    if bound is None or goal is None:
        return ["–", "–"]
    other = f"{_measured(goal)}: " if goal.figure and goal.figure != must.figure else ""
    return [str(bound), f"{other}{goal}"]


def cheaper_table(found: Mapping[str, Any]) -> str:
    """Return a row for each case in which other programs are cheaper than the proxy, with how many times it costs."""
    others: dict[str, list[str]] = {}
    for case, other, ratio in cheaper_peers(found):
        others.setdefault(case, []).append(f"{other} {ratio['median']:.2f}")
    if not others:
        return "In no case."
    return table(
        ["case", "cheaper, and how many times its cost the proxy has"],
        [[case, ", ".join(told)] for case, told in others.items()],
    )


def ceiling(found: Mapping[str, Any]) -> str:
    """Return what load generator and mock do without a program between them, for two cases."""
    told = [
        f"{each['per_second'] * (case['pieces'] or 1):,.0f} {case['unit']}s/s at "
        f"{_digits(each['cpu_us'])} CPU-µs of the mock ({name})"
        for name in ("short", "text-burst")
        if (case := found["cases"].get(name)) and (each := case["programs"].get(DIRECT))
    ]
    return f"The ceiling, load straight at the mock, both on one processor: {'; '.join(told)}." if told else ""


def section(name: str, found: Mapping[str, Any]) -> str:
    """Return the table of a results/NAME.json of another module."""
    rows = found["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    return "\n\n".join(
        [f"## {name.capitalize()}", f"{place(found['machine'])} `{found['command']}`", table(columns, cells)]
    )


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return str(value)


def everything(kept: Results, titles: Mapping[str, str]) -> str:
    """Return all that is kept, whole runs first: what results/latest.md holds."""
    parts = ["# Results", "## Targets", target_table(kept)]
    for name, title in titles.items():
        if name in kept:
            parts += [f"## {title}", f"![Chart]({name}.svg)", whole_run(kept[name])]
    parts += [section(name, found) for name, found in sections(kept).items()]
    return "\n\n".join(parts) + "\n"


# --- cells


def _text(ratio: Mapping[str, float] | None) -> str:
    return str(Ratio(**ratio)) if ratio else "–"


def table(columns: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *rows])
