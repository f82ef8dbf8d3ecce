"""
The first answers that the clients' tests play, each with what a client must make of it.

All of them are first turns: a call of `get_weather`, or of `get_time`, or of both, or an end that no client may take
for an answer. After the results comes `FINAL`.
"""

from typing import Any, NamedTuple

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, Script, event, text_chunk, text_stream

FINAL_TEXT = "It is sunny in Paris, 25 °C – enjoy 👋"
FINAL = [text_stream("It is sunny", " in Paris, 25 °C", " – enjoy 👋")]
PROSE = " Now I wait for the result."
THOUGHT = "The user asks for the weather. I have a tool."
EXPLANATION = "I look it up."

PARIS = ("get_weather", {"city": "Paris"})
TIME = ("get_time", {})


class Trip(NamedTuple):
    """An upstream's first answer, and the turn it must be for every client; `finish` is `tool_calls` for all."""

    answer: bytes
    calls: list[tuple[str, dict[str, Any]]]
    text: str = ""
    reasoning: str = ""


# --- pieces


def delta(fields: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    made = text_chunk(finish=finish)
    made["choices"][0]["delta"] = fields
    return made


def call(index: int, name: str, arguments: str, call_id: str = "Ab1Cd2Ef3") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return delta({"tool_calls": [{"id": call_id, "type": "function", "index": index, "function": function}]})


def more(index: int, arguments: str, finish: str | None = None) -> dict[str, Any]:
    """More of a call's arguments, in the last chunk together with the finish reason, as vLLM sends it."""
    return delta({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}, finish)


def begun(*chunks: dict[str, Any]) -> bytes:
    return STREAM_HEAD + b"".join(map(event, [text_chunk("", role="assistant"), *chunks]))


def ended(*chunks: dict[str, Any]) -> bytes:
    return begun(*chunks) + DONE + STREAM_END


def said(*texts: str) -> bytes:
    """Text and the finish reason `stop`: what a server without a tool parser makes of a call."""
    return ended(*map(text_chunk, texts), text_chunk("", finish="stop"))


WEATHER = call(0, "get_weather", '{"city"'), more(0, ': "Par')


# --- answers that lead to a result

TRIPS = {
    "a call": Trip(ended(*WEATHER, more(0, 'is"}', "tool_calls")), [PARIS]),
    "text before a call": Trip(
        ended(text_chunk("I look "), text_chunk("it up."), *WEATHER, more(0, 'is"}', "tool_calls")),
        [PARIS],
        EXPLANATION,
    ),
    "two calls": Trip(
        ended(*WEATHER, more(0, 'is"}'), call(1, "get_time", "{", "Gh4Ij5Kl6"), more(1, "}", "tool_calls")),
        [PARIS, TIME],
    ),
    "arguments that are empty": Trip(ended(call(0, "get_time", ""), delta({}, "tool_calls")), [TIME]),
    "prose behind the arguments": Trip(
        ended(*WEATHER, more(0, 'is"}' + PROSE[:9]), more(0, PROSE[9:], "tool_calls")), [PARIS], PROSE
    ),
    "a call that says stop": Trip(ended(*WEATHER, more(0, 'is"}'), delta({}, "stop")), [PARIS]),
    "a call as text": Trip(said("[TOOL", "_CALLS]get_", 'weather[ARGS]{"ci', 'ty": "Paris"}'), [PARIS]),
    "two calls as text": Trip(
        said('[TOOL_CALLS]get_weather[ARGS]{"city": ', '"Paris"}[TOOL_CALLS]', "get_time[ARGS]{}"), [PARIS, TIME]
    ),
    "thinking in `reasoning`": Trip(
        ended(
            delta({"reasoning": THOUGHT[:20]}),
            delta({"reasoning": THOUGHT[20:]}),
            text_chunk(EXPLANATION),
            *WEATHER,
            more(0, 'is"}', "tool_calls"),
        ),
        [PARIS],
        EXPLANATION,
        THOUGHT,
    ),
    "thinking in marks": Trip(
        ended(
            *map(text_chunk, ("[THI", f"NK]{THOUGHT[:20]}", THOUGHT[20:], "[/TH", f"INK]{EXPLANATION}")),
            *WEATHER,
            more(0, 'is"}', "tool_calls"),
        ),
        [PARIS],
        EXPLANATION,
        THOUGHT,
    ),
}


# --- ends that are no answer

CUTS: dict[str, Script] = {
    "reset inside text": [begun(text_chunk("It is")), Do.RESET],
    "closed inside text": [begun(text_chunk("It is")), Do.CLOSE],
    "ended inside text without [DONE]": [begun(text_chunk("It is")) + STREAM_END],
    "reset inside a call as text": [begun(text_chunk('[TOOL_CALLS]get_weather[ARGS]{"ci')), Do.RESET],
    "reset behind the name of a call": [begun(call(0, "get_time", "")), Do.RESET],
    "reset behind a whole call": [begun(*WEATHER, more(0, 'is"}')), Do.RESET],
}
CUTS_IN_ARGUMENTS: dict[str, Script] = {
    "reset": [begun(*WEATHER), Do.RESET],
    "ended without [DONE]": [begun(*WEATHER) + STREAM_END],
}
