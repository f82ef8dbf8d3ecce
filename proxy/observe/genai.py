"""
The metrics that OpenTelemetry has names for, as Prometheus spells them.

Source: semantic-conventions-genai, docs/gen-ai/gen-ai-metrics.md (status: development), 2026-11; names by the rules of
OpenTelemetry's Prometheus exporter: dots become underscores, the unit is appended.

The convention has a client's metrics and a server's. A proxy is both, and its clock is one: what a client of it waits
for. So some of these are the same numbers twice, under the names that dashboards for clients and for servers ask for.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from proxy.observe.layout import Family, collapsed
from proxy.observe.models import DOUBLED_MS, FIRST_TOKENS_MS, PER_TOKEN_MS, TOKENS, ModelCounts


class Told(NamedTuple):
    """A histogram that is told from `kept`; `unit` is what its numbers are divided by."""

    name: str
    kept: str
    bounds: Sequence[float]
    about: str
    unit: float = 1000


#: In the order in which they are told.
GENAI: Final = (
    Told("gen_ai_client_operation_duration_seconds", "durations", DOUBLED_MS, "From a request's headers to its end."),
    Told("gen_ai_client_token_usage", "tokens", TOKENS, "Tokens of a request, as the model server counts them.", 1),
    Told(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        "firsts",
        DOUBLED_MS,
        "From a request's headers to its streamed answer's first event.",
    ),
    Told(
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        "gaps",
        DOUBLED_MS,
        "Between two writes of events to a streamed answer.",
    ),
    Told("gen_ai_server_request_duration_seconds", "durations", DOUBLED_MS, "From a request's headers to its end."),
    Told(
        "gen_ai_server_time_to_first_token_seconds",
        "firsts",
        FIRST_TOKENS_MS,
        "From a request's headers to its streamed answer's first event.",
    ),
    Told(
        "gen_ai_server_time_per_output_token_seconds",
        "gaps",
        PER_TOKEN_MS,
        "Between two writes of events to a streamed answer: vLLM sends an event for each token.",
    ),
)

#: What every one of them has; the model is added.
LABELS: Final = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "mistral_ai"}
MODEL: Final = "gen_ai_request_model"
#: The label of what is kept apart.
APART: Final = {"durations": "error_type", "tokens": "gen_ai_token_type"}


def genai(models: ModelCounts) -> bytes:
    """Return the metrics as text; one of which nothing was counted has no samples."""
    return generate_latest(_Scrape(models))


class _Scrape(Collector):
    def __init__(self, models: ModelCounts) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        summed = self._models.summed()
        for told in GENAI:
            metric = Metric(told.name, told.about, "histogram")
            kept = self._models.families[told.kept]
            for model, row in summed:
                for labels, block in _blocks(told, kept, row):
                    _add(
                        metric, {**LABELS, MODEL: model, **labels}, told, collapsed(block, kept.bounds_ms, told.bounds)
                    )
            yield metric


def _blocks(told: Told, kept: Family, row: Sequence[float]) -> Iterator[tuple[Mapping[str, str], Sequence[float]]]:
    """Yield what was counted, with the label that keeps it apart; what is empty is left out, as OpenTelemetry does."""
    for values, block in kept.blocks(row):
        if any(block[1:]):
            yield ({APART[told.kept]: values[0]} if any(values) else {}), block


def _add(metric: Metric, labels: Mapping[str, str], told: Told, block: Sequence[float]) -> None:
    total, *counts = block
    reached = 0.0
    for bound, reached in zip((*told.bounds, None), accumulate(counts), strict=True):
        le = "+Inf" if bound is None else str(bound / told.unit)
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": le}, reached)
    metric.add_sample(f"{metric.name}_count", dict(labels), reached)
    metric.add_sample(f"{metric.name}_sum", dict(labels), total / told.unit)
