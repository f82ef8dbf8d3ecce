"""The Dockerfile, as far as it can be judged without building it; test_image.py builds and runs it."""

import fnmatch
import re
import subprocess

import pytest

from proxy.config import SETTINGS
from proxy.healthcheck import healthcheck
from tests.deploy.engine import ROOT, run
from tests.deploy.locks import EXTRAS

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
INSTALL = (ROOT / "deploy" / "install.sh").read_text(encoding="utf-8")


def steps(word, text=DOCKERFILE):
    """Return what stands behind each instruction of that name, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    return re.findall(rf"^{word} (.+)$", joined, re.MULTILINE)


def last_stage():
    return DOCKERFILE[DOCKERFILE.rindex("\nFROM") :]


def test_hadolint_finds_nothing(tool):
    run(tool("hadolint"), str(ROOT / "deploy" / "Dockerfile"))


def test_nothing_is_run_in_the_last_stage():
    """So that it is the same for every processor, and needs neither a shell nor an emulator."""
    assert steps("RUN", last_stage()) == []
    assert steps("FROM") == ["${BASE} AS built", "${BASE}"]
    assert len(steps("RUN")) == 2


def test_it_runs_as_nobody_and_is_asked_by_its_own_command():
    assert steps("USER", last_stage()) == ["65532:65532"]
    assert steps("STOPSIGNAL") == ["SIGTERM"]
    assert steps("ENTRYPOINT") == ['["devstral-proxy"]']
    [check] = steps("HEALTHCHECK")
    assert check.endswith('CMD ["devstral-proxy", "healthcheck"]')
    # it is asked where the settings say, and says no: nothing listens there
    assert healthcheck([], {"PROXY_PORT": "1"}) == 1


def test_every_setting_that_it_presets_is_one():
    known = {name for setting in SETTINGS.values() for name in setting.variables}
    preset = set(re.findall(r"([A-Z_]+)=", " ".join(steps("ENV"))))
    assert preset - {"PATH", "TMPDIR", "PYTHONDONTWRITEBYTECODE"} == {"PROXY_HOST"}
    assert "PROXY_HOST" in known


def test_the_base_is_a_version_that_may_be_pinned_by_digest():
    assert steps("ARG")[0] == "BASE=docker.io/library/python:3.13-slim-trixie"
    told = run("make", "--dry-run", "image", "BASE=python:3.13-slim@sha256:abc", cwd=str(ROOT))
    assert "--build-arg BASE=python:3.13-slim@sha256:abc" in told


def test_only_what_is_copied_is_sent_to_the_builder():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {name for step in steps("COPY") if "--from" not in step for name in step.split()[:-1]}
    assert allowed == copied
    assert lines.index("*") < min(lines.index(f"!{name}") for name in allowed)
    assert not any(fnmatch.fnmatch("deploy/secrets", name) for name in allowed)


def test_it_installs_the_extras_that_make_run_does():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [extras] = re.findall(r"^EXTRAS := (.+)$", makefile, re.MULTILINE)
    assert tuple(extras.removeprefix("--extra ").split(" --extra ")) == EXTRAS
    assert re.findall(r"^extras=(.+)$", INSTALL, re.MULTILINE) == [",".join(EXTRAS)]


@pytest.mark.parametrize("line", [line for line in INSTALL.splitlines() if "pip download" in line])
def test_all_that_is_fetched_is_a_wheel_with_a_locked_hash(line):
    assert "--only-binary :all:" in line
    assert "--require-hashes" in line


def test_nothing_is_installed_but_what_was_fetched():
    installs = [line for line in INSTALL.splitlines() if re.search(r"pip .*\binstall\b", line)]
    assert len(installs) == 3
    assert all("$from_wheels" in line for line in installs)
    assert 'from_wheels="--no-index ' in INSTALL


def test_the_script_is_one_for_any_shell():
    assert INSTALL.startswith("#!/bin/sh\n")
    assert (ROOT / "deploy" / "install.sh").stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(ROOT / "deploy" / "install.sh")], check=False).returncode == 0
