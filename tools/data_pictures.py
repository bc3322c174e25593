"""The emoji's pictures: every drawing at 32 x 32 pixels on white."""

import io
from collections.abc import Mapping
from multiprocessing import Pool

import numpy as np
from PIL import Image

from tools.data_packages import Packages

STYLES = ("noto", "twemoji", "fluent", "fluent3d", "blob")
SIDE = 32
RENDERED = 192  # vector drawings are rendered at this width, then reduced like photographs


def plain(hexcode: str) -> str:
    """Return a hexcode as this data writes it: lower case, without fe0f (which asks for a colour picture)."""
    return "-".join(code for code in hexcode.lower().split("-") if code != "fe0f")


def drawings(packages: Packages, style: str) -> dict[str, bytes]:
    """Return a style's drawings, ``{hexcode: an SVG, or the content of a picture file}``."""
    if style == "fluent3d":
        return bitmaps(packages, style)
    icons = packages.json(style, "package/icons.json")
    if style == "blob":
        # No list of characters here: the names are those of its successor, Noto. An alias that leads to what
        # Noto calls another thing is an older use of the word ("cricket" was the game), not a drawing of it.
        characters = packages.json("noto", "package/chars.json")
        taken = set(characters.values())
        aliases = {name for name, alias in icons["aliases"].items() if alias["parent"] not in taken}
    else:
        characters, aliases = packages.json(style, "package/chars.json"), icons["aliases"].keys()
    known = icons["icons"].keys() | aliases
    return {plain(code): svg(icons, name).encode() for code, name in characters.items() if name in known}


def bitmaps(packages: Packages, key: str) -> dict[str, bytes]:
    """Return the WebP files of a package by hexcode (of two spellings of a code, the one with fe0f last)."""
    files = packages.files(key, ".webp")
    by_length = sorted(files, key=len)
    return {plain(name.rpartition("/")[2].removesuffix(".webp")): files[name] for name in by_length}


def svg(icons: Mapping, name: str) -> str:
    """Return an icon of an Iconify collection as a square SVG file, aliases and mirror images resolved."""
    flips = 0
    while name in icons["aliases"]:
        flips += icons["aliases"][name].get("hFlip", False)
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    side = max(width, height)
    box = f"{(width - side) / 2} {(height - side) / 2} {side} {side}"
    body = (
        f'<g transform="translate({width} 0) scale(-1 1)">{icon["body"]}</g>' if flips % 2 else icon["body"]
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{RENDERED}" height="{RENDERED}" viewBox="{box}">{body}</svg>'
    )


def reduce(picture: Image.Image, side: int) -> np.ndarray:
    """Return a picture as (side, side, 4) float32 in 0 … 1, colours premultiplied by the last channel, alpha.

    Each new pixel is the mean of the area it covers. Colours are weighted by their alpha first, so that what
    lies hidden under transparent pixels does not bleed into the edges.
    """
    pixels = np.asarray(picture.convert("RGBA"), dtype=np.float32) / 255
    pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)
    channels = [Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(4)]
    small = [np.asarray(channel.resize((side, side), Image.Resampling.BOX)) for channel in channels]
    return np.clip(np.stack(small, axis=-1), 0, 1)


def on_white(premultiplied: np.ndarray) -> np.ndarray:
    """Return premultiplied (..., 4) pixels laid over white, (..., 3) uint8."""
    colour, alpha = premultiplied[..., :3], premultiplied[..., 3:]
    return (np.clip(colour + 1 - alpha, 0, 1) * 255).round().astype(np.uint8)


def render(drawing: bytes) -> np.ndarray:
    """Return a drawing, an SVG or a picture file, as (32, 32, 3) uint8 on white."""
    if drawing.startswith(b"<svg"):
        import resvg_py  # here, so that the rest of the builder can be tested without it

        # fonts of this machine are left out of play: no drawing here holds letters that are not outlines
        drawing = bytes(resvg_py.svg_to_bytes(svg_string=drawing.decode(), skip_system_fonts=True))
    return on_white(reduce(Image.open(io.BytesIO(drawing)), SIDE))


def emoji_pictures(packages: Packages, hexcodes: list[str], processes: int) -> dict[str, np.ndarray]:
    """Return the arrays of ``emoji_pictures.npz`` for the given things."""
    images = np.full((len(STYLES), len(hexcodes), SIDE, SIDE, 3), 255, dtype=np.uint8)
    present = np.zeros((len(STYLES), len(hexcodes)), dtype=bool)
    with Pool(processes) as pool:
        for s, style in enumerate(STYLES):
            drawn = drawings(packages, style)
            present[s] = [hexcode in drawn for hexcode in hexcodes]
            todo = [drawn[hexcode] for hexcode in hexcodes if hexcode in drawn]
            images[s, present[s]] = list(pool.imap(render, todo, chunksize=32))
            print(f"  {style}: {present[s].sum()} of {len(hexcodes)} things drawn", flush=True)
    return {"images": images, "present": present, "styles": np.array(STYLES), "hex": np.array(hexcodes)}
