"""What is known of versions: each row has a source, and something real that sees to it."""

import pytest

from proxy.translate.answer_rules import ANSWER_RULES
from proxy.translate.capabilities import PROBES
from proxy.translate.options import Options
from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, UNPROBED, Choice, build_profile
from proxy.translate.quirks import LIBRARY_FLOORS, LIBRARY_QUIRKS, VLLM_QUIRKS, Quirk, parse_version, quirks_for

every_row = pytest.mark.parametrize("quirk", [*VLLM_QUIRKS, *LIBRARY_QUIRKS], ids=lambda quirk: quirk.fact[:40])


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.32.0", (0, 32, 0)),
        ("0.32.0+cpu", (0, 32, 0)),
        ("v0.8.5.post1", (0, 8, 5)),
        ("0.11", (0, 11, 0)),
        ("0.13.0rc2", (0, 13, 0)),
        ("0.10.2.dev7+g1a2b3c", (0, 10, 2)),
        ("dev", None),
        ("", None),
        (None, None),
        ("1e9", None),
        ("9" * 5000 + ".1", None),
    ],
)
def test_a_version_is_the_numbers_it_begins_with(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("version", "mode", "streams"),
    [
        ("0.8.5", "mistral", False),
        ("0.12.9", "mistral", False),
        ("0.13.0", "mistral", True),
        ("0.19.1", "hf", False),
        ("0.20.0", "hf", True),
        ("0.32.0", "mistral", True),
    ],
)
def test_calls_are_streamed_only_by_versions_that_can(version, mode, streams):
    options = {name for quirk in quirks_for(version, mode) for name in quirk.options}

    assert ("upstream_stream" not in options) is streams


def test_an_unknown_version_has_no_quirks():
    assert quirks_for(None) == quirks_for("nightly", "mistral") == ()


def test_a_row_holds_from_its_first_version_up_to_the_one_that_mended_it():
    quirk = Quirk(fact="", source="", since=(0, 19, 0), before=(0, 25, 0))

    assert [quirk.holds_for(v) for v in ((0, 18, 9), (0, 19, 0), (0, 24, 9), (0, 25, 0))] == [False, True, True, False]


@every_row
def test_a_row_has_a_fact_and_a_source_and_no_empty_range(quirk):
    assert quirk.fact.endswith((".", "1.12."))
    assert quirk.source
    assert quirk.since is None or quirk.before is None or quirk.since < quirk.before


@every_row
def test_what_sees_to_a_row_exists(quirk):
    build_profile(UNPROBED, quirk.options)
    for name in filter(None, quirk.seen_by.split(", ")):
        option, _, value = name.partition("=")
        assert name in KNOWN or value in map(str, OPTION_VALUES[option]), name


@every_row
def test_only_the_advice_to_install_another_library_is_left_to_the_operator(quirk):
    assert quirk.options or quirk.seen_by or "install 1.12" in quirk.fact


def test_the_oldest_library_of_a_vllm_never_gets_older():
    vllm, library = zip(*[(parse_version(row[0]), parse_version(row[1])) for row in LIBRARY_FLOORS], strict=True)

    assert list(vllm) == sorted(vllm)
    assert list(library) == sorted(library)


RULES = [r for e in (*MESSAGE_RULES, *CHAT_RULES) for r in (e.rules.values() if isinstance(e, Choice) else [e])]
KNOWN = {rule.__name__ for rule in RULES} | set(ANSWER_RULES) | {probe.name for probe in PROBES}
OPTION_VALUES = {
    name: [getattr(build_profile(profile).options, name) for profile in (UNPROBED, "vllm-hf-template", "mistral-api")]
    for name in Options.__struct_fields__
}
