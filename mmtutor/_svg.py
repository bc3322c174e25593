"""Small pieces of SVG: the shapes that the book's recurring picture is drawn with."""

import base64
import io
from html import escape
from math import hypot

import numpy as np
from PIL import Image

Point = tuple[float, float]


def element(tag: str, content: str = "", **attributes) -> str:
    """One SVG element; ``stroke_width=2`` becomes ``stroke-width="2"``, ``class_`` becomes ``class``.

    Example:
        >>> element("circle", cx=1, cy=2.25, r=3, fill_opacity=0.5)
        '<circle cx="1" cy="2.2" r="3" fill-opacity="0.5"/>'
    """
    words = []
    for name, value in attributes.items():
        value = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
        words.append(f'{name.rstrip("_").replace("_", "-")}="{escape(value)}"')
    head = " ".join([tag, *words])
    return f"<{head}>{content}</{tag}>" if content else f"<{head}/>"


def text(at: Point, words: str, kind: str = "", anchor: str = "middle") -> str:
    """Words at a point; `kind` is a class of the style sheet."""
    return element("text", escape(words), x=float(at[0]), y=float(at[1]), class_=kind, text_anchor=anchor)


def maths(at: Point, letter: str, index: str = "", colour: str = "currentColor") -> str:
    """An italic letter with an index."""
    small = element("tspan", escape(index), dy=5, font_size=13) if index else ""
    x, y = float(at[0]), float(at[1])
    return element("text", escape(letter) + small, x=x, y=y, class_="maths", style=f"fill:{colour}")


def box(centre: Point, width: float, height: float, colour: str, **attributes) -> str:
    """A rounded box in a colour, its ground a tint of it."""
    look = {
        "fill": colour,
        "fill_opacity": ".1",
        "stroke": colour,
        "stroke_width": "1.6",
        "rx": 10,
    } | attributes
    x, y = float(centre[0] - width / 2), float(centre[1] - height / 2)
    return element("rect", x=x, y=y, width=float(width), height=float(height), **look)


def dot(centre: Point, radius: float, **attributes) -> str:
    """A filled circle."""
    return element("circle", cx=float(centre[0]), cy=float(centre[1]), r=float(radius), **attributes)


def path(points: list[Point], colour: str = "currentColor", **attributes) -> str:
    """A line through two points, or a cubic Bézier curve through four."""
    first, *rest = [f"{x:.1f} {y:.1f}" for x, y in points]
    curve = f"M{first}{'C' if len(rest) == 3 else 'L'}{' '.join(rest)}"
    return element("path", d=curve, class_="arrow", stroke=colour, **attributes)


def arrow(start: Point, end: Point, leave: Point, arrive: Point | None = None, colour="currentColor", **more):
    """A curve with a head that leaves `start` and arrives at `end` along given vectors."""
    arrive = arrive or leave
    (x0, y0), (x1, y1), (ax, ay) = start, end, arrive
    ux, uy = ax / hypot(ax, ay), ay / hypot(ax, ay)
    neck = (x1 - 7 * ux, y1 - 7 * uy)
    wings = [(x1 - 10 * ux - side * 5 * uy, y1 - 10 * uy + side * 5 * ux) for side in (1, -1)]
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in [end, *wings])
    curve = [start, (x0 + leave[0], y0 + leave[1]), (neck[0] - ax, neck[1] - ay), neck]
    return path(curve, colour, **more) + element("polygon", points=head, fill=colour)


def tile(pixels: np.ndarray, centre: Point, size: float) -> str:
    """A small picture, uint8 of shape (H, W, 3), on a white rounded tile, its pixels kept as they are."""
    file = io.BytesIO()
    Image.fromarray(pixels).quantize(32).save(file, "png", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    x, y, size = float(centre[0] - size / 2), float(centre[1] - size / 2), float(size)
    ground = box(centre, size * 1.16, size * 1.16, "#fff", fill_opacity="1", stroke="none", rx=size * 0.16)
    return ground + element("image", x=x, y=y, width=size, height=size, href=address)
