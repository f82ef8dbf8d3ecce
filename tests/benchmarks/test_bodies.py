"""The bodies that are measured."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.bodies import all_bodies
from proxy.translate.profile import build_profile
from proxy.translate.request import translate_request

PROFILE = build_profile("vllm-mistral-tokenizer")
DIGEST = "import hashlib, benchmarks.bodies as b; print(hashlib.sha256(b''.join(b.all_bodies().values())).hexdigest())"


def test_bodies_are_the_same_bytes_in_every_process() -> None:
    """Sets and hashes have an order of their own in each process."""
    digests = [
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]

    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("name", "size"),
    [("short", 500), ("agentic", 63_000), ("agentic-clean", 63_000), ("huge", 1_000_000), ("huge-clean", 1_000_000)],
)
def test_bodies_are_as_large_as_their_rows_say(name: str, size: int) -> None:
    assert len(all_bodies()[name]) == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize("name", ["short", "agentic-clean", "huge-clean"])
def test_rules_change_nothing_in_a_clean_body(name: str) -> None:
    assert translate_request(all_bodies()[name], PROFILE).rules_applied == ()


@pytest.mark.parametrize("name", ["agentic", "huge"])
def test_rules_have_work_to_do_in_a_clients_body(name: str) -> None:
    applied = translate_request(all_bodies()[name], PROFILE).rules_applied

    assert {"text_parts_to_string", "nine_char_tool_ids", "strict_removed", "schema_to_draft7"} <= set(applied)


@pytest.mark.parametrize("name", list(all_bodies()))
def test_the_mock_finds_its_fields_at_the_ends_of_the_translated_body(name: str) -> None:
    """It looks at the first and last 512 bytes only."""
    sent = translate_request(all_bodies()[name], PROFILE).body
    ends = sent[:512] + sent[-512:]

    assert all(json.dumps(field).encode() in ends for field in ("stream", "max_tokens", "seed"))
