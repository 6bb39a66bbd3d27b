"""Running code as a stranger would: a fresh process, an empty module cache, and this package not importable."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

# Blocks the package, also when it is installed, proves it, and dirties the heap so that memory which a loader
# forgets to fill shows up as NaN.
PRELUDE = """
import importlib.abc, sys
class _Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pemoe":
            raise ModuleNotFoundError("pemoe is blocked in this process", name=name)
sys.meta_path.insert(0, _Blocked())
try:
    import pemoe
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("pemoe is importable, so this run would prove nothing")
import torch
_dirt = [torch.full((size,), float("nan")) for size in (64, 1024, 16384, 262144) for _ in range(32)]
del _dirt
"""


def run_without_package(code: str, *arguments: str) -> str:
    """Run Python code in a fresh process that cannot import `pemoe`, in another directory, offline.

    The code finds `arguments` in `sys.argv[1:]`; what it prints on stdout comes back.

    Raises:
        RuntimeError: the process failed; the message ends with the last line of its stderr.
    """
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "HF_MODULES_CACHE": os.path.join(scratch, "modules"), "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        command = [sys.executable, "-c", PRELUDE + code, *arguments]
        process = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the fresh process failed with exit code {process.returncode}: {last}")
    return process.stdout
