"""The wheel: what is in it, and that the command works from the PATH of an environment that has only the wheel."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import proxy

PACKAGE = Path(proxy.__file__).parent


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip(*arguments):
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built by the locked backend: nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(PACKAGE.parent))
    [path] = folder.iterdir()
    return path


def test_the_wheel_holds_the_package_its_licence_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {
            name for name in archive.namelist() if not name.startswith(f"devstral_proxy-{proxy.__version__}.dist-info/")
        }
        metadata = set(archive.namelist()) - names

    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {str(path.relative_to(PACKAGE.parent)) for path in files}
    assert any(name.endswith("/licenses/LICENSE") for name in metadata)


def test_the_installed_command_runs_from_the_path(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    pip("--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    # the dependencies come from the environment that runs this test; they stand behind the wheel on the path
    site = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    path = {**os.environ, "PATH": f"{environment / 'bin'}:/usr/bin:/bin"}

    assert run("devstral-proxy", "--version", env=path, cwd=tmp_path) == f"devstral-proxy {proxy.__version__}\n"
    found = run(str(python), "-c", "import proxy; print(proxy.__file__)", cwd=tmp_path).strip()
    assert Path(found).is_relative_to(environment)
