"""
Say whether a chat request would be accepted, without a server. Runs in an environment with mistral-common.

    judge.py            reads JSON lines from stdin, answers each with one JSON line on stdout

The first line written is {"library": "1.13.1", "tokenizers": ["v3", ...], "templates": ["v3", ...]}.
Then {"name": ..., "request": {...}, "tokenizers": ["v13", ...], "templates": ["v13", ...]} is answered by
{"name": ..., "rejections": {"tokenizer v13": "text", ...}}; what accepts the request is not named.

The steps are those of vLLM 0.32 with a Mistral tokenizer (vllm/entrypoints/openai/chat_completion,
vllm/tokenizers/mistral.py): the server's own checks, ids cut to nine characters, mistral-common's validator,
normaliser and encoder in mode "test". The validator is asked once more in mode "serving", which is what the
hosted API uses: it also counts the results of the last turn.
"""

import copy
import json
import sys
import tempfile
from pathlib import Path

import mistral_common
import server_checks
import templates
from mistral_common.protocol.instruct.messages import AssistantMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer, TokenizerVersion

DATA = Path(mistral_common.__file__).parent / "data"
WANTED = ("v3", "v7", "v11", "v13", "v15")
#: What form a request has does not depend on the vocabulary: bytes and a few pairs load in no time.
TEXT_TOKENS = 1000


def special_tokens(version: int) -> list[dict]:
    """Return the special tokens in the order of Mistral's own tekken files."""
    names = [getattr(t["token_str"], "value", t["token_str"]) for t in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    if version >= 11:
        names += [f"<SPECIAL_{i}>" for i in range(20, 32)] + ["[ARGS]", "[CALL_ID]"]
    if version >= 13:
        names += ["[THINK]", "[/THINK]"]
    if version >= 15:
        names += ["[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"]
    return [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)]


def write_tokenizer(folder: Path, base: dict, version: str) -> Path:
    """Write a small tekken file of `version`, derived from the v3 file that the library ships."""
    config = base["config"]
    config = config | {"version": version, "default_vocab_size": config["default_num_special_tokens"] + TEXT_TOKENS}
    data = base | {"config": config, "special_tokens": special_tokens(int(version[1:]))}
    if version == "v15":
        effort = {"type": "enum", "accepts_none": True, "default": "none", "values": ["none", "high"]}
        data["model_settings_builder"] = {"reasoning_effort": effort}
    path = folder / f"tekken-{version}.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


class Judge:
    """One mistral-common: the tokenizers it has, and the chat templates that it generates for them."""

    def __init__(self, folder: Path) -> None:
        base = json.loads((DATA / "tekken_240718.json").read_text(encoding="utf-8"))
        base["vocab"] = base["vocab"][:TEXT_TOKENS]
        known = [version for version in WANTED if version in TokenizerVersion.__members__]
        files = {version: write_tokenizer(folder, base, version) for version in known}
        self.testing = {v: MistralTokenizer.from_file(f, mode=ValidationMode.test) for v, f in files.items()}
        self.serving = {v: MistralTokenizer.from_file(f, mode=ValidationMode.serving) for v, f in files.items()}
        self.templates = templates.load(files)

    def hello(self) -> dict:
        library = mistral_common.__version__
        return {"library": library, "tokenizers": list(self.testing), "templates": list(self.templates)}

    def answer(self, question: dict) -> dict:
        request = question["request"]
        rejections = {}
        for version in question.get("tokenizers", ()):
            rejections[f"tokenizer {version}"] = reason(self.tokenize, version, request)
        for version in question.get("templates", ()):
            rejections[f"template {version}"] = reason(self.render, version, request)
        return {"name": question["name"], "rejections": {k: text for k, text in rejections.items() if text}}

    def tokenize(self, version: str, request: dict) -> None:
        """
        Validate, normalise and encode as vLLM does with a Mistral tokenizer.

        Raises: whatever the library raises, assertions included; vLLM answers each of them with a 400.
        """
        server_checks.check(request, mistral_tokenizer=True)
        messages = [as_transformers_sends_it(m) for m in copy.deepcopy(request["messages"])]
        server_checks.cut_tool_ids(messages)
        tools = request.get("tools")
        effort = {"reasoning_effort": request.get("reasoning_effort")} if version == "v15" else {}
        chat = ChatCompletionRequest.from_openai(
            messages=messages,
            tools=tools,
            continue_final_message=bool(request.get("continue_final_message")),
            model=request.get("model") or "devstral",
            **effort,
        )
        self.testing[version].encode_chat_completion(chat)
        if not isinstance(chat.messages[-1], AssistantMessage):
            self.serving[version]._chat_completion_request_validator.validate_request(chat)

    def render(self, version: str, request: dict) -> None:
        """Render as vLLM does with a Hugging Face tokenizer. Raises: a template's own errors."""
        server_checks.check(request, mistral_tokenizer=False)
        templates.render(self.templates[version], request)


def as_transformers_sends_it(message: dict) -> dict:
    """Drop content parts without a type (transformers 5, `MistralCommonBackend.apply_chat_template`)."""
    if isinstance(message.get("content"), list):
        message["content"] = [part for part in message["content"] if part.get("type")]
    return message


def reason(judge, version: str, request: dict) -> str | None:
    """Return why `judge` rejects the request, or None."""
    try:
        judge(version, request)
    except Exception as error:
        # Any exception is a rejection: vLLM turns them all into a 400 (`safe_apply_chat_template`).
        return f"{type(error).__name__}: {error}"[:500]
    return None


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder))
    print(json.dumps(judge.hello()), flush=True)
    for line in sys.stdin:
        print(json.dumps(judge.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
