"""F28, F32, F33, F37, F38: what a client may reach, what of it reaches the model, and what can be traced."""

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import Final

from tests.fakes import whole
from tests.kit.client import Answer, connected
from tests.kit.model import Act
from tests.kit.rig import Rig, reached, took
from tests.kit.row import Row
from tests.kit.verdict import Fails, NotApplicable, within

# --- F28

#: How gateways call their liveness probe; the first of these that one has is asked.
LIVENESS: Final = ("/health/live", "/livez", "/health/liveliness", "/health/liveness", "/liveness", "/health")
_PROBES: Final = (*LIVENESS, "/health/ready", "/readyz", "/health/readiness", "/readiness", "/ping", "/")
_LIVE_S: Final = 1.0


async def live_while_the_model_hangs(rig: Rig) -> str:
    """The liveness probe answers within a second while the model hangs, status pages and all."""
    path = await _liveness(rig)
    play = rig.play([Act.HANG])
    async with AsyncExitStack() as hanging:
        for _ in range(5):
            rig.send(await hanging.enter_async_context(connected(rig.target)), rig.body(play))
        await reached(play)
        rig.model.wedge()
        asked_at = time.monotonic()
        async with within(_LIVE_S, f"{path} did not answer"):
            answer = await rig.get(path)
        if answer.status != 200:
            raise Fails(f"{path} says {answer.status}")
        return f"{path} {took(asked_at)}"


async def _liveness(rig: Rig) -> str:
    for path in LIVENESS:
        before = len(rig.model.strays)
        if (await rig.get(path)).status == 200 and len(rig.model.strays) == before:
            return path  # and it is the gateway's own: some forward whatever they do not know
    raise NotApplicable(f"none of {', '.join(LIVENESS)}")


async def probes_do_not_generate(rig: Rig) -> str:
    """No health probe makes the model generate."""
    before = rig.model.generated
    for path in _PROBES:
        async with connected(rig.target) as connection:
            connection.request("GET", path)
            await (await connection.answer()).read()
        if rig.model.generated > before:
            raise Fails(f"GET {path} does")
    return ""


# --- F32


async def fields_choose_nothing(rig: Rig) -> str:
    """No field and no header of a request chooses which server it goes to."""
    other, play = rig.other, rig.play()
    fields = dict.fromkeys(("api_base", "base_url", "api_url", "endpoint"), f"{other.url}/v1")
    names = ("X-Upstream", "X-Vllm-Host", "X-Portkey-Custom-Host", "X-Base-Url", "X-Forwarded-Host")
    answer = await rig.whole(play, headers=dict.fromkeys(names, other.url), **fields)
    return _went_nowhere(rig, answer)


async def redirects_lead_nowhere(rig: Rig) -> str:
    """A redirect of the model server is not followed."""
    location = f"{rig.other.url}/v1/chat/completions"
    return _went_nowhere(rig, await rig.whole(rig.play([whole(b"", 307, location=location)])))


def _went_nowhere(rig: Rig, answer: Answer) -> str:
    if rig.other.generated or rig.other.strays:
        raise Fails("the request goes to the other server")
    return f"the client got {answer.status}"


# --- F33

#: vLLM's routes that stop, reload or read out an engine; its own key guards only what is below /v1.
_CONTROLS: Final = (
    *("/pause", "/resume", "/sleep", "/wake_up", "/reset_prefix_cache", "/collective_rpc", "/update_weights"),
    *("/invocations", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/scale_elastic_ep", "/abort_requests"),
)


async def controls_are_closed(rig: Rig) -> str:
    """The model server's controls (/pause, /v1/load_lora_adapter, /invocations …) cannot be reached."""
    before, answered = len(rig.model.strays), set()
    for path in _CONTROLS:
        for method in ("GET", "POST"):
            answer = await rig.get(path, method, b'{"lora_name": "x"}' if method == "POST" else b"")
            answered.add(answer.status)
    if forwarded := sorted({call.path for call in rig.model.strays[before:]} & set(_CONTROLS)):
        raise Fails(f"{len(forwarded)} of {len(_CONTROLS)} are forwarded: {', '.join(forwarded[:3])}")
    return f"the client got {', '.join(map(str, sorted(answered)))}"


# --- F37

_SECRET: Final = "canary51d0c8e7"
_CREDENTIALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Authorization": f"Bearer {_SECRET}",
        "Proxy-Authorization": f"Basic {_SECRET}",
        "Cookie": f"session={_SECRET}",
        "X-Api-Key": _SECRET,
        "Api-Key": _SECRET,
        "X-Named": _SECRET,
        "Connection": "X-Named",
    }
)


async def credentials_stay(rig: Rig) -> str:
    """No credential of a client, and no header that Connection names, reaches the model."""
    play = rig.play()
    await rig.whole(play, headers=_CREDENTIALS)
    if not play.calls:  # the gateway wants a key: do without the one that it would take for its own
        play = rig.play()
        answer = await rig.whole(play, headers={k: v for k, v in _CREDENTIALS.items() if k != "Authorization"})
        if not play.calls:
            raise Fails(f"{answer.status}, and nothing went upstream")
    found = sorted({name for name, value in play.calls[0].headers if _SECRET in value})
    if found:
        raise Fails(f"{', '.join(found)} go{'es' if len(found) == 1 else ''} upstream")
    return ""


# --- F38

_ID: Final = "kit-request-7f3a9c"


async def request_id(rig: Rig) -> str:
    """The client's X-Request-Id is in the answer and at the model."""
    play = rig.play()
    answer = await rig.whole(play, headers={"X-Request-Id": _ID})
    missing = [] if answer.header("x-request-id") == _ID else ["in the answer"]
    missing += [] if any(_ID in call.values("x-request-id") for call in play.calls) else ["at the model"]
    if missing:
        raise Fails(f"it is not {' and not '.join(missing)}")
    return ""


async def minted_id(rig: Rig) -> str:
    """Without one, the answer has an id that is at the model too."""
    play = rig.play()
    answer = await rig.whole(play)
    made = answer.header("x-request-id")
    if made is None:
        raise Fails("the answer has none")
    if not any(made in call.values("x-request-id") for call in play.calls):
        raise Fails("the model has none, or another")
    return ""


ROWS: Final = (
    Row("F28a", live_while_the_model_hangs),
    Row("F28b", probes_do_not_generate),
    Row("F32a", fields_choose_nothing),
    Row("F32b", redirects_lead_nowhere),
    Row("F33", controls_are_closed, probe="O"),
    Row("F37", credentials_stay, probe="M"),
    Row("F38a", request_id, probe="L"),
    Row("F38b", minted_id),
)
