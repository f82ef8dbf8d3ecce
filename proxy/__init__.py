"""
Devstral Proxy: OpenAI-compatible agents on Mistral models behind vLLM, unmodified.

Reading order:
  1. errors.py                what can go wrong, by who is at fault
  2. translate/profile.py     the tables of rules that make up an upstream
  3. translate/request.py     a client's body becomes an upstream's body
  4. translate/stream.py      a streamed answer on its way back, as a state machine
  5. edge/server.py           the routes, and the one boundary where errors leave
"""

__version__ = "0.1.0"
