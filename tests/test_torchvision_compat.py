"""A plain `import torchvision` works beside any torch, and a working torchvision is left alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# prints what declare_missing_operators() returns, and whether the operator exists afterwards
DECLARE = """
import torch
from mmtutor._torchvision import declare_missing_operators
print(declare_missing_operators(), hasattr(torch.ops.torchvision, "nms"))
"""


def run(code: str, folder: Path | None = None) -> str:
    """Run code in a fresh interpreter that finds packages in `folder` first."""
    head = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_torchvision(folder: Path, library: bytes) -> Path:
    """A package called torchvision that consists of a compiled part alone."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_C.so").write_bytes(library)
    return folder


def test_import_torchvision_works_after_import_mmtutor():
    code = """
import mmtutor, torch, torchvision
from torchvision.transforms import v2
print(torchvision.models.resnet18(num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape)
print(v2.RandomCrop(8)(torch.zeros(3, 32, 32)).shape)
"""
    assert run(code).split("\n") == ["torch.Size([1, 3])", "torch.Size([3, 8, 8])"]


def test_a_library_that_cannot_load_gets_its_operators_declared(tmp_path):
    folder = fake_torchvision(tmp_path, b"not a library")
    assert run(DECLARE, folder) == "True True"


def test_declaring_twice_does_no_harm(tmp_path):
    folder = fake_torchvision(tmp_path, b"not a library")
    assert run(DECLARE + "print(declare_missing_operators())", folder).split() == ["True", "True", "True"]


def test_a_library_that_loads_is_left_alone(tmp_path):
    loadable = next((Path(torch.__file__).parent / "lib").glob("*global_deps*"), None)
    if loadable is None:
        pytest.skip("this torch has no small library to stand in for a compiled torchvision")
    folder = fake_torchvision(tmp_path, b"")
    shutil.copy(loadable, folder / "torchvision" / "_C.so")
    assert run(DECLARE, folder) == "False False"


def test_without_torchvision_nothing_happens():
    code = "import importlib.util; importlib.util.find_spec = lambda name: None" + DECLARE
    assert run(code) == "False False"


def test_import_mmtutor_does_not_import_torchvision():
    assert run("import mmtutor, sys; print('torchvision' in sys.modules)") == "False"
