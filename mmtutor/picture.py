"""The book's one recurring picture: one thing goes through the maps, the arrow of the chapter lit."""

from functools import cache
from html import escape
from pathlib import Path

import numpy as np

from mmtutor._svg import arrow, box, dot, element, maths, path, text, tile
from mmtutor.data import load_emoji
from mmtutor.style import MODALITY, TASK

THING = "1f427"  # the penguin: it waddles, and no two vendors draw it alike
OTHERS = ("1f433", "1f680", "1f383", "1f98a")  # whale, rocket, jack-o'-lantern, fox

# What can be lit: the sentence that says what is seen, and the parts of the drawing that stay bright.
LIT = {
    "augment": ("Other versions of a thing keep its meaning.", "thing modalities versions"),
    "encode": ("Each modality has its encoder, a map into the shared space.", "modalities encode points"),
    "gate": ("Gates decide how much of each modality gets through.", "modalities encode gates points"),
    "attend": ("Modalities look at each other before they meet.", "modalities looks"),
    "remember": ("Frames come in order; memory carries what was seen.", "modalities memory"),
    "align": ("The points of one thing lie close together.", "space points closeness equation"),
    "match": ("A true pair lies closer than a false one.", "space points others false-pair"),
    "fuse": ("Fusion makes one point of several.", "space points fuse"),
    "share": ("Several tasks read one shared space.", "space fuse heads tasks"),
    "balance": ("Each task's loss has its weight.", "fuse heads tasks weights"),
    "retrieve": ("The nearest point is the partner.", "space points closeness partner"),
    "generate": ("The way back, from the space to each modality.", "modalities space points generate"),
}
STORY = (
    "One thing, a penguin, is seen as a picture, as an animation and as a text. The encoders f_I, f_V and "
    "f_T map the three into one shared space Z, where its points lie close together and other things lie "
    "elsewhere. Fusion, φ, makes one point of them, and a head for each task reads it: what is it, how does "
    "it move, who drew it, which is its partner?"
)
LETTERS = {"image": "I", "video": "V", "text": "T"}
TASKS = {  # two lines of question, one of answer
    "what": ("What", "is it?", "a bird"),
    "moves": ("How does", "it move?", "sideways"),
    "style": ("Who", "drew it?", "Noto"),
    "retrieve": ("Find", "its partner", ""),
}
# Places in the disc, in units of its radius: along the maps, and across them
POINTS = {"image": (-0.34, -0.19), "video": (-0.5, 0.0), "text": (-0.34, 0.19)}
FUSED = (0.34, 0.0)
ELSEWHERE = ((-0.36, -0.68), (0.36, -0.62), (-0.36, 0.62), (0.36, 0.6))

WIDE = {
    "size": (960, 392), "forward": (1, 0), "thing": (60, 196), "radius": 46, "card": (124, 96),
    "cards": {"image": (226, 62), "video": (226, 196), "text": (226, 330)},
    "disc": (532, 196), "disc_radius": 150, "task": (204, 74),
    "tasks": ((852, 48), (852, 146), (852, 246), (852, 344)),
}  # fmt: skip
TALL = {
    "size": (360, 640), "forward": (0, 1), "thing": (180, 46), "radius": 42, "card": (110, 86),
    "cards": {"image": (58, 170), "video": (180, 170), "text": (302, 170)},
    "disc": (180, 378), "disc_radius": 122, "task": (84, 92),
    "tasks": ((45, 592), (135, 592), (225, 592), (315, 592)),
}  # fmt: skip
# Parts from back to front; overlays appear only where they are lit
ORDER = (
    "versions thing modalities looks memory space others closeness encode generate gates false-pair "
    "equation fuse points heads tasks partner weights"
)
OVERLAYS = {
    "versions",
    "gates",
    "looks",
    "memory",
    "false-pair",
    "equation",
    "weights",
    "generate",
    "partner",
}
PAPER = "var(--mm-paper, #fff)"

STYLE = """
.mm-maps { margin: 1.2rem 0; }
.mm-maps svg { display: block; width: 100%; height: auto; max-width: 960px; margin: 0 auto; }
.mm-maps svg.tall { display: none; max-width: 420px; }
@media (max-width: 620px) {
  .mm-maps svg.wide { display: none; }
  .mm-maps svg.tall { display: block; }
}
.mm-maps text { fill: currentColor; font: 15px var(--mm-sans, system-ui, sans-serif); }
.mm-maps .tall text { font-size: 13px; }
.mm-maps text.maths { font: italic 20px "STIX Two Math", Georgia, serif; text-anchor: middle; }
.mm-maps .strong { font-weight: 600; }
.mm-maps .quiet { fill-opacity: .78; }
.mm-maps image { image-rendering: pixelated; }
.mm-maps .arrow { fill: none; stroke-width: 2; }
.mm-maps .lit .arrow { stroke-width: 3; }
.mm-maps .dim { opacity: .28; }
.mm-maps figcaption { text-align: center; margin-top: .6rem; }
"""


class MapsPicture:
    """The drawing: a notebook and the site show it as a figure; it can be saved as one SVG file.

    Args:
        lit: name of the part that stays bright, or None for all of them.
    """

    def __init__(self, lit: str | None = None):
        if lit is not None and lit not in LIT:
            raise ValueError(f"unknown part {lit!r}; expected None or one of: {', '.join(LIT)}")
        self.lit = lit

    def __repr__(self) -> str:
        return f"maps_picture({self.lit!r})"

    @property
    def description(self) -> str:
        """What a reader sees, in words."""
        return STORY if self.lit is None else f"{LIT[self.lit][0]} {STORY}"

    def _repr_html_(self) -> str:
        drawings = self._draw(WIDE, "wide") + self._draw(TALL, "tall")
        caption = f"<figcaption>{escape(LIT[self.lit][0])}</figcaption>" if self.lit else ""
        return f'<figure class="mm-maps"><style>{STYLE}</style>{drawings}{caption}</figure>'

    def save(self, file: str | Path) -> None:
        """Write the wide drawing as an SVG file that stands alone, for light and dark pages.

        Args:
            file: where to write.
        """
        inks = "svg{color:#1d2127} @media (prefers-color-scheme:dark){svg{color:#e4e6ea}}"
        style = element("style", STYLE.replace(".mm-maps ", "") + inks)
        svg = self._draw(WIDE, "alone").replace("<title>", style + "<title>", 1)
        svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        Path(file).write_text(svg + "\n", encoding="utf-8")

    def _draw(self, layout: dict, kind: str) -> str:
        """The whole drawing in one layout, as an <svg> element."""
        lit = LIT[self.lit][1].split() if self.lit else []
        parts, groups = _parts(layout), []
        for name in ORDER.split():
            if name in lit:
                groups.append(element("g", parts[name], data_part=name, class_="lit"))
            elif name not in OVERLAYS:
                groups.append(element("g", parts[name], data_part=name, class_="dim" if lit else "plain"))
        title = "One thing going through the maps" + (f": {self.lit}" if self.lit else "")
        head = element("title", title) + element("desc", escape(self.description))
        size = "0 0 {} {}".format(*layout["size"])
        look = {"class_": kind, "viewBox": size, "role": "img", "aria_label": self.description}
        return element("svg", head + "".join(groups), **look)


def maps_picture(lit: str | None = None) -> MapsPicture:
    """Draw one thing going through the maps: its modalities, the shared space, the tasks.

    Args:
        lit: the part this chapter is about stays bright and the rest is dimmed; a name in ``LIT``, or None.

    Returns:
        An object that shows itself as inline SVG, in a wide layout and in a tall one for narrow screens.

    Raises:
        ValueError: for a name that is not in ``LIT``.

    Example:
        >>> maps_picture("align")
        maps_picture('align')
    """
    return MapsPicture(lit)


@cache
def _pixels() -> dict[str, np.ndarray]:
    """The real pixels: the thing, its picture, its frames, and the other things."""
    emoji = load_emoji()
    hexcodes, styles = list(emoji.hex), list(emoji.styles)
    item, noto = hexcodes.index(THING), styles.index("noto")
    frames = emoji.videos[list(emoji.video_item).index(item)]
    pixels = {"thing": emoji.images[styles.index("twemoji"), item], "image": emoji.images[noto, item]}
    pixels |= {f"frame {k}": frame for k, frame in enumerate(frames)}
    return pixels | {name: emoji.images[noto, hexcodes.index(name)] for name in OTHERS}


def _parts(layout: dict) -> dict[str, str]:
    """Every part of the drawing in one layout: name -> SVG."""
    (fx, fy), wide = layout["forward"], layout["forward"] == (1, 0)
    pixels, radius = _pixels(), layout["disc_radius"]
    half = layout["card"][0 if wide else 1] / 2
    parts = dict.fromkeys(ORDER.split(), "")

    def move(point, forward, across=0.0):
        """The point that lies `forward` along the direction of the maps, and `across` it."""
        return point[0] + forward * fx + across * fy, point[1] + forward * fy + across * fx

    def inside(place):
        return move(layout["disc"], radius * place[0], radius * place[1])

    # one thing, and its modalities
    thing, inner = layout["thing"], {name: inside(place) for name, place in POINTS.items()}
    parts["thing"] = dot(thing, layout["radius"], fill="#fff", stroke="currentColor", stroke_dasharray="5 5")
    parts["thing"] += tile(pixels["thing"], thing, layout["radius"] * 1.15)
    for name, card in layout["cards"].items():
        colour = MODALITY[name]
        ends = move(thing, layout["radius"] + 5), move(card, -half - 5)
        parts["modalities"] += path(ends, stroke_opacity=".4") + _card(layout, name)
        for shift in (12, 6):
            behind = (card[0] + shift, card[1] - shift)
            parts["versions"] += box(behind, *layout["card"], colour, fill_opacity="0")
        # into the space, and back
        start, end = move(card, half + 4), move(inner[name], -10)
        bend = (64 * fx, 64 * fy) if wide else (0, 40)
        aside = {"image": 14, "video": 14, "text": -14}[name]
        parts["encode"] += arrow(start, end, bend, colour=colour)
        label = (44, 26 if name == "text" else -14) if wide else (20, 18 if name == "text" else -16)
        parts["encode"] += maths(move(start, *label), "f", LETTERS[name], colour)
        back = move(end, 0, aside), move(start, 0, aside), (-bend[0], -bend[1])
        parts["generate"] += arrow(*back, colour=colour, stroke_dasharray="7 5")
        gate = move(start, 20)
        parts["gates"] += dot(gate, 11, fill=PAPER, stroke=colour, stroke_width=3)
        parts["gates"] += maths((gate[0], gate[1] + 5), "u", colour=colour)
        parts["points"] += dot(inner[name], 7, fill=colour)
        parts["fuse"] += path([inner[name], move(inside(FUSED), -9)], stroke_opacity=".5")
    # modalities that look at each other, frames that are remembered
    cards, out, home = layout["cards"], (46 * fx, 46 * fy), (-46 * fx, -46 * fy)
    for first, second in (("image", "video"), ("video", "text")):
        a, b = move(cards[first], half + 5, 12), move(cards[second], half + 5, -12)
        parts["looks"] += arrow(a, b, out, home) + arrow(b, a, out, home)
    tail, tip = move(cards["video"], half + 5, 24), move(cards["video"], half + 5, -24)
    parts["memory"] = arrow(tail, tip, out, home, MODALITY["video"])

    # the shared space
    ring = {"stroke": "currentColor", "stroke_opacity": ".45", "stroke_width": "1.5"}
    parts["space"] = dot(layout["disc"], radius, fill="currentColor", fill_opacity=".045", **ring)
    parts["space"] += maths(inside((0, -0.82) if wide else (-0.8, 0)), "Z")
    for name, place in zip(OTHERS, ELSEWHERE, strict=True):
        x, y = inside(place)
        parts["others"] += tile(pixels[name], (x, y), 24)
        for k, modality in enumerate(LETTERS):
            parts["others"] += dot((x - 12 + 12 * k, y + 22 - 4 * (k == 1)), 3.5, fill=MODALITY[modality])
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in inner.values())
    near = {"fill": "currentColor", "fill_opacity": ".08", "stroke": "currentColor", "stroke_width": "1.5"}
    parts["closeness"] = element("polygon", points=corners, **near)
    for shift, letter, index in ((-26, "z", "I"), (0, "≈", ""), (26, "z", "T")):
        x, y = inside((-0.3, 0.42) if wide else (0.12, -0.55))
        parts["equation"] += maths((x + shift, y), letter, index)
    wrong = inside(ELSEWHERE[1])
    parts["false-pair"] = path([inner["image"], inner["text"]])
    parts["false-pair"] += path([inner["image"], (wrong[0] - 16, wrong[1] + 20)], stroke_dasharray="3 5")
    parts["fuse"] += dot(inside(FUSED), 8, fill=PAPER, stroke="currentColor", stroke_width=3)
    parts["fuse"] += maths(move(inside(FUSED), -24, 28 if wide else 24), "φ")

    # the tasks
    reach = layout["task"][0 if wide else 1] / 2
    for place, task in zip(layout["tasks"], TASKS, strict=True):
        end = move(place, -reach - 4)
        head = arrow(move(inside(FUSED), 10), end, (80 * fx, 80 * fy), colour=TASK[task])
        parts["heads"] += head
        parts["tasks"] += _task(layout, place, task)
        parts["weights"] += maths(move(end, -18, -10 if wide else 16), "ω", "t", TASK[task])
        if task == "retrieve":
            parts["partner"] = head + _task(layout, place, task)
    return parts


def _card(layout: dict, name: str) -> str:
    """One modality of the thing: its picture, three of its frames, or its names."""
    (x, y), (width, height), pixels = layout["cards"][name], layout["card"], _pixels()
    card = box((x, y), width, height, MODALITY[name])
    below = (x, y + height / 2 - 10)
    if name == "image":
        return card + tile(pixels["image"], (x, y - 11), 48) + text(below, "picture", "quiet")
    if name == "video":
        size, step = width * 0.25, width * 0.305
        frames = [
            tile(pixels[f"frame {k}"], (x + (i - 1) * step, y - 11), size) for i, k in enumerate((1, 3, 5))
        ]
        return card + "".join(frames) + text(below, "animation", "quiet")
    names = text((x, y - 20), "penguin", "strong") + text((x, y + 4), "企鹅")
    return card + names + text(below, "text", "quiet")


def _task(layout: dict, place: tuple, task: str) -> str:
    """One task: what is asked, in the task's colour, and the answer for this thing."""
    (x, y), (width, height), (first, second, answer) = place, layout["task"], TASKS[task]
    card, partner = box(place, width, height, TASK[task]), _pixels()["frame 3"]
    if width > height:
        left = x - width / 2 + 16
        words = text((left, y - 6), f"{first} {second}", "strong", "start")
        words += text((left, y + 19), answer or "nearest point", "quiet", "start")
        picture = tile(partner, (x + width / 2 - 26, y), 34)
    else:
        words = text((x, y - 24), first, "strong") + text((x, y - 6), second, "strong")
        words += text((x, y + 24), answer, "quiet") if answer else ""
        picture = tile(partner, (x, y + 22), 28)
    return card + words + ("" if answer else picture)
