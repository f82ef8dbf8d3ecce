"""The README says what the code does: its tables are rendered from the code, and nothing documented is dead."""

import ast
import importlib
import json
import pkgutil
import re
from functools import partial
from pathlib import Path

import pytest

import proxy.translate.profile
from benchmarks import outcome
from proxy.cli import ExitCode
from proxy.config import OPTIONS, SETTINGS, Backend, Grant, Issuer, ModelSettings, Tier, rows_of
from proxy.edge.routes import LIVE, OPEN, OPERATORS, READY
from proxy.errors import ProxyError
from proxy.fronts.messages_request import MESSAGES_RULES
from proxy.fronts.responses_rules import RESPONSES_RULES
from proxy.observe.exposition import PREFIX
from proxy.observe.genai import GENAI
from proxy.observe.layout import Kind
from proxy.observe.processes import ABOUT
from proxy.process.serve import new_metrics
from proxy.translate.answer_rules import ANSWER_RULES
from proxy.translate.capabilities import DECISIONS, PROBES
from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, PROFILE_NAMES, Choice, build_profile
from proxy.translate.quirks import LIBRARY_FLOORS, LIBRARY_QUIRKS, VLLM_QUIRKS
from proxy.values import in_words

PACKAGE = Path(proxy.__file__).parent
README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}


# --- tables as they should stand in the README


def code(text):
    return f"`{text}`" if text else ""


def row(*cells):
    return f"| {' | '.join(cells)} |"


def settings_table():
    head = [row("Key", "Environment", "Default", "Value", "Meaning"), row(*["---"] * 5)]
    for setting in SETTINGS.values():
        keys, variables = "<br>".join(map(code, setting.keys)), "<br>".join(map(code, setting.variables))
        head.append(row(keys, variables, code(setting.default_text), setting.expected, setting.about.doc))
    return "\n".join(head)


def record_table(record):
    head = [row("Key", "Default", "Value", "Meaning"), row(*["---"] * 4)]
    for field in rows_of(record).values():
        head.append(row(code(field.name), code(field.default_text), field.expected, field.about.doc))
    return "\n".join(head)


def text_of(value):
    """A value as one would write it behind `--option NAME=`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return ",".join(value) if isinstance(value, tuple) else str(value)


def option_rows():
    """The first cells of every option's row: name, default, values. Its meaning is written by hand."""
    return {
        option.name: row(code(option.name), code(text_of(option.default)), in_words(option.kind))
        for option in OPTIONS.values()
    }


def profiles_table():
    head = [row("Profile", "Options that differ from the defaults"), row(*["---"] * 2)]
    for name in PROFILE_NAMES:
        options = build_profile(name).options
        changed = [option for option in OPTIONS.values() if getattr(options, option.name) != option.default]
        cells = (code(f"{option.name}={text_of(getattr(options, option.name))}") for option in changed)
        head.append(row(code(name), ", ".join(cells) or "none"))
    return "\n".join(head)


def request_rules_table():
    head = [row("Rule", "What it does", "When"), row(*["---"] * 3)]
    rules = {}
    for entry in (*MESSAGE_RULES, *CHAT_RULES):
        choices = entry.rules.items() if isinstance(entry, Choice) else [("", entry)]
        for value, rule in choices:
            when = code(f"{entry.option}={text_of(value)}") if value else "always"
            rules.setdefault(rule, []).append(when)
    return "\n".join(
        [*head, *(row(code(rule.__name__), first_line(rule), ", ".join(when)) for rule, when in rules.items())]
    )


def front_rules_table(rules):
    head = [row("Rule", "What it does"), row(*["---"] * 2)]
    return "\n".join([*head, *(row(code(rule.__name__), first_line(rule)) for rule in rules)])


def answer_rules_table():
    head = [row("Rule", "What it does"), row(*["---"] * 2)]
    return "\n".join([*head, *(row(code(name), doc) for name, doc in ANSWER_RULES.items())])


def probes_table():
    head = [row("Probe", "Asks for", "Where all are taken", "Where one is not"), row(*["---"] * 4)]
    decided = {name: decision for decision in DECISIONS for name in decision.probes}
    for probe in PROBES:
        cells = ["", ""]
        if decision := decided.get(probe.name):
            where = {"hf": " (template)", "mistral": " (Mistral tokenizer)", None: ""}[decision.mode]
            values = (decision.tolerated, decision.refused)
            cells = [code(f"{decision.option}={text_of(value)}") + where for value in values]
        head.append(row(code(probe.name), probe.asks, *cells))
    return "\n".join(head)


def versions_of(quirk):
    parts = [f"{sign} {'.'.join(map(str, v))}" for sign, v in (("from", quirk.since), ("before", quirk.before)) if v]
    return ", ".join(parts) or "all"


def quirk_rows(quirks):
    for quirk in quirks:
        seen_by = ", ".join(code(f"{k}={text_of(v)}") for k, v in quirk.options.items())
        seen_by = seen_by or ", ".join(map(code, filter(None, quirk.seen_by.split(", "))))
        renders = {"hf": "template", "mistral": "Mistral tokenizer", None: "both"}[quirk.mode]
        yield versions_of(quirk), renders, quirk.fact, seen_by, quirk.source


def vllm_quirks_table():
    head = [row("vLLM", "Prompt made by", "What it does", "What sees to it", "Source"), row(*["---"] * 5)]
    return "\n".join([*head, *(row(*cells) for cells in quirk_rows(VLLM_QUIRKS))])


def library_quirks_table():
    head = [row("mistral-common", "What it does", "What sees to it", "Source"), row(*["---"] * 4)]
    return "\n".join([*head, *(row(cells[0], *cells[2:]) for cells in quirk_rows(LIBRARY_QUIRKS))])


def library_floors_table():
    head = [row("vLLM", "mistral-common, at least"), row(*["---"] * 2)]
    return "\n".join([*head, *(row(*pair) for pair in LIBRARY_FLOORS)])


#: Labels whose values are too many for a table, or come with the configuration.
MANY = ("route", "rule", "replica")


def labels_of(labels):
    def told(name, values):
        return code(name) if name in MANY else f"{code(name)}: {', '.join(map(code, values))}"

    return "; ".join(told(*label) for label in labels.items())


def metrics_table():
    head = [row("Metric", "Type", "Labels", "Meaning"), row(*["---"] * 4)]
    metrics = new_metrics()
    for family in (*metrics.told()[0], *metrics.replicas.told()[0]):
        name = PREFIX + family.name + ("_total" if family.kind is Kind.COUNTER else "")
        head.append(row(code(name), family.kind.name.lower(), labels_of(family.labels), family.about))
    head.append(row(code(f"{PREFIX}build_info"), "gauge", "`version`; `python`", "1, with what runs here."))
    for name, about in ABOUT.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        head.append(row(code(name), kind, "`process`: `supervisor`, `1`, `2`, …", about))
    return "\n".join(head)


def genai_table():
    head = [row("Metric", "More labels", "Meaning"), row(*["---"] * 3)]
    more = {"durations": "`error_type`", "tokens": "`gen_ai_token_type`: `input`, `output`"}
    return "\n".join([*head, *(row(code(told.name), more.get(told.kept, ""), told.about) for told in GENAI)])


def scrape_table():
    results = PACKAGE.parent / "benchmarks" / "results" / "scrape.json"
    return outcome.table(json.loads(results.read_text(encoding="utf-8"))["rows"])


def first_line(rule):
    return rule.__doc__.strip().splitlines()[0]


TABLES = {
    "settings": settings_table,
    "backends": partial(record_table, Backend),
    "models": partial(record_table, ModelSettings),
    "tiers": partial(record_table, Tier),
    "issuers": partial(record_table, Issuer),
    "grants": partial(record_table, Grant),
    "probes": probes_table,
    "what versions of vLLM do": vllm_quirks_table,
    "what versions of mistral-common do": library_quirks_table,
    "which mistral-common a vLLM has": library_floors_table,
    "profiles": profiles_table,
    "rules of the request": request_rules_table,
    "rules of the Messages API": partial(front_rules_table, MESSAGES_RULES),
    "rules of the answer": answer_rules_table,
    "rules of the Responses API": partial(front_rules_table, RESPONSES_RULES),
    "metrics": metrics_table,
    "OpenTelemetry's metrics": genai_table,
    "what a scrape takes": scrape_table,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_stands_in_the_readme_as_the_code_has_it(name):
    expected = TABLES[name]()

    missing = [line for line in expected.splitlines() if line not in README]
    assert missing == []
    assert expected in README, "every row is there, but the table has other rows too, or another order"


def test_every_option_is_in_the_readme_with_its_default_and_values_and_a_meaning():
    missing = [
        start for start in option_rows().values() if not re.search(re.escape(start) + r" \S[^|\n]+ \|\n", README)
    ]

    assert missing == []


def test_the_example_environment_has_every_variable_with_its_default():
    example = (PACKAGE.parent / ".env.example").read_text(encoding="utf-8")
    expected = [f"#{name}={setting.default_text}" for setting in SETTINGS.values() for name in setting.variables]

    assert re.findall(r"^#\w+=.*$", example, re.MULTILINE) == expected


@pytest.mark.parametrize("exit_code", ExitCode, ids=lambda exit_code: exit_code.name)
def test_every_exit_code_is_in_the_readme(exit_code):
    assert re.search(rf"^\| {code(str(exit_code.value))} \| \S[^|\n]+ \|$", README, re.MULTILINE)


# --- errors


def error_classes(base=ProxyError):
    return {base}.union(*map(error_classes, base.__subclasses__()))


for module in pkgutil.walk_packages([str(PACKAGE)], "proxy."):  # classes exist once their modules are imported
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
ERRORS = sorted(
    (error for error in error_classes() if error.__module__.startswith("proxy.")), key=lambda error: error.__name__
)


def error_codes():
    """Every code of our own: the classes', those given where an error is raised, those a function `_code` returns."""
    codes = {error.code for error in ERRORS}
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.keyword) and node.arg == "code":
            codes.add(getattr(node.value, "value", None))
        elif isinstance(node, ast.FunctionDef) and node.name == "_code":
            codes.update(getattr(end.value, "value", None) for end in ast.walk(node) if isinstance(end, ast.Return))
    return {found for found in codes if isinstance(found, str)}


def test_every_error_code_is_in_the_readme_with_a_meaning():
    assert [name for name in sorted(error_codes()) if not re.search(rf"\| {code(name)} \| \S[^\n]+ \|\n", README)] == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_is_documented_with_its_status(error):
    line = next((line for line in README.splitlines() if line.startswith(f"| {code(error.code)} |")), "")

    assert str(error.status) in line


# --- nothing documented is dead


def test_every_setting_is_read_outside_its_own_module():
    read = set()
    for name, tree in TREES.items():
        if name not in ("config/settings.py", "config/sources.py"):
            read |= attributes_of(tree, "config")

    assert set(SETTINGS) - read == set()


def test_every_option_is_read_by_a_rule_or_picks_one():
    read = {entry.option for entry in (*MESSAGE_RULES, *CHAT_RULES) if isinstance(entry, Choice)}
    for name, tree in TREES.items():
        if name != "translate/options.py":
            read |= attributes_of(tree, "options")

    assert set(OPTIONS) - read == set()


def attributes_of(tree, owner):
    """The attributes read from anything called `owner`: `config.port`, `self._config.port`, `edge.config.port`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            holder = getattr(node.value, "id", getattr(node.value, "attr", ""))
            if holder.lstrip("_") == owner:
                names.add(node.attr)
    return names


def test_the_routes_that_need_no_key_are_named():
    text = README.partition("\n## Authentication\n")[2].partition("\n### Keys\n")[0]
    named = set(re.findall(r"`(/[^`]*)`", text))
    files = {path for path in OPEN if "/assets/" in path}

    assert named - OPERATORS == OPEN - files - {*LIVE, *READY}
    assert named >= OPERATORS
