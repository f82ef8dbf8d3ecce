"""What the doctor says of a server's version, key, models, tokenizer and refusals, and what to type."""

import pytest

from proxy.translate.answer_rules import ANSWER_RULES
from tests.doctor.vllm import CHAT, Vllm, chat_template, dated, refusal, texts_of
from tests.fakes import Do, head, whole

KEY = "sk-canary-7f3a91"


def of_status(checks, status):
    return [name for name, check in checks.items() if check["status"] == status]


# --- versions


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("0.32.0", "ok", "between 0.8.5 and 0.32.0"),
        ("0.13.0rc2", "ok", "between 0.8.5 and 0.32.0"),
        ("0.7.3", "warning", "older than any that is known (0.8.5)"),
        ("1.0.0", "ok", "newer than the newest that was tried, 0.32.0"),
        ("dev", "skipped", "not a version of vLLM"),
    ],
)
async def test_a_version_is_held_against_those_that_are_known(version, status, words, examine):
    async with Vllm({"/version": dated({"version": version})}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 0
    assert checks["version"]["status"] == status
    assert words in checks["version"]["says"]


@pytest.mark.parametrize(
    ("version", "tokenize", "fix"),
    [
        ("0.12.0", None, ["pip install 'vllm>=0.13.0'"]),
        ("0.19.1", chat_template, ["pip install 'vllm>=0.20.0'"]),
    ],
)
async def test_an_old_version_that_swallows_streamed_calls_is_told_with_the_one_that_does_not(
    version, tokenize, fix, examine
):
    replies = {"/version": dated({"version": version})} | ({"/tokenize": tokenize} if tokenize else {})
    async with Vllm(replies) as vllm:
        code, checks = await examine(vllm.url)
        streams = [request.json.get("stream") for request in vllm.sent_to(CHAT)]

    assert code == 0
    assert (checks["quirks"]["status"], checks["quirks"]["fix"]) == ("warning", fix)
    assert "swallowed" in texts_of(checks["quirks"])
    assert checks["tool call, streamed"]["says"].endswith("the proxy asks this server for whole answers")
    assert True not in streams


async def test_a_server_that_is_no_vllm_is_said_to_be_none(examine):
    """llama.cpp, for example: no /version, and the rest works."""
    async with Vllm({"/version": whole({"error": {}}, 404, server="llama.cpp\x1b[2J")}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 0
    assert checks["server"]["says"] == "this is no vLLM: /version answers 404"
    assert "\\u001b" not in texts_of(checks["server"])
    assert of_status(checks, "failed") == []


async def test_an_engine_that_is_dead_is_said_to_be(examine):
    async with Vllm({"/health": head(503, content_length="0")}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 1
    assert checks["health"]["says"] == "/health answers 503: its engine is dead; restart it, and read its log"


# --- keys


def asking_for_key(request):
    if request.header("authorization") != f"Bearer {KEY}":
        return refusal("Unauthorized", 401)
    return dated({"data": [{"id": "devstral", "max_model_len": 131_072}]})


async def test_a_key_that_is_missing_and_one_that_is_wrong_are_told_apart(examine, tmp_path):
    for name, key in (("wrong", "sk-other"), ("right", KEY)):
        (tmp_path / name).write_text(key + "\n")
    async with Vllm({"/v1/models": asking_for_key}) as vllm:
        missing, without = await examine(vllm.url)
        wrong, refused = await examine(vllm.url, "--api-key-file", str(tmp_path / "wrong"))
        right, accepted = await examine(vllm.url, "--api-key-file", str(tmp_path / "right"))

    assert (missing, wrong, right) == (1, 1, 0)
    assert without["api key"]["says"] == "a key is asked for (401), and none was sent"
    assert "--api-key-file FILE" in without["api key"]["fix"]
    assert refused["api key"]["says"] == "the key is refused (401)"
    assert accepted["api key"]["status"] == "ok"
    assert of_status(without, "failed") == of_status(refused, "failed") == ["api key"]


async def test_a_configured_key_goes_to_its_own_upstream_and_to_no_other(examine):
    async with Vllm({"/v1/models": asking_for_key}) as configured, Vllm() as other:
        environment = {"VLLM_BASE": configured.url, "VLLM_API_KEY": KEY}
        code, _ = await examine(configured.url, **environment)
        await examine(other.url, **environment)
        keys = {request.header("authorization") for request in other.requests}

    assert code == 0
    assert keys == {None}


async def test_a_redirect_is_not_followed_with_the_key(examine):
    async with Vllm() as other:
        elsewhere = whole({}, 307, location=f"{other.url}/v1/models")
        async with Vllm({"/v1/models": elsewhere}) as vllm:
            code, checks = await examine(vllm.url, VLLM_BASE=vllm.url, VLLM_API_KEY=KEY)

    assert code == 1
    assert checks["models"]["says"] == "/v1/models answers 307 and no list of models"
    assert other.requests == []


async def test_a_key_that_a_server_sends_back_is_masked(examine):
    def echoing(request):
        return refusal(f"Bad key {request.header('authorization')}", 401)

    async with Vllm({"/v1/models": echoing}) as vllm:
        _, checks = await examine(vllm.url, VLLM_BASE=vllm.url, VLLM_API_KEY=KEY)

    assert "it says: Bad key Bearer ***" in checks["api key"]["details"]
    assert KEY not in texts_of(checks)


# --- models


async def test_a_model_that_is_not_served_is_told_with_those_that_are(examine):
    models = [{"id": "devstral"}, {"id": "codestral"}]
    async with Vllm({"/v1/models": dated({"data": models})}) as vllm:
        code, absent = await examine(vllm.url, "--model", "gpt-4")
        _, second = await examine(vllm.url, "--model", "codestral")
        asked = {request.json["model"] for request in vllm.sent_to(CHAT)}

    assert code == 1
    assert absent["models"]["says"] == "it does not serve gpt-4; it serves devstral, codestral"
    assert second["models"]["status"] == "ok"
    assert asked == {"codestral"}


async def test_a_context_that_is_too_small_for_agents_is_told_with_the_flag(examine):
    async with Vllm({"/v1/models": dated({"data": [{"id": "devstral", "max_model_len": 4096}]})}) as vllm:
        code, checks = await examine(vllm.url)
        limits = {request.json["max_tokens"] for request in vllm.sent_to(CHAT)}

    assert code == 0
    assert (checks["models"]["status"], checks["models"]["fix"]) == (
        "warning",
        ["vllm serve … --max-model-len 131072"],
    )
    assert max(limits) <= 2048


@pytest.mark.parametrize("reply", [dated([]), whole(b"<html>"), whole({"detail": "Not Found"}, 404)])
async def test_what_is_no_list_of_models_is_said_to_be_none(reply, examine):
    async with Vllm({"/v1/models": reply}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 1
    assert of_status(checks, "failed") == ["models"]


# --- the tokenizer and what it refuses


async def test_refused_shapes_are_told_with_the_rules_that_see_to_them(examine):
    async with Vllm() as vllm:
        _, checks = await examine(vllm.url)

    assert checks["tokenizer"]["says"] == "Mistral's own (mistral-common)"
    assert checks["shapes"]["status"] == "ok"
    assert checks["shapes"]["details"] == [
        "a system after an assistant: misplaced_system_to_user",
        "an assistant at the end: user_after_trailing_assistant",
    ]


async def test_a_chat_template_is_told_with_the_flag_that_avoids_it(examine):
    async with Vllm({"/tokenize": chat_template}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 0
    assert checks["tokenizer"]["status"] == "warning"
    assert any("--tokenizer-mode mistral" in line for line in checks["tokenizer"]["fix"])
    assert "a user after a user: same_role_merged" in checks["shapes"]["details"]
    assert "profile auto:vllm-hf-template" in checks["shapes"]["says"]


async def test_a_shape_that_no_rule_sees_to_is_a_warning(examine):
    async with Vllm() as vllm:
        code, checks = await examine(vllm.url, "--profile", "passthrough")

    assert code == 0
    assert checks["shapes"]["status"] == "warning"
    assert "a system after an assistant: no rule sees to it" in checks["shapes"]["details"]


async def test_a_server_without_tokenize_is_examined_all_the_same(examine):
    async with Vllm({"/tokenize": whole({"detail": "Not Found"}, 404)}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 0
    assert of_status(checks, "skipped") == ["tokenizer", "shapes", "reasoning parser"]


async def test_an_operators_own_option_is_what_the_shapes_are_judged_by(examine):
    async with Vllm() as vllm:
        _, checks = await examine(vllm.url, "--option", "trailing_assistant=error")

    assert checks["shapes"]["status"] == "warning"
    assert "an assistant at the end: no rule sees to it" in checks["shapes"]["details"]


async def test_a_server_that_goes_away_in_the_middle_is_told_as_it_went(examine):
    async with Vllm({CHAT: [Do.CLOSE]}) as vllm:
        code, checks = await examine(vllm.url)

    assert code == 1
    assert checks["tool parser"]["says"] == f"{CHAT}: the connection was closed without an answer"


async def test_nothing_but_what_the_doctor_wrote_itself_is_sent(examine):
    async with Vllm() as vllm:
        await examine(vllm.url)
        asked = [(request.method, request.target) for request in vllm.requests]

    assert set(asked) == {
        ("GET", "/version"),
        ("GET", "/health"),
        ("GET", "/v1/models"),
        ("POST", "/tokenize"),
        ("POST", CHAT),
    }
    assert asked.count(("POST", CHAT)) == 4


def test_the_rule_that_a_proxy_tells_of_a_missing_tool_parser_exists():
    assert "recover_leaked_calls" in ANSWER_RULES
