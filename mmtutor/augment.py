"""Augmentation: change a thing's picture without changing what is true of it.

Four families: *replacement* (another version in its place), *masking* (hide a part), *sampling* (read the
same signal at other points) and *balancing* (show rare classes more often). Each augmentation declares the
properties that it ``preserves`` (`AUGMENTATIONS`); `check` refuses it where a task needs another.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import WeightedRandomSampler


def random_affine(
    images: Float[Tensor, "batch channels height width"],
    *,
    degrees: float = 10.0,
    shift: float = 0.07,
    scale: float = 0.15,
    shear: float = 0.1,
    fill: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch channels height width"]:
    r"""Turn, move, stretch and shear each picture a little, each by its own random amount.

    Every output pixel :math:`p` looks up the input at :math:`Ap+t`. torchvision's ``RandomAffine`` draws one
    transform for a whole batch; here each picture gets its own, in one call. Preserves what the thing is and
    its left and right (no mirror); does not preserve exact place, size or slope.

    Args:
        images: ``(B, C, H, W)``.
        degrees: largest turn to either side.
        shift: largest move, as a share of the picture's side.
        scale: largest relative change of size; height and width also differ by up to three quarters of it.
        shear: largest slope added.
        fill: value outside of the picture (1 is white for pictures in -1..1).

    Raises:
        ValueError: for another number of axes.
        TypeError: for pictures that are not floats.

    Example:
        >>> random_affine(torch.ones(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    if images.ndim != 4:
        raise ValueError(f"images: expected shape (B, C, H, W), found {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images: expected floats, found {images.dtype}; see encoders.pixels")

    def uniform(limit: float) -> Tensor:
        return ((torch.rand(len(images), generator=generator) * 2 - 1) * limit).to(images.device)

    angle = uniform(degrees).deg2rad()
    size, aspect = 1 + uniform(scale), 1 + uniform(0.75 * scale)
    row_x = torch.stack(
        [angle.cos() * size * aspect, uniform(shear) - angle.sin() * size, uniform(2 * shift)], 1
    )
    row_y = torch.stack([angle.sin() * size, angle.cos() * size / aspect, uniform(2 * shift)], 1)
    grid = F.affine_grid(torch.stack([row_x, row_y], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images - fill, grid, align_corners=False) + fill


def random_ink(
    images: Float[Tensor, "batch 3 height width"],
    *,
    strength: float = 0.3,
    paper: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    r"""Change how strongly each colour is laid on, :math:`x' = p-g_c\,(p-x)`, a gain per channel.

    White paper :math:`p` stays white; an orange becomes more red or more yellow. Preserves shape and place,
    not the exact hue.

    Args:
        images: ``(B, 3, H, W)``.
        strength: gains are drawn evenly from ``1 - strength`` to ``1 + strength``.
        paper: the value of white (1 for pictures in -1..1).

    Raises:
        ValueError: for other shapes.

    Example:
        >>> random_ink(torch.ones(2, 3, 8, 8)).min().item()
        1.0
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected shape (B, 3, H, W), found {tuple(images.shape)}")
    gain = 1 + (torch.rand(len(images), 3, 1, 1, generator=generator) * 2 - 1) * strength
    return paper - gain.to(images.device) * (paper - images)


# Pictures, and clips: the frames of one clip are changed alike


def one_by_one(
    transform: Callable[[Tensor], Tensor],
    images: Float[Tensor, "batch *rest"],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *changed"]:
    r"""Apply a torchvision transform to each picture or clip by itself, :math:`x'_i=a(x_i;\epsilon_i)`.

    Given a batch, torchvision's ``v2`` transforms draw *one* :math:`\epsilon` for all of it, and from the
    global stream. Here each item gets a draw of its own, decided by ``generator``; a clip's frames share it.

    Args:
        transform: a function of one item that draws from PyTorch's global stream: ``v2.RandomErasing()``.
        images: ``(B, C, H, W)`` or ``(B, L, C, H, W)``.

    Example:
        >>> from torchvision.transforms import v2
        >>> one_by_one(v2.RandomGrayscale(p=0.5), torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 3, 32, 32])
    """
    seed = torch.randint(2**62, (), generator=generator).item()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torch.stack([transform(item) for item in images])


def frames_alike(
    change: Callable[..., Tensor],
    clips: Float[Tensor, "batch length channels height width"],
    *,
    generator: torch.Generator | None = None,
    **settings,
) -> Float[Tensor, "batch length channels height width"]:
    r"""Change all frames of a clip in one and the same way, :math:`x'_{il}=a(x_{il};\epsilon_i)`.

    For augmentations that take no clips (`random_affine`, `random_ink`). A draw for each frame would add a
    motion that is not there; so the generator is set back before each, and all frames draw the same.

    Args:
        change: an augmentation of pictures ``(B, C, H, W)``; ``settings`` are passed on to it.
        clips: ``(B, L, C, H, W)``.

    Raises:
        ValueError: for another number of axes, or no frames.

    Example:
        >>> clips = torch.rand(2, 1, 3, 32, 32).expand(2, 8, 3, 32, 32)
        >>> moved = frames_alike(random_affine, clips, degrees=20.0)
        >>> bool((moved == moved[:, :1]).all())  # what did not move does not move now
        True
    """
    _check_images(clips, clips_only=True)
    generator = generator or torch.default_generator
    state, frames = generator.get_state(), []
    for frame in clips.unbind(1):
        generator.set_state(state)
        frames.append(change(frame, generator=generator, **settings))
    return torch.stack(frames, 1)


def random_mirror(
    images: Float[Tensor, "batch *length channels height width"],
    *,
    probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *length channels height width"]:
    r"""Exchange left and right in some of the pictures, :math:`x'_{rc}=x_{r,W-1-c}`.

    Preserves group, hand, colours and the axis of a motion. Does not preserve left and right, and so not the
    name: a mirrored *left arrow* is a *right arrow*, a mirrored *three o'clock* is *nine o'clock*.

    Args:
        images: ``(B, C, H, W)`` or ``(B, L, C, H, W)``; a clip is mirrored as a whole.
        probability: of each picture to be mirrored.

    Raises:
        ValueError: for another number of axes.
        TypeError: for pictures that are not floats.

    Example:
        >>> random_mirror(torch.tensor([[[[1.0, 2.0]]]]), probability=1.0).tolist()
        [[[[2.0, 1.0]]]]
    """
    _check_images(images)
    return torch.where(_chosen(images, probability, generator), images.flip(-1), images)


def random_quarter_turn(
    images: Float[Tensor, "batch *length channels side side"], *, generator: torch.Generator | None = None
) -> Float[Tensor, "batch *length channels side side"]:
    r"""Turn each picture by :math:`k\cdot90` degrees, :math:`k` drawn evenly from 0 to 3.

    No pixel is resampled. Preserves group and colours; does not preserve direction, and exchanges a motion
    across with one up and down.

    Args:
        images: ``(B, C, S, S)`` or ``(B, L, C, S, S)``; a clip is turned as a whole.

    Raises:
        ValueError: for another number of axes, or pictures that are not square.
        TypeError: for pictures that are not floats.

    Example:
        >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> turned = random_quarter_turn(x)
        >>> any(torch.equal(turned, x.rot90(k, (-2, -1))) for k in range(4))
        True
    """
    _check_images(images)
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images: expected as high as wide, found {tuple(images.shape)}")
    turns = torch.randint(4, (len(images),), generator=generator).to(images.device)
    result = images.clone()
    for k in (1, 2, 3):
        result[turns == k] = images[turns == k].rot90(k, (-2, -1))
    return result


def random_crop(
    images: Float[Tensor, "batch *length channels height width"],
    *,
    area: tuple[float, float] = (0.6, 1.0),
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *length channels height width"]:
    r"""Cut out a part of each picture and enlarge it to the full size (torchvision's ``RandomResizedCrop``).

    Every output pixel :math:`p` looks up the input at :math:`Sp+t`, where the part :math:`S[-1,1]^2+t` lies
    inside of the picture. Preserves the group, left and right, colours; not the place. What is cut off may be
    what the name speaks of: half of a *left-right arrow* is a *left arrow*.

    Args:
        images: ``(B, C, H, W)`` or ``(B, L, C, H, W)``; a clip is cut as a whole.
        area: smallest and largest share of the picture that is kept; the sides differ by up to a tenth.

    Raises:
        ValueError: for another number of axes.
        TypeError: for pictures that are not floats.

    Example:
        >>> random_crop(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    from torchvision.transforms import v2  # takes seconds to import: only those wait who crop

    _check_images(images)
    crop = v2.RandomResizedCrop(images.shape[-2:], scale=area, ratio=(0.9, 1.1), antialias=True)
    return one_by_one(crop, images, generator=generator)


def mask_patches(
    images: Float[Tensor, "batch *length channels height width"],
    *,
    rate: float = 0.25,
    patch: int = 8,
    fill: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *length channels height width"]:
    r"""Cover some squares of each picture, :math:`x'_p=x_p` only where the patch of :math:`p` is kept.

    The patches are those of masked autoencoders (He et al. 2022); at least one stays. The gap is grey, not
    the white of the paper: it must look like a gap, or the picture says something else (*left-right arrow*
    without its right head). So nothing becomes false, but what tells two names apart may be hidden.

    Args:
        images: ``(B, C, H, W)`` or ``(B, L, C, H, W)``; all frames of a clip lose the same patches.
        rate: share of patches that are covered.
        patch: side of a patch in pixels, which divides height and width.
        fill: the value of a covered pixel.

    Raises:
        ValueError: for another number of axes, or sides that ``patch`` does not divide.
        TypeError: for pictures that are not floats.

    Example:
        >>> covered = mask_patches(torch.ones(1, 3, 32, 32), rate=1.0)
        >>> int((covered == 1).sum()) == 3 * 8 * 8  # one patch is always left
        True
    """
    _check_images(images)
    height, width = images.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"images: expected sides divisible by {patch}, found {tuple(images.shape)}")
    grid = torch.ones(len(images), height // patch * (width // patch), dtype=torch.bool)
    kept = mask_present(grid, rate=rate, generator=generator).unflatten(1, (height // patch, width // patch))
    kept = kept.repeat_interleave(patch, 1).repeat_interleave(patch, 2).to(images.device)
    return torch.where(kept.reshape(len(images), *[1] * (images.ndim - 3), height, width), images, fill)


def another_hand(
    present: Bool[Tensor, "styles things"],
    style: Int[Tensor, " batch"],
    item: Int[Tensor, " batch"],
    *,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    r"""Draw another hand for each thing, :math:`s'_i\sim U\{s\ne s_i: s\text{ drew the thing }i\}`.

    Take the picture ``images[s', item]`` in place of ``images[style, item]``. Preserves the thing (group,
    name), but nothing of how it is drawn: not the hand, nor which way a cat looks.

    Args:
        present: ``(S, N)``, which hand drew which thing (``Emoji.present``).
        style: ``(B,)``, the hand that drew each picture.
        item: ``(B,)``, the thing that it shows.

    Returns:
        ``(B,)`` other hands; where no other drew the thing, its own.

    Raises:
        TypeError: if ``present`` is not bool.
        ValueError: if ``style`` and ``item`` differ in shape.

    Example:
        >>> another_hand(torch.tensor([[True], [False], [True]]), torch.tensor([0]), torch.tensor([0]))
        tensor([2])
    """
    if present.dtype != torch.bool:
        raise TypeError(f"present: expected bool, found {present.dtype}")
    if style.shape != item.shape or style.ndim != 1:
        raise ValueError(
            f"item: expected shape (B,) as style, found {tuple(style.shape)}, {tuple(item.shape)}"
        )
    own = F.one_hot(style, len(present)).bool()
    others = present.T[item] & ~own
    others = torch.where(others.any(1, keepdim=True), others, own)
    return torch.multinomial(others.float(), 1, generator=generator)[:, 0]


# Frames


def sample_frames(
    clips: Float[Tensor, "batch length channels height width"],
    count: int,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch count channels height width"]:
    r"""Keep some frames of each clip in their order, :math:`x'_{ik}=x_{i,l_k}`, :math:`l_1<\dots<l_K`.

    Preserves what is seen, the order and how a thing moves; not how fast.

    Args:
        clips: ``(B, L, C, H, W)``.
        count: ``K``, how many frames are kept.

    Raises:
        ValueError: for another number of axes, or more frames than there are.
        TypeError: for clips that are not floats.

    Example:
        >>> clips = torch.arange(8.0).reshape(1, 8, 1, 1, 1)
        >>> times = sample_frames(clips, 3).flatten()
        >>> bool((times.diff() > 0).all())
        True
    """
    _check_images(clips, clips_only=True)
    if not 1 <= count <= clips.shape[1]:
        raise ValueError(f"count: expected 1 to {clips.shape[1]} frames, found {count}")
    order = torch.rand(clips.shape[:2], generator=generator).argsort(1)[:, :count].sort(1).values
    return clips[torch.arange(len(clips))[:, None], order]


def reverse_time(
    clips: Float[Tensor, "batch length channels height width"],
    *,
    probability: float = 0.5,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch length channels height width"]:
    r"""Play some of the clips backwards, :math:`x'_{il}=x_{i,L-1-l}`.

    Preserves every frame, and the axis and size of a motion, which do not depend on the frames' order. Does
    not preserve that order, and so no name that speaks of it: *airplane departure* becomes an arrival.

    Args:
        clips: ``(B, L, C, H, W)``.
        probability: of each clip to be reversed.

    Raises:
        ValueError: for another number of axes.
        TypeError: for clips that are not floats.

    Example:
        >>> reverse_time(torch.arange(3.0).reshape(1, 3, 1, 1, 1), probability=1.0).flatten().tolist()
        [2.0, 1.0, 0.0]
    """
    _check_images(clips, clips_only=True)
    return torch.where(_chosen(clips, probability, generator), clips.flip(1), clips)


# Whatever comes in parts: patches, frames, words, modalities


def mask_present(
    valid: Bool[Tensor, "batch parts"],
    *,
    rate: float = 0.25,
    at_least: int = 1,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch parts"]:
    r"""Mark some present parts as absent, but never the last ones.

    With :math:`u_{ik}\sim U(0,1)`, a present part :math:`k` stays if :math:`u_{ik}\ge` ``rate``, or if it is
    among the ``at_least`` present parts of item :math:`i` with the largest :math:`u`. Parts may be frames,
    words or whole modalities (modality dropout, Neverova et al. 2016). What was absent stays absent.

    Args:
        valid: ``(B, K)``, true where a part is present.
        rate: probability of a part to be hidden, were there no limit.
        at_least: how many parts are left in any case (all of them, where there are fewer).

    Raises:
        TypeError: if ``valid`` is not bool.
        ValueError: for another number of axes, or a rate outside of 0..1.

    Example:
        >>> mask_present(torch.tensor([[True, True, False]]), rate=1.0).sum().item()
        1
    """
    if valid.dtype != torch.bool:
        raise TypeError(f"valid: expected bool, found {valid.dtype}")
    if valid.ndim != 2:
        raise ValueError(f"valid: expected shape (B, K), found {tuple(valid.shape)}")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected 0 to 1, found {rate}")
    u = torch.rand(valid.shape, generator=generator).to(valid.device)
    rank = u.masked_fill(~valid, -1).argsort(1, descending=True).argsort(1)
    return valid & ((u >= rate) | (rank < at_least))


# Texts


def another_text(texts: Iterable[Iterable[str]], *, generator: torch.Generator | None = None) -> list[str]:
    r"""Draw one of the true texts of each thing, :math:`x'_i\sim U(\mathcal T_i)`.

    All that are given must be true of the thing. Its name in another language says the same; a keyword is
    true, too, but says less.

    Args:
        texts: for each of ``B`` things its texts.

    Raises:
        ValueError: if a thing has none; TypeError: if it has a string in place of a list.

    Example:
        >>> another_text([["red apple", "红苹果"], ["cat"]])[1]
        'cat'
    """
    chosen = []
    for i, of_thing in enumerate(texts):
        if isinstance(of_thing, str):
            raise TypeError(
                f"texts: expected a list of texts for each thing, found {of_thing!r} for thing {i}"
            )
        of_thing = list(of_thing)
        if not of_thing:
            raise ValueError(f"texts: expected at least one text for each thing, found none for thing {i}")
        chosen.append(of_thing[torch.randint(len(of_thing), (), generator=generator)])
    return chosen


def mask_words(
    texts: list[str],
    *,
    rate: float = 0.25,
    token: str = "[masked]",
    generator: torch.Generator | None = None,
) -> list[str]:
    r"""Replace some words of each text by a mark, as in BERT (Devlin et al. 2019), but never all of them.

    The mark says that something is missing: of a *hot dog*, *[masked] dog* says too little, *dog* what is
    false. Words are what spaces part, so a Chinese name is one word and stays.

    Args:
        texts: ``B`` texts.
        rate: share of words that are hidden.
        token: what stands in their place.

    Raises:
        TypeError: for one string in place of a list.

    Example:
        >>> mask_words(["red apple", "cat"], rate=1.0)[1]
        'cat'
    """
    if isinstance(texts, str):
        raise TypeError(f"texts: expected a list of texts, found {texts!r}")
    words = [text.split() for text in texts]
    longest = max(map(len, words), default=0)
    valid = torch.tensor([[k < len(w) for k in range(longest)] for w in words], dtype=torch.bool)
    kept = mask_present(valid.reshape(len(words), longest), rate=rate, generator=generator)
    pairs = (zip(w, keep, strict=False) for w, keep in zip(words, kept, strict=True))
    return [" ".join(word if keep else token for word, keep in of_text) for of_text in pairs]


# Classes


def balanced_sample(
    labels: Int[Tensor, " items"],
    count: int,
    *,
    strength: float = 1.0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " count"]:
    r"""Draw items so that rare classes come as often as common ones, :math:`p(i)\propto n_{y_i}^{-\alpha}`.

    A class of :math:`n_c` items then has the share :math:`n_c^{1-\alpha}/\sum_{c'}n_{c'}^{1-\alpha}`: even
    for ``strength`` :math:`\alpha=1`, as in the data for 0. No item is changed, but rare ones come again and
    again, and how frequent a class is can no longer be learnt.

    Args:
        labels: ``(N,)``, the class of each item.
        count: how many items are drawn, with replacement.
        strength: :math:`\alpha`.

    Returns:
        ``(count,)`` indices into the items.

    Raises:
        TypeError: if labels are not whole numbers.
        ValueError: for another number of axes, or no items.

    Example:
        >>> drawn = balanced_sample(torch.tensor([0] * 99 + [1]), 1000)
        >>> 400 < int((drawn == 99).sum()) < 600
        True
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels: expected whole numbers, found {labels.dtype}")
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels: expected shape (N,) with N > 0, found {tuple(labels.shape)}")
    _, number, sizes = labels.unique(return_inverse=True, return_counts=True)
    weights = sizes[number].double() ** -strength
    return torch.tensor(list(WeightedRandomSampler(weights, count, generator=generator)))


def _check_images(images: Tensor, clips_only: bool = False) -> None:
    """Raise unless these are float pictures (B, C, H, W), or clips (B, L, C, H, W)."""
    if images.ndim not in ((5,) if clips_only else (4, 5)):
        expected = "(B, L, C, H, W)" if clips_only else "(B, C, H, W) or (B, L, C, H, W)"
        raise ValueError(f"images: expected shape {expected}, found {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images: expected floats, found {images.dtype}; see encoders.pixels")


def _chosen(images: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
    """Choose some of the items: bool, as many axes as the images, one value an item."""
    draws = torch.rand(len(images), generator=generator) < probability
    return draws.to(images.device).reshape(-1, *[1] * (images.ndim - 1))


def _properties(names: str | Iterable[str]) -> frozenset[str]:
    """Return properties as a set, or raise, naming those that there are."""
    names = frozenset([names] if isinstance(names, str) else names)
    if unknown := names - set(PROPERTIES):
        raise ValueError(f"property: expected one of {', '.join(PROPERTIES)}; found {min(unknown)!r}")
    return names


# What each preserves

FAMILIES = ("replacement", "masking", "sampling", "balancing")
PROPERTIES = {
    "group": "which kind of thing it is",
    "pair": "picture and text are true of one another",
    "name": "which name it has: all that tells it from other things",
    "style": "whose hand drew it",
    "motion": "how it moves: across, up and down, turning, in place",
    "direction": "what is left and what is right",
    "order": "which frame comes before which",
    "place": "where in the picture it is",
    "colour": "which colours it has",
    "frequency": "how often each class occurs",
}


@dataclass(frozen=True)
class Augmentation:
    """One way to change data, and what stays true of every item that it changes.

    Attributes:
        name: what it is called.
        family: one of `FAMILIES`.
        modality: what it changes: "picture" (or clip), "frames", "text" or "any".
        preserves: those of `PROPERTIES` that are after it as they were before.
        function: changes a batch.

    Raises:
        ValueError: for an unknown family or property.

    Example:
        >>> AUGMENTATIONS["mirror"].family, "direction" in AUGMENTATIONS["mirror"].preserves
        ('replacement', False)
    """

    name: str
    family: str
    modality: str
    preserves: frozenset[str]
    function: Callable

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise ValueError(f"family: expected one of {', '.join(FAMILIES)}; found {self.family!r}")
        _properties(self.preserves)


def only(*kept: str) -> frozenset[str]:
    """Return these properties as a set.

    Example:
        >>> sorted(only("group", "pair"))
        ['group', 'pair']
    """
    return _properties(kept)


def all_but(*lost: str) -> frozenset[str]:
    """Return all properties but those that are lost.

    Example:
        >>> "pair" in all_but("style"), "style" in all_but("style")
        (True, False)
    """
    return frozenset(PROPERTIES) - _properties(lost)


AUGMENTATIONS = {
    each.name: each
    for each in (
        Augmentation(
            "another hand", "replacement", "picture", only("group", "pair", "name", "frequency"), another_hand
        ),
        Augmentation(
            "mirror", "replacement", "picture", all_but("pair", "name", "direction", "place"), random_mirror
        ),
        Augmentation(
            "quarter turn",
            "replacement",
            "picture",
            all_but("pair", "name", "motion", "direction", "place"),
            random_quarter_turn,
        ),
        Augmentation("ink", "replacement", "picture", all_but("pair", "name", "style", "colour"), random_ink),
        Augmentation("affine", "sampling", "picture", all_but("style", "place"), random_affine),
        Augmentation("crop", "sampling", "picture", all_but("pair", "name", "style", "place"), random_crop),
        Augmentation("masked patches", "masking", "picture", all_but("name"), mask_patches),
        Augmentation("masked frames", "masking", "frames", all_but("name"), mask_present),
        Augmentation("sampled frames", "sampling", "frames", all_but("name"), sample_frames),
        Augmentation(
            "reversed time", "replacement", "frames", all_but("pair", "name", "order"), reverse_time
        ),
        Augmentation("another name", "replacement", "text", all_but(), another_text),
        Augmentation("keyword", "replacement", "text", only("pair", "frequency"), another_text),
        Augmentation("masked words", "masking", "text", all_but("name"), mask_words),
        Augmentation(
            "masked modalities", "masking", "any", only("group", "pair", "name", "frequency"), mask_present
        ),
        Augmentation("balanced sample", "balancing", "any", all_but("frequency"), balanced_sample),
    )
}


def check(name: str, needs: str | Iterable[str]) -> Augmentation:
    """Return an augmentation, if it preserves what a task needs.

    Args:
        name: a key of `AUGMENTATIONS`.
        needs: one of `PROPERTIES`, or several.

    Raises:
        ValueError: if there is no such augmentation or property, or if it does not preserve what is needed.

    Example:
        >>> check("mirror", "group").function is random_mirror
        True
        >>> check("mirror", "direction")
        Traceback (most recent call last):
            ...
        ValueError: mirror: does not preserve direction (what is left and what is right)
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"augmentation: expected one of {', '.join(AUGMENTATIONS)}; found {name!r}")
    lost = sorted(_properties(needs) - AUGMENTATIONS[name].preserves)
    if lost:
        what = ", ".join(f"{key} ({PROPERTIES[key]})" for key in lost)
        raise ValueError(f"{name}: does not preserve {what}")
    return AUGMENTATIONS[name]


def allowed(needs: str | Iterable[str]) -> list[str]:
    """Return the names of the augmentations that preserve what a task needs.

    Args:
        needs: one of `PROPERTIES`, or several.

    Raises:
        ValueError: for an unknown property.

    Example:
        >>> allowed(["name", "motion"])
        ['affine', 'another name', 'balanced sample']
    """
    return [name for name, each in AUGMENTATIONS.items() if _properties(needs) <= each.preserves]
