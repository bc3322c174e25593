"""The shipped files: a missing, damaged or foreign one is named, and each has its licence beside it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import mmtutor.data as data
from mmtutor.data import digits, emoji, files, tweets

ROOT = Path(__file__).resolve().parent.parent
LICENCES = files.FOLDER / "licences"


@pytest.fixture
def folder(tmp_path):
    """A copy of the data files to damage."""
    copy = tmp_path / "data"
    shutil.copytree(files.FOLDER, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__", "licences"))
    yield copy
    shutil.rmtree(copy)


LOADER_OF = {
    "emoji_text.jsonl": emoji.load_emoji,
    "emoji_pictures.npz": emoji.load_emoji,
    "emoji_animations.npz": emoji.load_emoji,
    "emoji_sentiment.csv": emoji.load_sentiment,
    "digits.npz": digits.load_digits,
    "tweets.jsonl": tweets.load_tweets,
}


def forge(folder: Path, name: str, content: bytes) -> None:
    """Write a file and make the manifest agree with its bytes."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][name] |= {"bytes": len(content), "sha256": files.fingerprint(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_the_manifest_lists_every_data_file():
    assert set(files.read_manifest()["files"]) == set(LOADER_OF)
    assert set(LOADER_OF) == {
        p.name for p in files.FOLDER.iterdir() if p.suffix in (".npz", ".jsonl", ".csv")
    }


@pytest.mark.parametrize("name", LOADER_OF)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(data.DataError, match=rf"{name}: expected a file of [\d,]+ bytes, found no such file"):
        LOADER_OF[name](folder)


@pytest.mark.parametrize("name", LOADER_OF)
def test_one_changed_bit_is_noticed(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(
        data.DataError, match=rf"{name}: expected SHA-256 [0-9a-f]{{64}}, found [0-9a-f]{{64}}"
    ):
        LOADER_OF[name](folder)


def test_a_file_cut_short_is_answered_with_both_lengths(folder):
    content = (folder / "digits.npz").read_bytes()
    (folder / "digits.npz").write_bytes(content[:1000])
    with pytest.raises(data.DataError, match=rf"digits.npz: expected {len(content):,} bytes, found 1,000"):
        digits.load_digits(folder)


def test_another_format_version_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 2}), encoding="utf-8")
    with pytest.raises(data.DataError, match="manifest.json: expected data format 1, found 2"):
        tweets.load_tweets(folder)


def test_a_missing_or_broken_manifest_is_named(folder):
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(data.DataError, match="manifest.json: expected JSON"):
        tweets.load_tweets(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(data.DataError, match="manifest.json: .*found no such file"):
        tweets.load_tweets(folder)


def test_arrays_of_another_shape_are_refused(folder, tmp_path):
    np.savez_compressed(tmp_path / "other.npz", labels=np.zeros(3, np.uint8))
    forge(folder, "digits.npz", (tmp_path / "other.npz").read_bytes())
    with pytest.raises(
        data.DataError, match=r"digits.npz: expected arrays .*2000.*found \{'labels': \['uint8', \[3\]\]"
    ):
        digits.load_digits(folder)


def test_nothing_is_unpickled(folder, tmp_path):
    np.savez_compressed(tmp_path / "other.npz", labels=np.array([{}], dtype=object))
    forge(folder, "digits.npz", (tmp_path / "other.npz").read_bytes())
    with pytest.raises(
        data.DataError, match="digits.npz: expected arrays of numbers or text, found .*allow_pickle"
    ):
        digits.load_digits(folder)


def test_a_file_that_is_not_data_is_answered_with_those_that_are():
    with pytest.raises(data.DataError, match="cats.npz: expected one of digits.npz, .*found 'cats.npz'"):
        files.read_arrays("cats.npz")


# Licences


@pytest.mark.parametrize(
    "text", [LICENCES / "NOTICE.txt", ROOT / "book" / "licences.md"], ids=["notice", "book"]
)
def test_every_data_file_has_its_licence_stated_and_shipped(text):
    content = text.read_text(encoding="utf-8")
    assert not {name for name in LOADER_OF if name not in content}
    named = set(re.findall(r"\b[\w.-]+\.txt\b", content)) - {"NOTICE.txt", "requirements-data.txt"}
    assert named == {path.name for path in LICENCES.glob("*.txt")} - {"NOTICE.txt"}
