"""
F30: nothing that a client sends makes a label, so that the metrics are no larger for it.

production-stack#322, #699; BerriAI/litellm#12099. Sums over workers are in tests/process/test_summed_metrics.py.
"""

from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import ScriptedUpstream, completion, whole


async def series(proxy):
    """Return the names and labels of all that is told."""
    async with proxy.session.get(f"{proxy.url}/metrics") as response:
        families = text_string_to_metric_families(await response.text())
    return {(sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples}


async def test_models_paths_users_and_errors_of_clients_make_no_labels(start_proxy):
    refusal = {"error": {"message": "no", "type": "canary_type", "code": "canary_code"}}
    async with ScriptedUpstream([whole(completion())], [whole(refusal, 400)]) as upstream:
        proxy = await start_proxy(upstream.url)
        for number in range(2):  # each path of the program has been gone, by a first request
            async with proxy.chat() as response:
                assert response.status == (200, 400)[number]
        async with proxy.session.get(f"{proxy.url}/canary"):
            pass
        await series(proxy)
        before = await series(proxy)
        for number in range(20):
            name = f"canary-{number}"
            proxy.session.headers.update({"X-Request-ID": name, "X-Session-ID": name, "User-Agent": name})
            async with proxy.chat(model=name, user=name, metadata={"canary": name}) as response:
                assert response.status == 400
            async with proxy.session.request("GET", f"{proxy.url}/{name}") as response:
                assert response.status == 404
        after = await series(proxy)

    assert after == before
    assert "canary" not in str(after)
