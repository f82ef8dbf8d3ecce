"""F04, F05, F25, F26: what becomes of the model server's failures. These rows may put a gateway out of service."""

import time
from contextlib import suppress
from typing import Any, Final

from tests.fakes import completion, whole
from tests.kit.model import Act, Script, usual
from tests.kit.rig import Rig, settled, times
from tests.kit.row import Kind, Row
from tests.kit.verdict import Fails, NotApplicable, NotOk

#: A gateway that waits between its tries is given up after this: what it did until then counts.
_PATIENCE_S: Final = 8.0
_BRIEF_S: Final = 3.0
#: Short, so that a gateway that waits as told can finish.
_RETRY_AFTER: Final = "2"


def error(status: int, message: str, kind: str = "InternalServerError") -> dict[str, Any]:
    """An error as vLLM sends it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def failing(status: int, **headers: str) -> Script:
    return [whole(error(status, f"failed with {status}"), status, **headers)]


CONTEXT: Final = (
    "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens in the messages. "
    "Please reduce the length of the messages."
)
NO_MODEL: Final = "The model `devstral` does not exist."


# --- F04: one request is not many


async def too_many_requests(rig: Rig) -> str:
    """After 429 the model is not called again."""
    return await _calls(rig, failing(429, retry_after=_RETRY_AFTER), most=1)


async def internal_error(rig: Rig) -> str:
    """After 500 the model is not called again: the request may have run."""
    return await _calls(rig, failing(500), most=1)


async def bad_gateway(rig: Rig) -> str:
    """After 502 the model is called once more at most."""
    return await _calls(rig, failing(502), most=2)


async def unavailable(rig: Rig) -> str:
    """After 503 the model is called once more at most."""
    return await _calls(rig, failing(503), most=2)


async def gateway_timeout(rig: Rig) -> str:
    """After 504 the model is called once more at most."""
    return await _calls(rig, failing(504), most=2)


async def no_answer(rig: Rig) -> str:
    """After a connection that dies without an answer the model is called once more at most."""
    return await _calls(rig, [Act.CLOSE], most=2)


async def _calls(rig: Rig, script: Script, *, most: int) -> str:
    play = rig.play(script)
    asked_at = time.monotonic()
    try:
        answer = await rig.whole(play, patience_s=_PATIENCE_S)
        seen = f"client got {answer.status}"
    except NotOk as exc:
        seen = str(exc)
    took_s = time.monotonic() - asked_at
    count = await settled(play)
    if not count:
        raise Fails(f"not called at all: {seen}")
    if count > most:
        raise Fails(f"called {times(count)} in {took_s:.1f} s; {seen}")
    return f"called {times(count)}, {seen}"


# --- F05: a client's mistakes are not the model's


async def client_errors_are_not_failures(rig: Rig) -> str:
    """After twenty 4xx answers the model is still asked."""
    for status in (400, 404, 413, 422) * 5:
        play = rig.play(failing(status))
        answer = await rig.whole(play, patience_s=_PATIENCE_S)
        if not play.calls:
            raise Fails(f"taken out: the next request got {answer.status} and did not reach the model")
    await _is_asked(rig)
    return ""


async def one_bad_model_name(rig: Rig) -> str:
    """After a single 404 the next request is served."""
    await rig.whole(rig.play([whole(error(404, NO_MODEL, "NotFoundError"), 404)]), patience_s=_PATIENCE_S)
    await _is_asked(rig)
    return ""


async def server_errors_in_a_row(rig: Rig) -> str:
    """After six 5xx answers in a row the only model that there is is still asked."""
    for status in (500, 503) * 3:
        with suppress(Fails):  # how it treats one failure is another row
            await rig.whole(rig.play(failing(status)), patience_s=_BRIEF_S)
    await _is_asked(rig)
    return ""


async def _is_asked(rig: Rig) -> None:
    answer = await rig.whole(rig.play(usual))
    if answer.status != 200:
        raise Fails(f"taken out: a good request got {answer.status}")


# --- F25, F26: the client learns what the model said


async def context_length(rig: Rig) -> str:
    """The model's 400 about the context length arrives with its status and its own words."""
    return await _verbatim(rig, 400, CONTEXT, "BadRequestError")


async def context_length_code(rig: Rig) -> str:
    """The model's 400 about the context length has the code on which agents shorten the conversation."""
    answer = await rig.whole(rig.play([whole(error(400, CONTEXT, "BadRequestError"), 400)]))
    code = ((await answer.json()).get("error") or {}).get("code")
    if code != "context_length_exceeded":
        raise Fails(f"the code is {code!r}")
    return ""


async def not_found(rig: Rig) -> str:
    """The model's 404 arrives with its status and its own words."""
    return await _verbatim(rig, 404, NO_MODEL, "NotFoundError")


async def _verbatim(rig: Rig, status: int, message: str, kind: str) -> str:
    answer = await rig.whole(rig.play([whole(error(status, message, kind), status)]), patience_s=_PATIENCE_S)
    if answer.status != status:
        raise Fails(f"the client got {answer.status}")
    found = (await answer.json()).get("error")
    if not isinstance(found, dict):
        raise Fails("there is no error object")
    if found.get("message") != message:
        said = str(found.get("message"))
        raise Fails("its words are changed" + (f", to {said[:50]}…" if message in said else " and lost"))
    return ""


async def retry_after(rig: Rig) -> str:
    """The model's Retry-After arrives."""
    play = rig.play(failing(429, retry_after=_RETRY_AFTER))
    answer = await rig.whole(play, patience_s=_PATIENCE_S)
    if answer.status != 429:
        raise Fails(f"the client got {answer.status}")
    if answer.header("retry-after") != _RETRY_AFTER:
        raise Fails(f"it is {answer.header('retry-after') or 'lost'}")
    return ""


async def one_of_two_refuses(rig: Rig) -> str:
    """Of two model servers one says 503: the request is tried once on the other."""
    if len(rig.model.ports) < 2:
        raise NotApplicable("one model server; give --upstream-port twice")
    bad = rig.model.ports[0]
    for _ in range(6):
        play = rig.play(lambda call: failing(503) if call.port == bad else [whole(completion())])
        answer = await rig.whole(play, patience_s=_PATIENCE_S)
        if answer.status != 200:
            raise Fails(f"the client got {answer.status} after {times(len(play.calls))}")
        if len(play.calls) > 2:
            raise Fails(f"called {times(len(play.calls))}")
    return ""


RETRY_ROWS: Final = (
    Row("F04a", too_many_requests, probe="F", repeats=False),
    Row("F04b", internal_error, probe="G", repeats=False),
    Row("F04c", bad_gateway, repeats=False),
    Row("F04d", unavailable, probe="H", repeats=False),
    Row("F04e", gateway_timeout, repeats=False),
    Row("F04f", no_answer, repeats=False),
    Row("F04g", one_of_two_refuses, repeats=False),
    Row("F05a", one_bad_model_name, probe="E", repeats=False),
    Row("F05b", client_errors_are_not_failures, repeats=False),
    Row("F05c", server_errors_in_a_row, probe="H'", repeats=False),
)
ERROR_ROWS: Final = (
    Row("F25a", context_length, probe="E"),
    Row("F25b", context_length_code, kind=Kind.MISTRAL),
    Row("F25c", not_found, probe="E"),
    Row("F26", retry_after, probe="F"),
)
