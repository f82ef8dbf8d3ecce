"""
A demo upstream: a chat server with a strict Mistral's manners and no model, inside this process.

It exists so that the proxy can be tried without a GPU, and so that tests can show which repairs are needed: sent to it
directly an OpenAI agent's history is refused, through the proxy it is answered. It is not a model (what it says is a
table of sentences), not a tokenizer (a token is a word), and not for production.

Reading order:
  1. validate.py       the ordered table of checks, with the texts of vLLM and mistral-common
  2. model.py          what is said, token by token
  3. answer.py         the tokens in vLLM's wire forms, whole and streamed
  4. server.py         routes, and the class to start: DemoUpstream
"""

from proxy.demo.server import DemoUpstream

__all__ = ["DemoUpstream"]
