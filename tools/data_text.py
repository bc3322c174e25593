"""The tables: names and keywords of the emoji, their sentiment, the six views of the digits, the tweets."""

import csv
import io
import tarfile

import numpy as np

from tools.data_packages import Packages
from tools.data_pictures import STYLES, drawings, plain

LEFT_OUT = {
    "component",
    "flags",
}  # parts of other emoji, and flags: no things that styles draw each their way


def emoji_text(packages: Packages) -> list[dict]:
    """Return a record for each emoji that all styles but blob draw, in Unicode's order, no skin tones."""
    chinese = {plain(row["hexcode"]): row for row in packages.json("emojibase", "package/zh/data.json")}
    words = packages.json("emojibase", "package/en/messages.json")
    groups = {row["order"]: row["message"] for row in words["groups"] if row["key"] not in LEFT_OUT}
    subgroups = {row["order"]: row["key"] for row in words["subgroups"]}
    drawn = [drawings(packages, style) for style in STYLES if style != "blob"]
    records = []
    for row in packages.json("emojibase", "package/en/data.json"):
        hexcode = plain(row["hexcode"])
        if row.get("group") in groups and all(hexcode in style for style in drawn):
            records.append(
                {
                    "hex": hexcode,
                    "emoji": row["emoji"],
                    "name": row["label"],
                    "keywords": row.get("tags", []),
                    "name_zh": chinese[hexcode]["label"],
                    "keywords_zh": chinese[hexcode].get("tags", []),
                    "group": groups[row["group"]],
                    "subgroup": subgroups[row["subgroup"]],
                }
            )
    return records


def emoji_sentiment(packages: Packages, hexcodes: list[str]) -> str:
    """Return ``hex,negative,neutral,positive`` of the rated emoji among ours, in the source's order."""
    table = csv.DictReader(
        io.StringIO(packages.file("sentiment", "Emoji_Sentiment_Data_v1.0.csv").decode("utf-8"))
    )
    lines = ["hex,negative,neutral,positive"]
    for row in table:
        hexcode = row["Unicode codepoint"].removeprefix("0x").zfill(4)
        if hexcode in set(hexcodes):
            lines.append(",".join([hexcode, row["Negative"], row["Neutral"], row["Positive"]]))
    return "\n".join(lines) + "\n"


def digits(packages: Packages) -> dict[str, np.ndarray]:
    """Return the six views in the smallest type that holds their numbers, and the labels."""
    views = {
        "fourier": ("fou", np.float32),
        "profile": ("fac", np.uint16),
        "karhunen": ("kar", np.float32),
        "pixels": ("pix", np.uint8),
        "zernike": ("zer", np.float32),
        "morphological": ("mor", np.float32),
    }
    arrays = {}
    for name, (short, dtype) in views.items():
        text = packages.file("digits", f"/mfeat-{short}.csv").decode("ascii")
        table = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1)  # the last column is the digit
        arrays[name], labels = table[:, :-1].astype(dtype), table[:, -1].astype(np.uint8)
        if not np.array_equal(labels, np.repeat(np.arange(10), 200)):
            raise SystemExit(f"mfeat-{short}.csv: expected 200 digits of each class in order")
    return {**arrays, "labels": labels}


def tweets(packages: Packages) -> list[dict]:
    """Return a record for each tweet: its number, mean and standard deviation of the ratings, the text.

    Mean and deviation come from the file that also lists every rater's answer, and agree with the answers
    to all their decimals; the means beside the texts differ from it for 199 of the 4,200, unexplained.
    """
    with tarfile.open(fileobj=io.BytesIO(packages.file("tweets", "/hutto_ICWSM_2014.tar.gz"))) as archive:
        texts, ratings = (
            _table(archive, "tweets_GroundTruth.txt"),
            _table(archive, "tweets_anonDataRatings.txt"),
        )
    of_tweet = {number: (float(mean), float(sd)) for number, mean, sd, _ in ratings}
    records = []
    for number, _, text in texts:
        mean, sd = of_tweet[number]
        records.append({"id": int(number), "mean": mean, "sd": sd, "text": text})
    return records


def _table(archive: tarfile.TarFile, name: str) -> list[list[str]]:
    content = archive.extractfile(f"hutto_ICWSM_2014/{name}").read().decode("utf-8")
    return [line.split("\t") for line in content.removesuffix("\r\n").split("\r\n")]
