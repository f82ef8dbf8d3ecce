"""What the live tests share: the modes of the server, where it is, and notes for the end of the run."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest


class Mode(NamedTuple):
    """How vLLM is started, and the proxy before it."""

    version: str  # of the tokenizer
    tokenizer_mode: str = "mistral"
    profile: str = "vllm-mistral-tokenizer"
    tools: bool = True
    reasoning: bool = False


#: The names are those of `direct` in tests/cases/shapes.jsonl. These are sent every shape and every agent's body ...
FULL_MODES = {
    "mistral-v13": Mode("v13"),
    "mistral-v11": Mode("v11"),
    "hf-v13": Mode("v13", tokenizer_mode="hf", profile="vllm-hf-template"),
}
#: ... and these only the conversations of the SDK: what they change is the answer, not what is accepted.
MODES = FULL_MODES | {
    "mistral-v13-noflags": Mode("v13", tools=False),  # no tool parser: calls come as text, which the proxy mends
    "mistral-v13-reasoning": Mode("v13", reasoning=True),
}
_NOTES: pytest.StashKey[list[str]] = pytest.StashKey()


@dataclass(frozen=True)
class Bench:
    """A live vLLM, the proxy in front of it, and how many tokens the model takes."""

    mode: str
    vllm: str
    proxy: str
    context: int


def note(config: pytest.Config, text: str) -> None:
    """Keep a line for the end of the run."""
    config.stash.setdefault(_NOTES, []).append(text)


def notes(config: pytest.Config) -> list[str]:
    return config.stash.get(_NOTES, [])
