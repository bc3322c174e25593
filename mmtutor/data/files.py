"""Reading the shipped files: every byte is checked against the manifest before it is used."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
FORMAT = 1  # version of the layout of the files; the loaders of this package read this one only


class DataError(RuntimeError):
    """A data file is missing, damaged or of another version; the message names it, expected and found."""


def fingerprint(content: bytes) -> str:
    """Return the SHA-256 of some bytes as 64 hexadecimal digits.

    Example:
        >>> fingerprint(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def read_manifest(folder: Path = FOLDER) -> dict:
    """Return what ``manifest.json`` says about each data file: its size, its SHA-256, its arrays.

    Args:
        folder: where the data files lie; by default those shipped with the package.

    Returns:
        ``{"format": 1, "files": {name: {"bytes": …, "sha256": …, "arrays": {key: [dtype, shape]}}}}``

    Raises:
        DataError: if the manifest is missing, cannot be read, or is of another format version.

    Example:
        >>> sorted(read_manifest()["files"])[0]
        'digits.npz'
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: expected the list of the data files, found no such file") from None
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found something else ({error})") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise DataError(f"{path}: expected data format {FORMAT}, found {found!r}")
    return manifest


def read_bytes(name: str, folder: Path = FOLDER) -> bytes:
    """Return the content of a data file after comparing its SHA-256 with the manifest's.

    Args:
        name: a file named in the manifest.
        folder: where the data files lie; by default those shipped with the package.

    Raises:
        DataError: if the file is missing or is not, byte for byte, what the manifest says.

    Example:
        >>> len(read_bytes("emoji_sentiment.csv")) > 1000
        True
    """
    files = read_manifest(folder)["files"]
    if name not in files:
        raise DataError(f"{name}: expected one of {', '.join(sorted(files))} (manifest.json), found {name!r}")
    expected, path = files[name], folder / name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path}: expected a file of {expected['bytes']:,} bytes, found no such file"
        ) from None
    if len(content) != expected["bytes"]:
        raise DataError(f"{path}: expected {expected['bytes']:,} bytes, found {len(content):,}")
    if fingerprint(content) != expected["sha256"]:
        raise DataError(f"{path}: expected SHA-256 {expected['sha256']}, found {fingerprint(content)}")
    return content


def read_arrays(name: str, folder: Path = FOLDER) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file, read-only, after checking their shapes and types.

    Args:
        name: a file named in the manifest.
        folder: where the data files lie; by default those shipped with the package.

    Raises:
        DataError: if the file is missing, damaged, or holds other arrays than the manifest says.

    Example:
        >>> read_arrays("digits.npz")["labels"].shape
        (2000,)
    """
    content = io.BytesIO(read_bytes(name, folder))
    try:
        with np.load(content, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except ValueError as error:
        raise DataError(f"{folder / name}: expected arrays of numbers or text, found {error}") from None
    expected = read_manifest(folder)["files"][name]["arrays"]
    found = describe_arrays(arrays)
    if found != expected:
        raise DataError(f"{folder / name}: expected arrays {expected}, found {found}")
    return {key: read_only(array) for key, array in arrays.items()}


def read_lines(name: str, folder: Path = FOLDER) -> list[dict]:
    """Return the records of a JSON-lines file, one a line.

    Args:
        name: a file named in the manifest.
        folder: where the data files lie; by default those shipped with the package.

    Raises:
        DataError: if the file is missing or damaged.

    Example:
        >>> read_lines("emoji_text.jsonl")[0]["name"]
        'grinning face'
    """
    lines = read_bytes(name, folder).decode("utf-8").removesuffix("\n").split("\n")
    return [json.loads(line) for line in lines]


def describe_arrays(arrays: dict[str, np.ndarray]) -> dict[str, list]:
    """Return type and shape of each array, in the words of the manifest.

    Example:
        >>> describe_arrays({"x": np.zeros((2, 3), np.uint8)})
        {'x': ['uint8', [2, 3]]}
    """
    return {key: [str(array.dtype), list(array.shape)] for key, array in arrays.items()}


def read_only(array: np.ndarray) -> np.ndarray:
    """Return the same array, marked so that writing into it raises ``ValueError``.

    Example:
        >>> read_only(np.zeros(3)).flags.writeable
        False
    """
    array.flags.writeable = False
    return array
