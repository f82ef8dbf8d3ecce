"""
What vLLM 0.32 checks itself before it asks a tokenizer, as far as a chat request's form is concerned.

Written from the answers of a live server (tests/cases/shapes.jsonl): each check stands for a 400 seen there.
The server's own texts are long and name its internals, so the texts here are this file's.
"""

ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
EFFORTS = {None, "none", "high"}


class Refused(ValueError):
    """The server would answer 400 without asking the tokenizer."""


def need(condition: object, text: str) -> None:
    if not condition:
        raise Refused(text)


def check(request: dict, *, mistral_tokenizer: bool) -> None:
    """Raise `Refused` where the server would."""
    messages = request.get("messages")
    need(isinstance(messages, list) and messages, "messages must be a non-empty list")
    for index, message in enumerate(messages):
        check_message(message, f"messages[{index}]")
    check_tools(request)
    check_ranges(request)
    check_last(request, messages[-1])
    if mistral_tokenizer:
        need(request.get("chat_template") is None, "chat_template")
        need(request.get("chat_template_kwargs") is None, "chat_template_kwargs")
        need(request.get("reasoning_effort") in EFFORTS, "reasoning_effort")


def check_message(message: dict, path: str) -> None:
    role = message.get("role")
    need(role in ROLES, f"{path}.role")
    need("name" not in message or isinstance(message["name"], str), f"{path}.name")
    need(not (role == "tool" and not isinstance(message.get("tool_call_id"), str)), f"{path}.tool_call_id")
    may_be_null = role == "assistant" and message.get("tool_calls", ()) is not None
    content = message.get("content")
    if content is None:
        need(may_be_null, f"{path}.content")
    else:
        check_content(content, f"{path}.content")
    for index, call in enumerate(message.get("tool_calls") or ()):
        check_call(call, f"{path}.tool_calls[{index}]")


def check_content(content: object, path: str) -> None:
    need(isinstance(content, str | list), path)
    if isinstance(content, str):
        return
    for index, part in enumerate(content):
        need(isinstance(part, dict), f"{path}[{index}]")
        need(part.get("type") == "text", f"{path}[{index}].type: not for a text model")
        need(isinstance(part.get("text"), str), f"{path}[{index}].text")


def check_call(call: dict, path: str) -> None:
    function = call.get("function")
    need(isinstance(call.get("id"), str), f"{path}.id")
    need(call.get("type") == "function", f"{path}.type")
    need(isinstance(function, dict), f"{path}.function")
    need(isinstance(function.get("name"), str), f"{path}.function.name")
    need(isinstance(function.get("arguments"), str), f"{path}.function.arguments")


def check_tools(request: dict) -> None:
    tools, choice = request.get("tools"), request.get("tool_choice")
    need(tools is None or (isinstance(tools, list) and tools), "tools must be absent or not empty")
    need(tools or choice in (None, "none"), "tool_choice without tools")
    need(not (tools and "tool_choice" in request and choice is None), "tool_choice null loses the call")
    for index, tool in enumerate(tools or ()):
        function = tool.get("function")
        need(tool.get("type", "function") == "function", f"tools[{index}].type")
        need(isinstance(function, dict), f"tools[{index}].function")
        need(isinstance(function.get("name"), str), f"tools[{index}].function.name")
        need(isinstance(function.get("parameters", {}), dict | None), f"tools[{index}].function.parameters")
    if isinstance(choice, dict):
        named = choice.get("function")
        names = [tool["function"]["name"] for tool in tools or ()]
        need(isinstance(named, dict) and named.get("name") in names, "tool_choice.function.name")
    else:
        need(choice in (None, "none", "auto", "required"), "tool_choice")


def check_ranges(request: dict) -> None:
    stop = request.get("stop") or []
    stops = [stop] if isinstance(stop, str) else stop
    ranges = {
        "temperature": (0, 2),
        "top_p": (1e-9, 1),
        "max_tokens": (1, 10**9),
        "max_completion_tokens": (1, 10**9),
        "frequency_penalty": (-2, 2),
        "presence_penalty": (-2, 2),
    }
    for name, (low, high) in ranges.items():
        value = request.get(name)
        need(value is None or low <= float(value) <= high, name)
    need(len(stops) <= 4 and "" not in stops, "stop")
    need(not request.get("top_logprobs") or request.get("logprobs"), "top_logprobs without logprobs")
    need(request.get("stream_options") is None or request.get("stream"), "stream_options without stream")


def check_last(request: dict, last: dict) -> None:
    """Either a new turn is asked for, or the assistant's last one is continued; both flags together are refused."""
    new_turn, go_on = request.get("add_generation_prompt", True), request.get("continue_final_message", False)
    need(not (new_turn and go_on), "add_generation_prompt and continue_final_message")
    need(not (new_turn and last["role"] == "assistant"), "a new turn after an assistant message")
    need(not (go_on and last["role"] != "assistant"), "continue_final_message without an assistant message")


def cut_tool_ids(messages: list[dict]) -> None:
    """Cut tool-call ids to their last nine characters, calls and results alike (`truncate_tool_call_ids`)."""
    for message in messages:
        for call in message.get("tool_calls") or ():
            call["id"] = call["id"][-9:]
        if isinstance(message.get("tool_call_id"), str):
            message["tool_call_id"] = message["tool_call_id"][-9:]
