"""
Write a tiny, deterministic Mistral model that a real vLLM can serve. Runs in the vLLM environment.

    make_model.py OUT_DIR [--version v13]

OUT_DIR gets a genuine `MistralForCausalLM` (2 layers, 8 heads, hidden size 384, bfloat16; 200 MB, nearly all of it
the two 131072-row embeddings), Mistral's tekken tokenizer of the wanted version, derived from the v3 file that the
mistral-common package ships, and the tokenizer.json and chat template of `--tokenizer-mode hf`.
So vLLM's own validation, rendering, grammar, sampler, tool parser and SSE code run; what the model says is scripted.

The weights are not trained but written, as a state machine:

  * a token that the model may emit is a state: a one-hot in its embedding; `lm_head` maps it to the next token;
  * layer 0, attention: one head per flag; a flag is 1 when one of its trigger tokens occurs anywhere before;
  * layer 0, MLP: one neuron per rule "in state S with flags F, say T", which overrides the next token;
  * layer 1 is zero (identity); in any other context a fixed preference list (" ok", then closing brackets) ends
    what a grammar forces.

What it says (v11+ syntax; v3 and v7 use their JSON arrays)
  no tools                          Hello! How can I help you today?
  tools in the request              get_weather {"city": "Paris"}
   + the word "both"                ... and a second call, get_time {} (v11+)
   + the word "explain"             the text "I'll check the weather." first
   + the word "broken"              arguments cut off (only where no grammar is on)
   + the word "unknown"             a call of no_such_tool (v11+)
  the word "think" (v13+)           [THINK]Let me see.[/THINK] first
  the word "long"                   the greeting again and again, until max_tokens
  last message is a tool result     It is sunny in Zürich, 25 °C – enjoy 👋   (characters split over tokens)
A trigger word counts anywhere in the conversation.
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import mistral_common
import torch
from mistral_common.integrations.chat_templates.chat_templates import convert_tokenizer_to_chat_template
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from safetensors.torch import save_file
from transformers.integrations.mistral import convert_tekken_tokenizer

BASE = Path(mistral_common.__file__).parent / "data" / "tekken_240718.json"
VERSIONS = ("v3", "v7", "v11", "v13", "v15")

HIDDEN, HEADS, HEAD_DIM, LAYERS, INTER, VOCAB = 384, 8, 32, 2, 64, 131072
WIDTH = HEADS * HEAD_DIM
THETA = 1e9  # the slowest rotary pair turns 4e-9 rad per position: as good as position-free
SCORE = 60.0  # attention logit of a trigger token
GAIN = 30.0  # lm_head weight of a plain step: so large that sampling never strays
SHARP = 40.0  # gate weight of a rule: all true gives +0.5, one false -0.5 of it, and silu makes that zero
POSITIONS = 65536

CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INTER,
    "max_position_embeddings": POSITIONS,
    "model_type": "mistral",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS,
    "rms_norm_eps": 1e-5,
    "rope_theta": THETA,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCAB,
}


# --- tokenizer


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


def write_tokenizer(out: Path, version: int) -> Tekkenizer:
    """Write tekken.json of the wanted version, and its HF twin with the chat template that mistral-common makes."""
    data = json.loads(BASE.read_text(encoding="utf-8"))
    data["config"]["version"] = f"v{version}"
    data["special_tokens"] = special_tokens(version)
    if version >= 15:
        effort = {"type": "enum", "accepts_none": True, "default": "none", "values": ["none", "high"]}
        data["model_settings_builder"] = {"reasoning_effort": effort}
    path = out / "tekken.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    convert_tekken_tokenizer(str(path)).save_pretrained(out)
    (out / "chat_template.jinja").write_text(convert_tokenizer_to_chat_template(path), encoding="utf-8")
    return Tekkenizer.from_file(path)


# --- the state machine


class Machine:
    """States, flags and rules, as they are told; `weights` lays them out."""

    def __init__(self, tokenizer: Tekkenizer) -> None:
        self.special = tokenizer.get_special_token
        self.next: dict[int, int] = {}  # state token -> next token
        self.flags: dict[str, list[int]] = {}  # name -> trigger tokens
        self.rules: list[tuple[int, list[str], int, int]] = []  # state, flags that must be on, token, level
        self.preferences: list[tuple[int, float]] = []
        self.extra: list[tuple[int, int, float]] = []  # state, token, weight on top of the preference
        self._ranks = tokenizer._tekken_token2id_nospecial
        self._shift = tokenizer.num_special_tokens
        self._used: set[int] = set()

    def piece(self, text: str) -> int:
        return self._ranks[text.encode()] + self._shift

    def words(self, *words: str) -> list[int]:
        """Return every one-token spelling of the words: bare, capitalised, after a space."""
        forms = [form for w in words for form in (" " + w, w, w.capitalize(), " " + w.capitalize())]
        return [self.piece(form) for form in forms if form.encode() in self._ranks]

    def chain(self, text: str, then: int) -> list[int]:
        """Make the machine say `text`, then the token `then`. Return the states. A "|" forces a cut there."""
        states = self._split(text)
        self.next.update(zip(states, [*states[1:], then], strict=True))
        return states

    def rule(self, state: int, say: int, *, when: Iterable[str], level: int = 1) -> None:
        self.rules.append((state, list(when), say, level))

    def _split(self, text: str) -> list[int]:
        """Cut text into tokens that no other chain uses, so that one next token per state is enough."""
        raw = text.replace("|", "").encode()
        cuts = {len(text[:i].replace("|", "").encode()) for i, char in enumerate(text) if char == "|"}

        def search(position: int, taken: frozenset) -> list[int] | None:
            if position == len(raw):
                return []
            for end in range(min(len(raw), position + 12), position, -1):
                rank = self._ranks.get(raw[position:end])
                if rank is None or any(position < cut < end for cut in cuts):
                    continue
                token = rank + self._shift
                if token in self._used | taken:
                    continue
                if (rest := search(end, taken | {token})) is not None:
                    return [token, *rest]
            return None

        states = search(0, frozenset())
        assert states, f"no unique cut for {text!r}"
        self._used.update(states)
        return states


def build(tokenizer: Tekkenizer, version: int) -> Machine:
    machine = Machine(tokenizer)
    end, after_user, calls = (machine.special(name) for name in ("</s>", "[/INST]", "[TOOL_CALLS]"))
    machine.flags["tools"] = [machine.special("[AVAILABLE_TOOLS]")]
    for word in ("both", "explain", "broken", "unknown", "think", "long"):
        machine.flags[word] = machine.words(word)

    hello = machine.chain("Hello! How can I help you today?", end)
    machine.next[after_user] = hello[0]
    machine.rule(hello[-1], hello[0], when=["long"])
    answer = machine.chain("It is sunny in Zürich, 25 °C – enjoy 👋", end)
    machine.next[machine.special("[/TOOL_RESULTS]")] = answer[0]
    preface = machine.chain("I'll check the weather.\n\n", end)
    machine.rule(preface[-1], calls, when=["tools"])

    starts = [after_user]
    if version >= 13:
        think, unthink = machine.special("[THINK]"), machine.special("[/THINK]")
        thought = machine.chain("Let me see.", unthink)
        machine.next[think], machine.next[unthink] = thought[0], hello[0]
        machine.rule(after_user, think, when=["think"], level=4)
        starts.append(unthink)
    for start in starts:
        machine.rule(start, calls, when=["tools"])
        machine.rule(start, preface[0], when=["explain"], level=2)

    add_calls = add_marked_calls if version >= 11 else add_array_calls
    add_calls(machine, calls, end)
    add_preferences(machine, end)
    return machine


def add_marked_calls(machine: Machine, calls: int, end: int) -> None:
    """The calls of v11 and later: [TOOL_CALLS]name[ARGS]{...}, again for each call."""
    args = machine.special("[ARGS]")
    first_name = machine.chain("get_weather", args)
    first_args = machine.chain('{"city": "Pa|ris"}', end)
    second_name = machine.chain("get_time", args)
    second_args = machine.chain("{}", end)
    unknown_name = machine.chain("no_such_tool", args)
    machine.next[calls], machine.next[args] = first_name[0], first_args[0]
    # Only generated text has this odd cut, so the flag means "the first call has been made".
    machine.flags["second"] = [first_args[-2]]
    machine.rule(calls, unknown_name[0], when=["unknown"])
    machine.rule(first_args[-2], end, when=["broken"])
    machine.rule(first_args[-1], calls, when=["both"])
    machine.rule(calls, second_name[0], when=["second"], level=2)
    machine.rule(args, second_args[0], when=["second"], level=2)


def add_array_calls(machine: Machine, calls: int, end: int) -> None:
    """The calls of v3 and v7, a JSON array; its odd spacing makes every token occur only once."""
    call = machine.chain('[{"name":"get_weather","arguments":{"city": "Pa|ris"}}', end)
    close = machine.chain("]", end)
    machine.next[call[-1]] = close[0]
    machine.next[calls] = call[0]
    machine.rule(call[-2], end, when=["broken"])


def add_preferences(machine: Machine, end: int) -> None:
    """Everywhere else: say " ok" once, and close whatever a grammar left open."""
    ok, zero = machine.piece(" ok"), machine.piece("0")
    machine.next[ok] = end
    closers = [" ok", '"}', '":', '"', "}", "]", '",', ",", "0", '{"', "{", "["]
    machine.preferences = [(machine.piece(p), 0.60 - 0.04 * i) for i, p in enumerate(closers)] + [(end, 0.58)]
    machine.extra += [(ok, machine.piece(p), 0.6 - 0.05 * i) for i, p in enumerate(['"}', '"', '":', '",'])]
    machine.extra += [(zero, machine.piece(p), 0.6 - 0.1 * i) for i, p in enumerate(["}", "]", ","])]


# --- weights


class Layout:
    """Which dimension of the residual stream holds what."""

    CONST, PAD = 0, 1

    def __init__(self, machine: Machine) -> None:
        states = set(machine.next) | {r[0] for r in machine.rules} | {e[0] for e in machine.extra}
        assert len(machine.flags) <= HEADS
        assert len(machine.rules) <= INTER
        self.trigger = {flag: 2 + i for i, flag in enumerate(machine.flags)}
        self.flag = {flag: 2 + HEADS + i for i, flag in enumerate(machine.flags)}
        self.first_rule = 2 + 2 * HEADS
        self.no_state = self.first_rule + len(machine.rules)
        self.state = {state: self.no_state + 1 + i for i, state in enumerate(sorted(states))}
        assert self.no_state + 1 + len(states) <= HIDDEN


def weights(machine: Machine) -> dict[str, torch.Tensor]:
    layout = Layout(machine)
    tensors = {
        "model.embed_tokens.weight": embedding(machine, layout),
        "lm_head.weight": head(machine, layout),
        "model.norm.weight": torch.ones(HIDDEN),
    }
    for n in range(LAYERS):
        layer = empty_layer()
        if n == 0:
            write_attention(layer, layout)
            write_rules(layer, layout, machine)
        tensors |= {f"model.layers.{n}.{name}.weight": tensor for name, tensor in layer.items()}
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}


def embedding(machine: Machine, layout: Layout) -> torch.Tensor:
    """One row per token, all of norm sqrt(3): a constant, its state, and a trigger or padding."""
    rows = torch.zeros(VOCAB, HIDDEN)
    rows[:, [layout.CONST, layout.PAD, layout.no_state]] = 1
    for state, dimension in layout.state.items():
        rows[state, layout.no_state] = 0
        rows[state, dimension] = 1
    for flag, tokens in machine.flags.items():
        for token in tokens:
            assert rows[token, layout.PAD] == 1, f"token in two flags: {token}"
            rows[token, layout.PAD] = 0
            rows[token, layout.trigger[flag]] = 1
    return rows


def head(machine: Machine, layout: Layout) -> torch.Tensor:
    rows = torch.zeros(VOCAB, HIDDEN)
    for state, token in machine.next.items():
        rows[token, layout.state[state]] = GAIN
    for state, token, weight in machine.extra:
        rows[token, layout.state[state]] += GAIN * weight
    for token, weight in machine.preferences:
        rows[token, layout.CONST] += GAIN * weight
    for i, (_, _, token, level) in enumerate(machine.rules):
        rows[token, layout.first_rule + i] = GAIN * 5 * level
    return rows


def empty_layer() -> dict[str, torch.Tensor]:
    return {
        "self_attn.q_proj": torch.zeros(WIDTH, HIDDEN),
        "self_attn.k_proj": torch.zeros(WIDTH, HIDDEN),
        "self_attn.v_proj": torch.zeros(WIDTH, HIDDEN),
        "self_attn.o_proj": torch.zeros(HIDDEN, WIDTH),
        "mlp.gate_proj": torch.zeros(INTER, HIDDEN),
        "mlp.up_proj": torch.zeros(INTER, HIDDEN),
        "mlp.down_proj": torch.zeros(HIDDEN, INTER),
        "input_layernorm": torch.ones(HIDDEN),
        "post_attention_layernorm": torch.ones(HIDDEN),
    }


def write_attention(layer: dict[str, torch.Tensor], layout: Layout) -> None:
    """One head per flag: look for its triggers with the slowest rotary pair, write 1 if one is there."""
    norm = (HIDDEN / 3) ** 0.5  # what the first RMSNorm multiplies by
    slowest = HEAD_DIM // 2 - 1
    strength = (SCORE * HEAD_DIM**0.5) ** 0.5 / norm
    for i, flag in enumerate(layout.flag):
        row = i * HEAD_DIM
        layer["self_attn.q_proj"][row + slowest, layout.CONST] = strength
        layer["self_attn.k_proj"][row + slowest, layout.trigger[flag]] = strength
        layer["self_attn.v_proj"][row, layout.trigger[flag]] = 1 / norm
        layer["self_attn.o_proj"][layout.flag[flag], row] = 1


def write_rules(layer: dict[str, torch.Tensor], layout: Layout, machine: Machine) -> None:
    for i, (state, flags, _, _) in enumerate(machine.rules):
        layer["mlp.gate_proj"][i, layout.state[state]] = SHARP
        for flag in flags:
            layer["mlp.gate_proj"][i, layout.flag[flag]] = SHARP
        layer["mlp.gate_proj"][i, layout.CONST] = -SHARP * (len(flags) + 0.5)
        layer["mlp.up_proj"][i, layout.CONST] = 1
        # The second norm multiplies by sqrt(HIDDEN / (3 + flags that are on)): a rule that fires
        # writes 1 with one flag on, 0.36 with all eight.
        layer["mlp.down_proj"][layout.first_rule + i, i] = 1 / (0.5 * SHARP * HIDDEN / 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--version", default="v13", choices=VERSIONS)
    arguments = parser.parse_args()
    out, version = arguments.out, int(arguments.version[1:])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    machine = build(write_tokenizer(out, version), version)
    save_file(weights(machine), out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(CONFIG, indent=1))
    (out / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))


if __name__ == "__main__":
    main()
