"""
What the answers of /tokenize mean for the profile `auto`.

tests/cases/probes.json holds what a live vLLM 0.32.0 with mistral-common 1.12.0 answered, per mode and tokenizer: the
number of tokens, or the text of a 400.
"""

import json
from pathlib import Path

import msgspec
import pytest

from proxy.translate.capabilities import DECISIONS, PROBES, AutoProfiles, Findings, findings_of, may_ask, overrides_of
from proxy.translate.lessons import LESSONS
from proxy.translate.options import Options
from proxy.translate.profile import UNPROBED, build_profile
from proxy.translate.request import translate_request

RECORDED = json.loads((Path(__file__).parents[1] / "cases" / "probes.json").read_text(encoding="utf-8"))
NAMES = [probe.name for probe in PROBES]
HF = "vllm-hf-template"

ALTERNATION = (
    "After the optional system message, conversation roles must alternate user and assistant roles except for"
    " tool calls and results."
)
OLD_LAST = (
    "Expected last role User or Tool (or Assistant with prefix or continue_final_message set to True) for serving"
    " but got assistant"
)
# mistral-common 1.8.8 behind vLLM 0.11, tokenizer v13: what the texts and the bounds of A.1 and its fact 1 say.
STRICT_LIBRARY = RECORDED["mistral-v13"] | {
    "user_after_tool": "Unexpected role 'user' after role 'tool'",
    "short_id": "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
    "strict_tool": "1 validation error for Tool\nfunction.strict\n  Extra inputs are not permitted",
    "extra_tool_key": "1 validation error for Tool\ncache_control\n  Extra inputs are not permitted",
    "last_assistant": OLD_LAST,
}
# The template published with Devstral and Ministral 2512: users and call-free assistants take turns.
STRICT_TEMPLATE = RECORDED["hf-v13"] | {
    **dict.fromkeys(["user_after_tool", "user_twice", "assistant_twice"], ALTERNATION),
    **dict.fromkeys(["system_twice", "late_system", "system_after_user", "assistant_after_system"], ALTERNATION),
    "system_alone": ALTERNATION,
}


def replies_of(answers):
    """Replies as vLLM 0.32 sends them: a count, or the text of a refusal."""
    return {name: tokens(answer) if isinstance(answer, int) else refusal(answer) for name, answer in answers.items()}


def tokens(count):
    return 200, json.dumps({"count": count, "max_model_len": 32768, "tokens": [1] * count, "token_strs": None}).encode()


def refusal(message, status=400):
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return status, json.dumps({"error": error}).encode()


def found(answers, version="0.32.0"):
    return findings_of(version, "devstral", replies_of(answers))


# --- which profile


@pytest.mark.parametrize(
    ("answers", "mode", "base", "changed"),
    [
        (RECORDED["mistral-v13"], "mistral", UNPROBED, {"bridge": "never", "tool_strict": "keep"}),
        (RECORDED["mistral-v15"], "mistral", UNPROBED, {"bridge": "never", "tool_strict": "keep"}),
        (RECORDED["mistral-v11"], "mistral", UNPROBED, {"bridge": "never", "tool_strict": "keep"}),
        (
            RECORDED["mistral-v3"],
            "mistral",
            UNPROBED,
            {"bridge": "never", "tool_strict": "keep", "legacy_v3": True},
        ),
        (
            RECORDED["hf-v13"],
            "hf",
            HF,
            {
                "bridge": "never",
                "merge_same_role": False,
                "lead_system": "keep",
                "mid_system": "keep",
                "first_message": "user_or_system",
            },
        ),
        (
            RECORDED["hf-v3"],
            "hf",
            HF,
            {
                "bridge": "never",
                "merge_same_role": False,
                "lead_system": "keep",
                "mid_system": "keep",
                "legacy_v3": True,
            },
        ),
        (STRICT_LIBRARY, "mistral", UNPROBED, {"bridge": "always"}),
        (STRICT_TEMPLATE, "hf", HF, {}),
    ],
    ids=["v13", "v15", "v11", "v3", "hf v13", "hf v3", "mistral-common 1.8", "hf 2512"],
)
def test_auto_spares_the_rules_that_the_upstream_does_not_need(answers, mode, base, changed):
    findings = found(answers)

    assert (findings.mode, *overrides_of(findings)) == (mode, base, changed)


@pytest.mark.parametrize(
    ("changed", "mode"),
    [
        # vLLM up to 0.9 goes on from a last assistant message by itself, and had a library that says so of ids
        ({"last_assistant": 7, "short_id": STRICT_LIBRARY["short_id"]}, "mistral"),
        ({"last_assistant": OLD_LAST}, "mistral"),
        ({"last_assistant": "The last message must be a user's."}, None),
        ({"last_assistant": "The last message must be a user's.", "user_twice": ALTERNATION}, "hf"),
        ({"last_assistant": "The last message must be a user's.", "late_system": 14}, "hf"),
        ({"last_assistant": 7}, "hf"),
    ],
)
def test_who_renders_the_prompt_is_told_by_what_only_one_of_them_says(changed, mode):
    assert found(RECORDED["mistral-v13"] | changed).mode == mode


NOT_VLLM = {
    "no route": (404, b'{"detail":"Not Found"}'),
    "no key": (401, b'{"error":"Unauthorized"}'),
    "busy": (503, b"<html><h1>503 Service Unavailable</h1></html>"),
    "a page": (200, b"<!doctype html><title>It works</title>"),
    "llama.cpp": (200, b'{"tokens":[]}'),
    "no token": (200, b'{"count":0,"tokens":[]}'),
    "not UTF-8": (200, b'{"count":"\xff"}'),
    "always the same count": (200, b'{"count":7,"tokens":[]}'),
    "more than a number": (200, b'{"count":1' + b"0" * 5000 + b"}"),
    "refused": (400, b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'),
}


@pytest.mark.parametrize("reply", NOT_VLLM.values(), ids=NOT_VLLM)
def test_an_upstream_that_does_not_answer_as_vllm_gets_the_safe_default(reply):
    findings = findings_of(None, None, dict.fromkeys(NAMES, reply))

    assert findings.mode is None
    assert overrides_of(findings) == overrides_of(None) == (UNPROBED, {})


def test_before_any_answer_auto_is_the_safe_default():
    assert build_profile("auto").options == build_profile(UNPROBED).options
    assert AutoProfiles().profile_for(None).options == build_profile(UNPROBED).options
    assert AutoProfiles().profile_for(Findings()).options == build_profile(UNPROBED).options


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_answer_leaves_the_rule_in_force(name):
    """A probe that was not answered never spares a rule that its refusal would not spare."""
    spared = overrides_of(found(RECORDED["hf-v13"]))[1]

    less = overrides_of(found({k: v for k, v in RECORDED["hf-v13"].items() if k != name}))[1]

    assert less.items() <= spared.items()


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503, 504])
def test_only_a_refusal_of_the_body_is_a_refusal(status):
    replies = replies_of(RECORDED["mistral-v13"]) | {"user_after_tool": refusal("no", status)}

    assert findings_of("0.32.0", None, replies).tolerated["user_after_tool"] is None


@pytest.mark.parametrize("probe", [probe for probe in PROBES if probe.control], ids=lambda probe: probe.name)
def test_a_probe_says_nothing_where_its_control_is_refused(probe):
    replies = replies_of(RECORDED["mistral-v13"] | {probe.control: "no"})

    assert findings_of("0.32.0", None, replies).tolerated[probe.name] is None
    assert not may_ask(probe, replies)


@pytest.mark.parametrize(
    ("mode", "name", "control"),
    [
        ("hf-v13", "text_beside_calls", "calls"),  # vLLM's example templates show the calls only
        ("hf-v13", "system_twice", "system"),
        ("hf-v13", "user_twice", "plain"),
        ("mistral-v13", "tools", "plain"),  # /tokenize before 0.9 has no `tools`
    ],
)
def test_what_is_accepted_and_left_out_of_the_prompt_is_not_tolerated(mode, name, control):
    answers = RECORDED[mode] | {name: RECORDED[mode][control]}

    assert found(answers).tolerated[name] is False


def test_text_beside_calls_that_a_template_leaves_out_is_moved_to_where_it_is_read():
    answers = RECORDED["hf-v13"] | {"text_beside_calls": RECORDED["hf-v13"]["calls"]}

    assert overrides_of(found(answers))[1]["legacy_v3"] is True


def test_the_template_of_v3_that_drops_a_lonely_system_message_gets_a_user_message():
    """It answers 200 with one token: the text is not in the prompt."""
    assert RECORDED["hf-v3"]["system_alone"] == 1
    assert found(RECORDED["hf-v3"]).tolerated["system_alone"] is False


def test_strict_stays_out_of_a_chat_template():
    """It would be written into the prompt: five tokens more."""
    assert RECORDED["hf-v13"]["strict_tool"] == RECORDED["hf-v13"]["tools"] + 5
    assert "tool_strict" not in overrides_of(found(RECORDED["hf-v13"]))[1]


@pytest.mark.parametrize("mode", RECORDED)
def test_ids_and_past_reasoning_are_no_matter_of_tolerance(mode):
    options = AutoProfiles().profile_for(found(RECORDED[mode])).options

    assert (options.id_mode, options.reasoning_history) == ("hash9", "drop")


@pytest.mark.parametrize(
    ("answers", "version", "upstream_stream"),
    [
        (RECORDED["mistral-v13"], "0.12.0", "never_with_tools"),
        (RECORDED["mistral-v13"], "0.13.0", "same"),
        (RECORDED["hf-v13"], "0.19.1", "never_with_tools"),
        (RECORDED["hf-v13"], "0.20.0", "same"),
        ({}, "0.11.2", "never_with_tools"),  # /version answers, /tokenize does not
        (RECORDED["mistral-v13"], "dev", "same"),
        (RECORDED["mistral-v13"], None, "same"),
    ],
)
def test_the_version_decides_where_tokenize_cannot_tell(answers, version, upstream_stream):
    options = AutoProfiles().profile_for(found(answers, version)).options

    assert options.upstream_stream == upstream_stream


# --- one object for one choice


def test_the_same_findings_give_the_same_profile():
    profiles = AutoProfiles({"default_temperature": 0.15, "param_set": {"seed": 1}})
    one, other = found(RECORDED["mistral-v13"]), found(RECORDED["mistral-v11"])

    assert one != other
    assert profiles.profile_for(one) is profiles.profile_for(found(RECORDED["mistral-v13"]))
    assert profiles.profile_for(one) is profiles.profile_for(other), (
        "what they tolerate differs, what they need does not"
    )
    assert profiles.profile_for(one) is not profiles.profile_for(found(RECORDED["hf-v13"]))
    assert profiles.profile_for(one).name == "auto:vllm-mistral-tokenizer"


def test_what_a_refusal_taught_wins_over_the_probe_and_the_operator_over_both():
    findings = found(RECORDED["mistral-v13"])
    learned = {"bridge": "always"}

    assert AutoProfiles().profile_for(findings).options.bridge == "never"
    assert AutoProfiles().profile_for(findings, learned).options.bridge == "always"
    operators = AutoProfiles({"bridge": "never"})
    assert operators.profile_for(findings, learned) is operators.profile_for(findings)


def test_the_profiles_that_are_kept_are_bounded():
    profiles = AutoProfiles()

    for i in range(3 * profiles.MOST):
        profiles.profile_for(None, {"bridge_text": f"{i}"})
        assert len(profiles._made) <= profiles.MOST


def test_an_option_that_is_none_is_refused():
    with pytest.raises(ValueError, match="bad profile option"):
        AutoProfiles({"bridge": "sometimes"}).profile_for(None)


# --- the tables


def test_a_control_stands_before_its_probes_and_differs_only_in_what_is_asked():
    for i, probe in enumerate(PROBES):
        assert not probe.control or probe.control in NAMES[:i]


def test_every_decision_names_probes_and_values_that_the_option_has():
    for decision in DECISIONS:
        assert set(decision.probes) <= set(NAMES)
        for value in (decision.tolerated, decision.refused):
            assert getattr(build_profile(UNPROBED, {decision.option: value}).options, decision.option) == value


def test_every_lesson_sets_options_to_values_that_they_have():
    for lesson in LESSONS:
        assert msgspec.structs.asdict(build_profile(UNPROBED, lesson.options).options).items() >= lesson.options.items()
        assert set(lesson.options) <= set(Options.__struct_fields__)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_probe_is_a_request_that_generates_nothing_and_is_small(probe):
    body = probe.body("devstral")

    assert set(json.loads(body)) <= {"model", "messages", "tools"}
    assert len(body) < 500
    assert "model" not in json.loads(probe.body(None))


@pytest.mark.parametrize("mode", RECORDED)
def test_nothing_is_rewritten_that_the_upstream_takes_as_it_is(mode):
    """A conversation of an agent, its user speaking after a tool result, passes untouched where all of it is fine."""
    call = {"id": "abcdefgh1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "abcdefgh1", "content": "12:00"},
        {"role": "user", "content": "And now?"},
    ]
    body = json.dumps({"model": "devstral", "messages": messages}).encode()

    request = translate_request(body, AutoProfiles().profile_for(found(RECORDED[mode])))

    assert request.rules_applied == ()
    assert json.loads(request.body) == json.loads(body)
