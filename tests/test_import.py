"""`import mmtutor` stays light: what is slow to import waits until it is used."""

import subprocess
import sys

SLOW = ("IPython", "matplotlib", "scipy", "sklearn", "torchvision", "anywidget")


def test_importing_the_package_imports_nothing_slow():
    code = (
        "import torch, sys; before = set(sys.modules); import mmtutor; "
        f"print(set({SLOW}) & (set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()", f"slow modules imported by `import mmtutor`: {found}"
