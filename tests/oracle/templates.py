"""
Chat templates, rendered as vLLM's Hugging Face mode renders them.

mistral-common generates a template for each of its tokenizers from 1.12 on. Templates published with models are
stricter: they want user and assistant to take turns, so `check_turns` holds every request to that.
"""

import copy
import json
from pathlib import Path

try:
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from mistral_common.integrations.chat_templates.chat_templates import convert_tokenizer_to_chat_template
except ImportError:  # mistral-common before 1.12 generates no templates
    convert_tokenizer_to_chat_template = None


class TemplateError(ValueError):
    """A template refused the conversation."""


def refuse(text: str) -> None:
    raise TemplateError(text)


def load(files: dict[str, Path]) -> dict:
    """Return a compiled template per tokenizer version, or nothing where the library has no generator."""
    if convert_tokenizer_to_chat_template is None:
        return {}
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    return {version: environment.from_string(convert_tokenizer_to_chat_template(f)) for version, f in files.items()}


def render(template, request: dict) -> str:
    """Render with arguments as objects and text parts joined, as vLLM hands them over. Raises: TemplateError."""
    messages = copy.deepcopy(request["messages"])
    check_turns(messages)
    for message in messages:
        for call in message.get("tool_calls") or ():
            call["function"]["arguments"] = json.loads(call["function"]["arguments"] or "{}")
        if isinstance(message.get("content"), list):
            message["content"] = "\n".join(part["text"] for part in message["content"])
    return template.render(
        messages=messages,
        tools=request.get("tools"),
        bos_token="<s>",
        eos_token="</s>",
        add_generation_prompt=request.get("add_generation_prompt", True),
    )


def check_turns(messages: list[dict]) -> None:
    """
    After at most one system message, user and assistant take turns; calls and results are left out of the count.

    That is the rule of the template published with Devstral and Ministral 2512, and of vLLM's own example templates.
    """
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    expected = "user"
    for message in turns:
        role = message["role"]
        if role == "tool" or (role == "assistant" and message.get("tool_calls")):
            continue
        if role not in ("user", "assistant"):
            refuse(f"no {role} message after the first message")
        if role != expected:
            refuse(f"roles must alternate: {role} where {expected} is due")
        expected = "assistant" if role == "user" else "user"
