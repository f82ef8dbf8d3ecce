"""What tests of benchmarks need that not every machine has."""

import shutil
from pathlib import Path

import pytest

#: The mock and the load generator, which are C programs, and the clocks of other processes.
needs_programs = pytest.mark.skipif(
    shutil.which("cc") is None or not Path("/proc/self/schedstat").exists(), reason="needs Linux and a C compiler"
)
