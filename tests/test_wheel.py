"""The wheel holds what a reader away from the repository needs, and stays light."""

import zipfile
from pathlib import Path

import pytest

from tests.wheels import build_wheel

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_is_light(wheel):
    assert wheel.stat().st_size < 25e6


def test_the_wheel_holds_code_data_scripts_and_recorded_runs(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    missing = []
    for folder, place in (("mmtutor", "mmtutor"), ("results", "mmtutor/_results")):
        for path in (ROOT / folder).rglob("*"):
            name = f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
            if path.is_file() and "__pycache__" not in path.parts and name not in inside:
                missing.append(name)
    assert not missing
    assert any(name.endswith(".npz") for name in inside) and any(name.endswith(".js") for name in inside)


def test_the_wheel_holds_nothing_else(wheel):
    folders = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"mmtutor"}
