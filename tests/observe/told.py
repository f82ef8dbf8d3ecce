"""What Prometheus reads of our metrics."""

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "devstral_proxy_"
#: What is never 0.
ALWAYS = (f"{PREFIX}build_info", f"{PREFIX}workers")


def samples_of(text):
    """Every sample of a scrape."""
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


async def told(counted):
    """Return the values of our own metrics by name and labels' values, without the prefix and without zeros."""
    samples = samples_of((await counted.render()).decode())
    others = {sample.name for sample in samples if not sample.name.startswith(PREFIX)}
    assert all(name.startswith(("gen_ai_", "process_")) for name in others)
    return {
        (sample.name.removeprefix(PREFIX), *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for sample in samples
        if sample.value and sample.name not in ALWAYS and sample.name not in others
    }
