"""
The request that has another upstream go on from the middle of an answer.

    request, and the text that the client has --> the same request, with that text as an assistant message to continue

vLLM continues a last assistant message on two parameters together (Q16, H6) and answers with new text only;
api.mistral.ai continues one that is marked `prefix` and repeats it. Where the text says nothing yet, the request goes
out again as it was. What cannot be continued: an answer that has a form as a whole (a grammar, a schema, a demanded
call), one of several, and one whose tokens are described one by one.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from proxy.errors import InvalidRequest
from proxy.translate.answer_again import given
from proxy.translate.answer_facts import is_passthrough
from proxy.translate.expectation import Expectation
from proxy.translate.request import UpstreamRequest
from proxy.wire.body import decode_body, split_list
from proxy.wire.chat import Message, decode, encode, text_content

#: Any of these that is set, and not to nothing, false or zero: see the module. All but the first two are vLLM's own.
_OF_THE_WHOLE: Final = (
    *("logprobs", "top_logprobs", "prompt_logprobs", "return_token_ids", "echo", "use_beam_search", "best_of"),
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding"),
    *("guided_decoding_backend", "guided_whitespace_pattern", "grammar", "json_schema", "continue_final_message"),
)
#: Limits on the answer's tokens, and the least that each may be.
_LIMITS: Final = (("max_tokens", 1), ("max_completion_tokens", 1), ("min_tokens", 0))


def continued(request: UpstreamRequest, seen: str, held: str = "", *, pieces: int) -> UpstreamRequest | None:
    """
    Return what to ask another upstream so that it goes on, None if it cannot.

    `seen` is all text that the client has (`Transcript.text`), `held` what white space follows it
    (`StreamTranslator.held_space`). Limits on tokens become lower by `pieces` (`Transcript.pieces`), and leave one at
    least. That is no more than the tokens of `seen`: the whole answer may be a little longer than the client allowed.
    The answer's translator must be told the `expectation` of what is returned (`StreamTranslator.resume`).
    """
    if is_passthrough(request.expectation.options):
        return None
    text = given(seen + held)
    if not text:
        return request
    try:
        members: dict[str, Any] = dict(decode_body(request.body))
        if not _can_be_continued(members, request.expectation):
            return None
        _lower_limits(members, pieces)
    except (InvalidRequest, msgspec.DecodeError):
        return None
    is_marked = request.expectation.options.prefix_form == "prefix"
    message = Message("assistant", text_content(text))
    if is_marked:
        message.prefix = True
    else:
        members |= {"continue_final_message": True, "add_generation_prompt": False}
    members["messages"] = Raw(b"%b,%b]" % (bytes(members["messages"])[:-1], encode(message)))
    expectation = msgspec.structs.replace(
        request.expectation,
        echoed_prefix=text if is_marked else "",
        max_tokens=_lowered(request.expectation.max_tokens, pieces, 1),
    )
    return msgspec.structs.replace(request, body=encode(members), expectation=expectation)


def continued_comment(seen: str) -> bytes:
    """Return the comment that tells the client's operator where another upstream went on: it holds no text of it."""
    return b": continued on another replica after %d characters\n\n" % len(seen)


def _can_be_continued(members: Mapping[str, Raw], expectation: Expectation) -> bool:
    if expectation.tool_choice in ("required", "named"):
        return False
    if any(decode(members[name]) for name in _OF_THE_WHOLE if name in members):
        return False
    if decode(members.get("n", Raw(b"null"))) not in (None, 1):
        return False
    form = decode(members.get("response_format", Raw(b"null")))
    if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
        return False
    last = decode(split_list(members["messages"], "messages")[-1])
    return bool(last["role"] != "assistant")


def _lower_limits(members: dict[str, Any], pieces: int) -> None:
    for name, least in _LIMITS:
        if name in members:
            members[name] = _lowered(decode(members[name]), pieces, least)


def _lowered(limit: Any, pieces: int, least: int) -> Any:
    """Return `limit` less `pieces`, or as it is where it is none."""
    return max(least, limit - pieces) if isinstance(limit, int) and not isinstance(limit, bool) else limit
