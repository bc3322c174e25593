"""An attention explorer: choose a query, and see where its weights lie on words, a picture or frames."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import traitlets
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from ..style import INK, MODALITY
from .base import BookWidget, script, style
from .pack import to_numpy, webp

TOLERANCE = 1e-3  # of a row's sum, which half precision does not bring to one exactly
LEVELS = 255  # of uint8
SIDES = {"patches": 288, "frames": 96}  # of the longer side of a picture on the page, in pixels
QUESTION = "Does one key get the weight, or do many share it?"
TIP = "go through the queries with the pointer or the arrow keys"


@dataclass(frozen=True, eq=False)
class Patches:
    """A picture whose patches are tokens, row by row from the top left.

    Args:
        picture: ``(H, W, 3)`` uint8.
        rows: number of patches from top to bottom.
        columns: number of patches from left to right.

    Raises:
        ValueError: for a picture of another shape or type, or a grid without or with too many patches.

    Example:
        >>> len(Patches(np.zeros((32, 32, 3), np.uint8), 4, 4))
        16
    """

    picture: UInt8[np.ndarray, "height width 3"]
    rows: int
    columns: int

    def __post_init__(self):
        _check_pictures("picture", self.picture, "(H, W, 3)", 3)
        height, width = self.picture.shape[:2]
        if not (1 <= self.rows <= height and 1 <= self.columns <= width):
            expected = f"1 to {height} rows and 1 to {width} columns"
            raise ValueError(f"grid: expected {expected}, found {self.rows} and {self.columns}")

    def __len__(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, eq=False)
class Frames:
    """An animation whose frames are tokens, or a row of pictures.

    Args:
        pictures: ``(T, H, W, 3)`` uint8, in order.
        names: what each is called; by default "frame 1" and so on.

    Raises:
        ValueError: for frames of another shape or type, or another number of names.

    Example:
        >>> len(Frames(np.zeros((8, 32, 32, 3), np.uint8)))
        8
    """

    pictures: UInt8[np.ndarray, "frames height width 3"]
    names: Sequence[str] | None = None

    def __post_init__(self):
        _check_pictures("frames", self.pictures, "(T, H, W, 3)", 4)
        if self.names is not None and len(self.names) != len(self):
            raise ValueError(f"names: expected {len(self)}, one for each frame; found {len(self.names)}")

    def __len__(self) -> int:
        return len(self.pictures)


Tokens = Patches | Frames | Sequence[str | Patches | Frames]


class AttentionExplorer(BookWidget):
    r"""Choose a layer, a head and a query; see the keys it looks at, how much, and how widely.

    Of the weights :math:`p_1,\dots,p_{L_k}` of one query the page shows the largest, the entropy and the
    number of keys that, sharing all weight equally, would have that entropy:

    .. math:: H=-\sum_jp_j\log p_j\ \text{nats},\qquad e^H\in[1,L_k]

    Each row is stored as whole numbers up to 255 that say how many of :math:`N=\lfloor255/\max_jp_j\rfloor`
    equal parts a key has. A row needs no scale beside it, since its numbers add up to N, and each weight is
    off by less than :math:`1/N\le1/255`. Numbers here and on the page come from these.

    Args:
        weights: ``(layers, heads, Lq, Lk)``, as an array or a tensor; axes of layers, or of layers and heads,
            may be missing if there is one. Each row sums to one, or is all zero: padding, which attends to
            nothing. Or a mapping from names of models to such weights; two of them are shown side by side.
        queries: the ``Lq`` tokens that ask: a list of words, :class:`Patches`, :class:`Frames`, or a list
            that mixes them, as ``["[CLS]", Patches(picture, 4, 4)]``. A text gives its characters.
        keys: the ``Lk`` tokens that are looked at, said in the same way; those of ``queries`` if None.
        model: the model shown first, by its name; by default the first.
        beside: the model beside it, by its name; by default the next one. ``""`` or the same name: none.
        layer: counted from 0. A model with fewer layers shows its last.
        head: counted from 0, likewise; None is the mean of the heads in which the query is not padding.
        query: counted from 0.
        top: how many of the largest weights to list, at least 1.
        question: the question put to the reader.

    Traits that Python sees: ``model``, ``beside``, ``layer``, ``head``, ``query`` and ``top``.

    Raises:
        ValueError: for weights that are no attention (shape, negative, NaN, a row of another sum), models
            with different numbers of tokens, or tokens that are not as many as the weights have.
        traitlets.TraitError: for a model, layer, head or query that is not there. Also when set later.

    Example:
        >>> explorer = AttentionExplorer([[0.75, 0.25], [0, 1]], ["red", "apple"])
        >>> explorer
        AttentionExplorer(1 model, 2 queries x 2 keys)
        >>> found = explorer.values()["attention"]
        >>> found["weights"], found["top"], round(found["effective"], 3)
        ([0.75, 0.25], [0, 1], 1.755)
    """

    _esm = script("attention_explorer")
    _css = style("attention_explorer")

    models = traitlets.List().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    query_parts = traitlets.List().tag(sync=True)
    key_parts = traitlets.List().tag(sync=True)
    query_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    key_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    same = traitlets.Bool().tag(sync=True)
    images = traitlets.List().tag(sync=True)
    pictures = traitlets.Bytes().tag(sync=True)
    question = traitlets.Unicode().tag(sync=True)
    tip = traitlets.Unicode().tag(sync=True)
    colour = traitlets.Unicode(MODALITY["view"]).tag(sync=True)
    top = traitlets.Int(min=1).tag(sync=True)
    model = traitlets.Unicode().tag(sync=True)
    beside = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Int().tag(sync=True)
    head = traitlets.Int(allow_none=True).tag(sync=True)
    query = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        weights,
        queries: Tokens,
        keys: Tokens | None = None,
        *,
        model: str | None = None,
        beside: str | None = None,
        layer: int = 0,
        head: int | None = 0,
        query: int = 0,
        top: int = 5,
        question: str = QUESTION,
    ):
        given = weights if isinstance(weights, Mapping) else {"attention": weights}
        checked = {name: _checked(name, array) for name, array in given.items()}
        _check_models(checked)
        names, lq, lk = list(checked), *next(iter(checked.values())).shape[2:]
        files: dict[bytes, int] = {}  # each picture once, even if it is looked at and asks
        asking, query_names = _parts("queries", queries, lq, files)
        asked, key_names = _parts("keys", queries if keys is None else keys, lk, files)
        self._parts_of = {name: _apportion(array) for name, array in checked.items()}
        model = names[0] if model is None else model
        if beside is None:
            beside = next((name for name in names if name != model), "")
        super().__init__(
            models=_numbered(self._parts_of),
            weights=b"".join(array.tobytes() for array in self._parts_of.values()),
            query_parts=asking,
            key_parts=asked,
            query_names=query_names,
            key_names=key_names,
            same=keys is None,
            images=_places(list(files)),
            pictures=b"".join(files),
            question=question,
            tip=f"{TIP}{', then change the head' if max(a.shape[1] for a in checked.values()) > 1 else ''}.",
            top=top,
            model=model,
            beside=beside,
            layer=layer,
            head=head,
            query=query,
        )

    @traitlets.validate("model", "beside")
    def _is_a_model(self, proposal) -> str:
        names = [about["name"] for about in self.models]
        if proposal.value not in names and not (proposal.trait.name == "beside" and proposal.value == ""):
            raise traitlets.TraitError(
                f"{proposal.trait.name}: expected one of {', '.join(names)}; found {proposal.value!r}"
            )
        return proposal.value

    @traitlets.validate("layer", "head", "query")
    def _is_there(self, proposal) -> int | None:
        trait = proposal.trait.name
        count = len(self.query_names)
        if trait != "query":
            count = max(about[f"{trait}s"] for about in self.models)
        if proposal.value is None or 0 <= proposal.value < count:  # only the head may be None
            return proposal.value
        raise traitlets.TraitError(f"{trait}: expected 0 to {count - 1}, found {proposal.value}")

    def shown(self) -> list[str]:
        """Return the names of the one or two models that the page shows."""
        return list(dict.fromkeys([self.model, self.beside or self.model]))

    def _rectangle(self, name: str) -> Float[np.ndarray, "queries keys"]:
        """The weights of the chosen layer and head, or the mean over the heads, from what is stored."""
        parts = self._parts_of[name][min(self.layer, len(self._parts_of[name]) - 1)].astype(float)
        heads = parts / np.maximum(parts.sum(-1, keepdims=True), 1)
        if self.head is not None:
            return heads[min(self.head, len(heads) - 1)]
        real = parts.any(-1).sum(0)  # heads in which a query is not padding
        return heads.sum(0) / np.maximum(real, 1)[:, None]

    def values(self) -> dict[str, dict]:
        """Return what the page shows of the chosen query, from the same rounded numbers.

        Returns:
            For each model shown ``"weights"``, one number per key; ``"top"``, the keys with the largest
            weights, largest first, equal ones in order, never one without weight; ``"entropy"`` in nats, and
            ``"effective"``, :math:`e^H` keys. A query that is padding has weights of zero, an empty
            ``"top"``, and None for the other two.
        """
        return {name: _figures(self._rectangle(name)[self.query], self.top) for name in self.shown()}

    def summary(self) -> str:
        lq, lk = len(self.query_names), len(self.key_names)
        return (
            f"Attention weights of {_count(lq, 'query', 'queries')} over {_count(lk, 'key', 'keys')}. "
            f"{self._in_words()}"
        )

    def _in_words(self) -> str:
        """Where the chosen query looks, in words; the page says the same."""
        said = [self._of_model(name, found) for name, found in self.values().items()]
        return " ".join([f"Query {self.query + 1}, “{self.query_names[self.query]}”.", *said])

    def _of_model(self, name: str, found: dict) -> str:
        about = next(about for about in self.models if about["name"] == name)
        where = ", ".join(filter(None, [name, _place(about, self.layer, self.head)]))
        if found["entropy"] is None:
            return f"{where}: padding, it has no weights."
        digits = _digits(max(found["weights"]))
        most = [f"{_percent(found['weights'][j], digits)} on “{self.key_names[j]}”" for j in found["top"][:3]]
        entropy, effective = _rounded(found["entropy"], 2), _rounded(found["effective"], 1)
        return f"{where}: {', '.join(most)}. Entropy {entropy} nats, as wide as {effective} equal keys."

    def picture(self) -> bytes:
        """Draw the rectangle of each model shown, queries on rows, keys on columns, the chosen row framed."""
        names = self.shown()
        image = Image.new("RGB", (250 * len(names), 230), "white")
        draw = ImageDraw.Draw(image)
        colour, white = np.array(_rgb(MODALITY["view"])), np.full(3, 255)
        for k, name in enumerate(names):
            p = self._rectangle(name)
            shade = (p / (p.max() or 1))[..., None]
            cells = Image.fromarray(np.rint(shade * colour + (1 - shade) * white).astype(np.uint8))
            left, top = 250 * k + 25, 22
            image.paste(cells.resize((200, 200), Image.Resampling.NEAREST), (left, top))
            draw.rectangle([left - 1, top - 1, left + 200, top + 200], outline=INK)
            height = 200 / len(p)
            y = top + height * self.query
            draw.rectangle([left - 3, y - 1, left + 202, y + height], outline="black", width=2)
            draw.text((left, 5), "keys", fill=INK)
        return webp(image, quality=60)

    def __repr__(self) -> str:
        return (
            f"AttentionExplorer({_count(len(self.models), 'model', 'models')}, "
            f"{_count(len(self.query_names), 'query', 'queries')} x "
            f"{_count(len(self.key_names), 'key', 'keys')})"
        )


def _checked(name: str, weights) -> Float[np.ndarray, "layers heads queries keys"]:
    """The weights with all four axes and rows that sum to one, or an error that says what is wrong."""
    array = to_numpy(weights)
    if array.ndim not in (2, 3, 4) or not array.size:
        expected = "(layers, heads, Lq, Lk), (heads, Lq, Lk) or (Lq, Lk), none of them 0"
        raise ValueError(f"weights of {name!r}: expected {expected}, found {array.shape}")
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"weights of {name!r}: expected finite numbers from 0, found {array[place]:g} at [layer, head, "
            f"query, key] = {list(place)}"
        )
    total = array.sum(-1, keepdims=True)
    wrong = (total[..., 0] != 0) & (np.abs(total[..., 0] - 1) > TOLERANCE)
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        raise ValueError(
            f"weights of {name!r}: expected rows that sum to one, or all zero, found a sum of "
            f"{total[place][0]:g} at [layer, head, query] = {list(place)}"
        )
    return array / np.where(total > 0, total, 1)


def _check_models(checked: Mapping[str, np.ndarray]) -> None:
    if not checked:
        raise ValueError("weights: expected at least one model, found none")
    if "" in checked:
        raise ValueError("weights: expected a name for each model, found ''")
    found = {name: array.shape[2:] for name, array in checked.items()}
    if len(set(found.values())) > 1:
        raise ValueError(f"weights: expected the same numbers of queries and keys, found {found}")


def _check_pictures(name: str, pictures, shape: str, ndim: int) -> None:
    found = f"{getattr(pictures, 'shape', None)} {getattr(pictures, 'dtype', type(pictures).__name__)}"
    fits = isinstance(pictures, np.ndarray) and pictures.dtype == np.uint8 and pictures.ndim == ndim
    if not fits or pictures.shape[-1] != 3 or not pictures.size:
        raise ValueError(f"{name}: expected {shape} uint8, found {found}")


def _apportion(p: Float[np.ndarray, "*rows keys"]) -> UInt8[np.ndarray, "*rows keys"]:
    r"""Round each row to whole numbers of N equal parts, so that none of the N is lost.

    .. math:: N=\Big\lfloor\frac{255}{\max_jp_j}\Big\rfloor,\qquad \sum_jq_j=N,\qquad
              \lvert q_j/N-p_j\rvert<1/N

    Each key gets the whole parts of :math:`Np_j`; the parts left over go to the largest remainders. (Rounding
    each key by itself would lose up to half a part per key: of 196 keys that share half the weight, most.)

    Source: the method of largest remainders, by which seats of a parliament are shared out; Balinski and
    Young, *Fair Representation* (1982).
    """
    largest = p.max(-1, keepdims=True)
    N = np.floor(LEVELS / np.where(largest > 0, largest, 1) + 1e-9) * (largest > 0)
    q = np.floor(N * p + 1e-9)  # so that a whole part is not missed by rounding
    left = N - q.sum(-1, keepdims=True)
    rank = np.argsort(np.argsort(q - N * p, axis=-1, kind="stable"), axis=-1)
    return (q + (rank < left)).astype(np.uint8)


def _numbered(stored: Mapping[str, np.ndarray]) -> list[dict]:
    """What the page has to know to find each model's weights."""
    starts = accumulate((array.size for array in stored.values()), initial=0)
    return [
        {"name": name, "layers": array.shape[0], "heads": array.shape[1], "start": start}
        for (name, array), start in zip(stored.items(), starts, strict=False)
    ]


def _places(files: Sequence[bytes]) -> list[list[int]]:
    """Where each file begins in all files, and how long it is."""
    starts = accumulate(map(len, files), initial=0)
    return [[start, len(file)] for start, file in zip(starts, files, strict=False)]


def _parts(name: str, tokens: Tokens, count: int, files: dict[bytes, int]) -> tuple[list[dict], list[str]]:
    """Tokens as the page draws them, part by part, and a name of each, no two alike."""
    parts, names = [], []
    for token in [tokens] if isinstance(tokens, Patches | Frames) else tokens:
        if isinstance(token, Patches):
            image = _file(token.picture, "patches", files)
            parts.append({"kind": "patches", "image": image, "rows": token.rows, "columns": token.columns})
            parts[-1]["ratio"] = token.picture.shape[1] / token.picture.shape[0]
            names += [f"row {i + 1}, column {j + 1}" for i in range(token.rows) for j in range(token.columns)]
        elif isinstance(token, Frames):
            images = [_file(picture, "frames", files) for picture in token.pictures]
            parts.append({"kind": "frames", "images": images})
            parts[-1]["ratio"] = token.pictures.shape[2] / token.pictures.shape[1]
            names += token.names or [f"frame {i + 1}" for i in range(len(token))]
        elif isinstance(token, str):
            if not parts or parts[-1]["kind"] != "words":
                parts.append({"kind": "words", "words": []})
            word = token if token.strip() else "␣"  # a space would not be seen
            parts[-1]["words"].append(word)
            names.append(word)
        else:
            raise ValueError(f"{name}: expected words, Patches and Frames, found {type(token).__name__}")
    if len(names) != count:
        raise ValueError(f"{name}: expected {count} tokens, as the weights have, found {len(names)}")
    often = Counter(names)
    return parts, [f"{x} ({i})" if often[x] > 1 else x for i, x in enumerate(names, 1)]


def _file(picture: np.ndarray, kind: str, files: dict[bytes, int]) -> int:
    """Number of the picture's file: a large one made smaller, a small one with its pixels as squares."""
    side = SIDES[kind]
    zoom = max(1, side // max(picture.shape[:2]))
    image = Image.fromarray(np.kron(picture, np.ones((zoom, zoom, 1), np.uint8)))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return files.setdefault(webp(image, quality=80), len(files))


def _figures(p: Float[np.ndarray, " keys"], top: int) -> dict:
    weights, levels = p.tolist(), [math.floor(1e9 * x + 0.5) for x in p]  # so that rounding orders nothing
    order = sorted(range(len(p)), key=lambda j: -levels[j])
    entropy = max(0.0, -sum(x * math.log(x) for x in weights if x)) if any(weights) else None
    return {
        "weights": weights,
        "top": [j for j in order[:top] if weights[j]],
        "entropy": entropy,
        "effective": None if entropy is None else math.exp(entropy),
    }


def _place(about: dict, layer: int, head: int | None) -> str:
    """Which layer and head of a model is seen; nothing if it has one of each."""
    layers, heads = about["layers"], about["heads"]
    if layers == heads == 1:
        return ""
    which = f"mean of {_count(heads, 'head', 'heads')}"
    if head is not None:
        which = f"head {min(head + 1, heads)} of {heads}"
    return f"layer {min(layer + 1, layers)} of {layers}, {which}"


def _count(n: int, one: str, several: str) -> str:
    return f"{n} {one if n == 1 else several}"


def _digits(largest: float) -> int:
    """Decimals of percentages: one where all weights are small, and so are their errors."""
    return 1 if largest < 0.1 else 0


def _rounded(x: float, digits: int) -> str:
    return f"{math.floor(10**digits * x + 0.5) / 10**digits:.{digits}f}"  # halves go up, as on the page


def _percent(x: float, digits: int) -> str:
    unit = 10**digits
    whole = math.floor(100 * unit * x + 0.5)
    if x > 0 and whole == 0:
        return f"<{1 / unit:g}%"
    if x < 1 and whole == 100 * unit:
        return f">{100 - 1 / unit:g}%"
    return f"{whole / unit:.{digits}f}%"


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
