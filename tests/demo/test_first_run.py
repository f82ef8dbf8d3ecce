"""What a newcomer types first: the request at the top of the README, with nothing but the demo behind the proxy."""

import json
import re
from pathlib import Path

from proxy.demo import DemoUpstream

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def first(pattern: str) -> str:
    found = re.search(pattern, README, re.S)
    assert found is not None
    return found[1]


async def test_the_first_request_of_the_readme_gets_the_answer_that_stands_there(start_proxy):
    request = json.loads(first(r"127\.0\.0\.1:9000/v1/chat/completions [^\n]*-d '(\{.*?\})'\n"))
    promised = json.loads(first(r"The answer, shortened:\n\n```\n(\{.*?\})\n```"))
    demo = DemoUpstream(chunk_delay_s=0)
    await demo.start()
    try:
        proxy = await start_proxy(demo.url, profile="auto")
        async with proxy.session.post(f"{proxy.url}/v1/chat/completions", json=request) as response:
            answer = await response.json()
    finally:
        await demo.close()

    (call,) = promised["choices"][0]["message"]["tool_calls"]
    (given,) = answer["choices"][0]["message"].pop("tool_calls")
    assert (given["type"], given["function"]) == (call["type"], call["function"])
    assert re.fullmatch("[A-Za-z0-9]{9}", given["id"])
    assert answer["choices"][0]["finish_reason"] == promised["choices"][0]["finish_reason"]
    assert {name: answer["usage"][name] for name in promised["usage"]} == promised["usage"]
