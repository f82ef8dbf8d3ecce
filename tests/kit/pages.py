"""
What a model server says of itself on its other routes, as far as gateways ask before they use it.

vLLM's /health, /ping, /version, /load, /metrics and /v1/models; SGLang's /get_model_info and /get_server_info, which
vllm-router and smg ask too.
"""

from typing import Any, Final

from tests.fakes import head, whole

MODEL: Final = "devstral"

_DESCRIPTION: Final = {
    "model_path": MODEL,
    "tokenizer_path": MODEL,
    "served_model_name": MODEL,
    "model_id": MODEL,
    "is_generation": True,
    "tp_size": 1,
    "dp_size": 1,
    "max_total_num_tokens": 131_072,
}
_MODELS: Final = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "vllm", "max_model_len": 131_072}],
}
_METRICS: Final = (
    "# TYPE vllm:num_requests_running gauge\n"
    f'vllm:num_requests_running{{model_name="{MODEL}"}} 0\n'
    "# TYPE vllm:num_requests_waiting gauge\n"
    f'vllm:num_requests_waiting{{model_name="{MODEL}"}} 0\n'
).encode()

_JSON: Final[dict[str, Any]] = {
    "/version": {"version": "0.32.0"},
    "/load": {"server_load": 0},
    "/get_load": {"load": 0},
    "/v1/models": _MODELS,
    "/models": _MODELS,
    f"/v1/models/{MODEL}": _MODELS["data"][0],
    "/get_model_info": _DESCRIPTION,
    "/model_info": _DESCRIPTION,
    "/get_server_info": _DESCRIPTION,
    "/server_info": _DESCRIPTION,
}
_EMPTY: Final = ("/health", "/ping", "/health_generate", "/v1/health", "/")


def page(method: str, path: str) -> bytes | None:
    """Return the answer of a status page; None if it is none that this server has."""
    if path in _EMPTY and method in ("GET", "HEAD"):
        return head(200, content_length="0")
    if method == "GET" and path == "/metrics":
        return whole(_METRICS, content_type="text/plain; version=0.0.4")
    if method == "GET" and path in _JSON:
        return whole(_JSON[path])
    if path in ("/tokenize", "/detokenize"):
        return whole({"detail": "Not Found"}, 404)  # only some versions and set-ups of vLLM have them
    return None
