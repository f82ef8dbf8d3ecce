"""
What each client request becomes, per profile: tests/cases/request.

NAME.json           what the client sends
NAME.PROFILE.json   what goes upstream; where a profile has no file of its own, it gets the first profile's
rules.txt           one line per case and profile: the rules that say they changed something, in order

A new case is a NAME.json, a reading of the specification, and the files that say what it must become.
"""

import json
from pathlib import Path

import pytest

from proxy.errors import InvalidRequest
from proxy.translate.profile import build_profile
from proxy.translate.request import translate_request

CASES = Path(__file__).parents[1] / "cases" / "request"
PROFILES = ("vllm-mistral-tokenizer", "vllm-hf-template", "mistral-api")
FILES = {path.name.removesuffix(".json") for path in CASES.glob("*.json")}
NAMES = sorted(name for name in FILES if "." not in name)
RULES = {
    (name, profile): [rule for rule in rules if rule != "-"]
    for name, profile, *rules in map(str.split, (CASES / "rules.txt").read_text(encoding="utf-8").splitlines())
}

every_case = pytest.mark.parametrize("name", NAMES)
every_profile = pytest.mark.parametrize("profile", PROFILES)


def sent(name):
    return (CASES / f"{name}.json").read_bytes()


def expected(name, profile):
    path = CASES / f"{name}.{profile}.json"
    if not path.exists():
        path = CASES / f"{name}.{PROFILES[0]}.json"
    return json.loads(path.read_bytes())


def in_order(value):
    """Text that differs when only the order of keys does: prompts are cached by their bytes."""
    return json.dumps(value, indent=1, ensure_ascii=False)


@every_profile
@every_case
def test_a_request_becomes_what_its_case_says(name, profile):
    translated = translate_request(sent(name), build_profile(profile))

    assert in_order(json.loads(translated.body)) == in_order(expected(name, profile))
    assert list(translated.rules_applied) == RULES[name, profile]


@every_profile
@every_case
def test_rules_find_nothing_to_do_on_their_own_output(name, profile):
    once = translate_request(sent(name), build_profile(profile))

    twice = translate_request(once.body, build_profile(profile))

    assert twice.rules_applied == ()
    assert twice.body == once.body


@every_case
def test_passthrough_sends_the_bytes_as_they_came(name):
    translated = translate_request(sent(name), build_profile("passthrough"))

    assert translated.body == sent(name)
    assert translated.rules_applied == ()


@every_profile
@every_case
def test_strict_mode_refuses_exactly_what_a_rule_would_change(name, profile):
    rules = RULES[name, profile]
    if not rules:
        assert translate_request(sent(name), build_profile(profile), strict=True).rules_applied == ()
        return
    with pytest.raises(InvalidRequest) as refused:
        translate_request(sent(name), build_profile(profile), strict=True)

    assert any(refused.value.message.startswith(f"Refused in strict mode by {rule}: ") for rule in rules)
    assert path_exists(json.loads(sent(name)), refused.value.param)


def path_exists(request, param):
    """Whether `messages[3].role` is a place in the request that the client sent."""
    value = request
    for step in param.replace("[", ".[").split("."):
        key = int(step[1:-1]) if step.startswith("[") else step
        if isinstance(value, dict) and key not in value:
            return step == "content"  # what is absent can be what is wrong
        value = value[key]
    return True


def test_every_file_belongs_to_a_case():
    profiles = {name.partition(".")[::2] for name in FILES if "." in name}

    assert {name for name, _ in profiles} == set(NAMES)
    assert {profile for _, profile in profiles} == set(PROFILES)
    assert {name for name, profile in profiles if profile == PROFILES[0]} == set(NAMES)
    assert set(RULES) == {(name, profile) for name in NAMES for profile in PROFILES}
