"""A tool round trip with LangChain's ChatOpenAI, in an environment of its own: ARGV[1] is the base address."""

import json
import os
import sys
from typing import Any

import openai
from langchain_core.messages import AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

RESULTS: dict[str, str] = json.loads(os.environ["RESULTS"])
RAN: list[str] = []


def run(name: str) -> str:
    RAN.append(name)
    return RESULTS[name]


@tool
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return run("get_weather")


@tool
def get_time() -> str:
    """Return the time."""
    return run("get_time")


TOOLS = {made.name: made for made in (get_weather, get_time)}


def main(url: str) -> dict[str, Any]:
    model = ChatOpenAI(model="devstral", base_url=url, api_key="none", max_retries=0, use_responses_api=False)
    bound = model.bind_tools(list(TOOLS.values()))
    messages: list[BaseMessage] = [HumanMessage(os.environ["QUESTION"])]
    turns: list[dict[str, Any]] = []
    try:
        while not turns or turns[-1]["calls"]:
            answer = asked(bound, messages)
            turns.append(turn(answer))
            # a tool that is given a whole call answers with a ToolMessage that has the call's id
            messages += [answer, *(TOOLS[call["name"]].invoke(call) for call in answer.tool_calls)]
    except openai.APIError as error:
        return {"turns": turns, "ran": RAN, "error": error.message}
    return {"turns": turns, "ran": RAN, "error": ""}


def asked(model: Any, messages: list[BaseMessage]) -> AIMessageChunk:
    """Stream an answer and add up its chunks, LangChain's own way to put it together."""
    answer = None
    for chunk in model.stream(messages):
        answer = chunk if answer is None else answer + chunk
    return answer


def turn(answer: AIMessageChunk) -> dict[str, Any]:
    assert answer.invalid_tool_calls == []
    return {
        "calls": [[call["name"], call["args"]] for call in answer.tool_calls],
        "text": answer.content,
        "reasoning": answer.additional_kwargs.get("reasoning_content", ""),
        "finish": answer.response_metadata["finish_reason"],
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
