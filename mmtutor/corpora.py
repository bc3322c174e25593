"""Real corpora and pretrained encoders, in the shapes that the chapters' code takes.

Every corpus is read by torchvision's own class from files that you have fetched; none ships with the book.
An item is a view, numbers from -1 to 1, and the texts that go with it.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, what pretrained encoders expect


class CorpusError(RuntimeError):
    """Files of a corpus, or what reads them, are missing; the message says what to get and where it goes."""


@dataclass(frozen=True)
class Corpus(Dataset):
    """Views and their texts, item by item.

    Attributes:
        data: a data set of torchvision, whose items begin with a view.
        look: turns its view into numbers from -1 to 1, ``(3, S, S)``, or ``(L, 3, S, S)`` of a film.
        say: turns its last entry into a list of texts.

    Example:
        >>> drawn = Image.new("RGB", (40, 30), "white"), ["a white rectangle"]
        >>> x, texts = Corpus([drawn], picture_of, list)[0]
        >>> x.shape, x.max().item(), texts
        (torch.Size([3, 32, 32]), 1.0, ['a white rectangle'])
    """

    data: Sequence
    look: Callable[..., Tensor]
    say: Callable[..., list[str]]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Tensor, list[str]]:
        item = self.data[i]
        return self.look(item[0]), self.say(item[-1])


def one_text_each(items: Sequence[tuple[Tensor, list[str]]]) -> tuple[Tensor, list[str]]:
    """Collate items of a `Corpus`: the views as one tensor, and one text of each, drawn at random.

    Pass it as ``collate_fn`` to a ``DataLoader``. A text each, for two texts of one picture in a batch would
    be each other's false negatives.

    Raises:
        ValueError: if an item has no text.

    Example:
        >>> x, texts = one_text_each([(torch.zeros(3, 32, 32), ["a", "b"]), (torch.zeros(3, 32, 32), ["c"])])
        >>> x.shape, texts[0] in "ab", texts[1]
        (torch.Size([2, 3, 32, 32]), True, 'c')
    """
    if not all(texts for _, texts in items):
        raise ValueError("texts: expected at least one for each item, found an item without")
    texts = [texts[int(torch.randint(len(texts), ()))] for _, texts in items]
    return torch.stack([x for x, _ in items]), texts


def picture_of(image: Image.Image, size: int = 32) -> Float[Tensor, "3 size size"]:
    """Cut the middle square out of a picture, scale it, and return numbers from -1 to 1.

    Example:
        >>> picture_of(Image.new("RGB", (50, 20)), size=8).unique().tolist()
        [-1.0]
    """
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.convert("RGB").crop((left, top, left + short, top + short))
    square = square.resize((size, size), Image.Resampling.BICUBIC)
    stored = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
    return stored.reshape(size, size, 3).movedim(-1, 0).float() / 127.5 - 1


def film_of(frames: Tensor, size: int = 32, count: int = 8) -> Float[Tensor, "count 3 size size"]:
    """Take frames ``uint8`` ``(T, H, W, 3)`` at equal distances and return each as `picture_of` does.

    Example:
        >>> film_of(torch.zeros(30, 20, 40, 3, dtype=torch.uint8), size=8, count=4).shape
        torch.Size([4, 3, 8, 8])
    """
    chosen = torch.linspace(0, len(frames) - 1, count).round().long()
    return torch.stack([picture_of(Image.fromarray(frame.numpy()), size) for frame in frames[chosen]])


def _expect(name: str, get: str, *paths: Path) -> None:
    """Raise a `CorpusError` that names the first path that is not there."""
    for path in paths:
        if not path.exists():
            raise CorpusError(f"{name}: expected {path}, found nothing there. Get {get}.")


def _tokens(name: str, get: str, pictures: Path, captions: Path, size: int) -> Corpus:
    """Read captions of the form ``picture.jpg#0<tab>caption``, as both Flickr corpora have them."""
    from torchvision.datasets import Flickr30k

    _expect(name, get, pictures, captions)
    data = Flickr30k(str(pictures), str(captions))
    here = [i for i in data.ids if (pictures / i).exists()]
    if not here:
        raise CorpusError(
            f"{name}: expected the pictures of {captions} in {pictures}, found none. Get {get}."
        )
    if missing := len(data.ids) - len(here):
        warnings.warn(f"{name}: {missing} of {len(data.ids)} pictures are not there, left out", stacklevel=3)
    data.ids = here
    return Corpus(data, lambda image: picture_of(image, size), list)


def flickr8k(folder: Path | str, size: int = 32) -> Corpus:
    """Return Flickr8k: 8,000 photographs with five captions each.

    Args:
        folder: holds ``Flicker8k_Dataset/`` (so spelt) and ``Flickr8k.token.txt``.
        size: side of the square that a picture is scaled to.

    Raises:
        CorpusError: if a file is missing; says what to get.

    Source:
        Hodosh, Young and Hockenmaier (2013); for research only, on request from its authors.

    Example:
        >>> flickr8k("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mmtutor.corpora.CorpusError: Flickr8k: expected nowhere/Flicker8k_Dataset, found ...
    """
    folder = Path(folder)
    get = f"Flickr8k_Dataset.zip and Flickr8k_text.zip from the authors and unpack both in {folder}"
    return _tokens("Flickr8k", get, folder / "Flicker8k_Dataset", folder / "Flickr8k.token.txt", size)


def flickr30k(folder: Path | str, size: int = 32) -> Corpus:
    """Return Flickr30k: 31,783 photographs with five captions each.

    Args:
        folder: holds ``flickr30k-images/`` and ``results_20130124.token``.
        size: side of the square that a picture is scaled to.

    Raises:
        CorpusError: if a file is missing; says what to get.

    Source:
        Young, Lai, Hodosh and Hockenmaier (2014); for research only, on request from its authors.

    Example:
        >>> flickr30k("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mmtutor.corpora.CorpusError: Flickr30k: expected nowhere/flickr30k-images, found ...
    """
    folder = Path(folder)
    get = f"flickr30k-images.tar and flickr30k.tar.gz from the authors and unpack both in {folder}"
    return _tokens("Flickr30k", get, folder / "flickr30k-images", folder / "results_20130124.token", size)


def coco_captions(folder: Path | str, part: str = "val2017", size: int = 32) -> Corpus:
    """Return COCO: photographs with five captions each, 118,287 in ``train2017``, 5,000 in ``val2017``.

    Args:
        folder: holds a folder named as the part, and ``annotations/captions_<part>.json``.
        part: ``"train2017"`` or ``"val2017"``.
        size: side of the square that a picture is scaled to.

    Raises:
        CorpusError: if a file, or the package pycocotools, is missing; says what to get.

    Source:
        Lin et al. (2014), Chen et al. (2015); captions CC BY 4.0, photographs under their owners' licences.

    Example:
        >>> coco_captions("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mmtutor.corpora.CorpusError: COCO: expected nowhere/val2017, found ...
    """
    from torchvision.datasets import CocoCaptions

    folder = Path(folder)
    captions = folder / "annotations" / f"captions_{part}.json"
    get = f"{part}.zip and annotations_trainval2017.zip from cocodataset.org and unpack both in {folder}"
    _expect("COCO", get, folder / part, captions)
    try:
        data = CocoCaptions(str(folder / part), str(captions))
    except ModuleNotFoundError as missing:
        raise CorpusError(f"COCO: torchvision reads it by the package {missing.name}; install it") from None
    return Corpus(data, lambda image: picture_of(image, size), list)


def pets(folder: Path | str, part: str = "trainval", size: int = 32) -> Corpus:
    """Return Oxford-IIIT Pet: 7,349 photographs of cats and dogs, the name of the breed as text.

    Args:
        folder: holds ``oxford-iiit-pet/images/`` and ``oxford-iiit-pet/annotations/``.
        part: ``"trainval"`` or ``"test"``.
        size: side of the square that a picture is scaled to.

    Raises:
        CorpusError: if a file is missing; says what to get.

    Source:
        Parkhi et al. (2012); CC BY-SA 4.0.

    Example:
        >>> pets("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mmtutor.corpora.CorpusError: Oxford-IIIT Pet: expected nowhere/oxford-iiit-pet/images, found ...
    """
    from torchvision.datasets import OxfordIIITPet

    base = Path(folder) / "oxford-iiit-pet"
    get = (
        f"images.tar.gz and annotations.tar.gz from robots.ox.ac.uk/~vgg/data/pets and unpack both in {base}"
    )
    _expect("Oxford-IIIT Pet", get, base / "images", base / "annotations" / f"{part}.txt")
    data = OxfordIIITPet(str(folder), part)
    return Corpus(data, lambda image: picture_of(image, size), lambda label: [data.classes[label]])


def ucf101(folder: Path | str, part: str = "train", fold: int = 1, size: int = 32, count: int = 8) -> Corpus:
    """Return UCF101: 13,320 films of 101 actions, the name of the action as text.

    A film gives as many items as it has stretches of 16 frames. Opening the corpus reads every film once, to
    count its frames. Frames are decoded by torchcodec, which needs FFmpeg's libraries.

    Args:
        folder: holds ``UCF-101/<action>/*.avi`` and ``ucfTrainTestlist/``.
        part: ``"train"`` or ``"test"``.
        fold: which of the three official splits.
        size: side of the square that a frame is scaled to.
        count: frames of an item.

    Raises:
        CorpusError: if a file, or the package torchcodec, is missing or does not load; says what to get.

    Source:
        Soomro, Zamir and Shah (2012); for research only.

    Example:
        >>> ucf101("nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        mmtutor.corpora.CorpusError: UCF101: expected nowhere/UCF-101, found ...
    """
    from torchvision.datasets import UCF101

    folder = Path(folder)
    get = (
        f"UCF101.rar and the train/test splits for action recognition from crcv.ucf.edu, unpacked in {folder}"
    )
    lists = folder / "ucfTrainTestlist"
    _expect("UCF101", get, folder / "UCF-101", lists / f"{part}list{fold:02d}.txt")
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError) as problem:
        raise CorpusError(
            "UCF101: torchvision reads films by the package torchcodec, which has to load: install FFmpeg "
            f"and a torchcodec for torch {torch.__version__}; found: {str(problem).splitlines()[0]}"
        ) from problem
    train = part == "train"
    data = UCF101(str(folder / "UCF-101"), str(lists), 16, 16, fold=fold, train=train, num_workers=0)

    def say(label: int) -> list[str]:
        action = data.classes[label]
        return ["".join(" " + c.lower() if c.isupper() else c for c in action).strip()]

    return Corpus(data, lambda frames: film_of(frames, size, count), say)


class Pretrained(nn.Module):
    """A network of torchvision that ImageNet has taught, and one linear map into the shared space.

    It takes the place of :class:`~mmtutor.encoders.ImageEncoder`. What is pretrained stays as it is; only the
    linear map learns. Pictures are scaled to the size that the network was trained with.

    Args:
        name: ``"resnet18"``, ``"vgg16"``, ``"inception_v3"``, … any classifier of torchvision.
        dim: width ``D`` of the shared space.
        weights: torchvision's name of the weights; ``None`` for an untrained network, which needs no network.
        size: side of the square that pictures are scaled to (299 for Inception).

    Shapes: ``(B, 3, S, S)`` of numbers from -1 to 1 ``-> (B, dim)``.

    Raises:
        CorpusError: if the weights are neither here nor can be downloaded; says what to get.
        ValueError: for pictures of another shape.

    Example:
        >>> Pretrained("resnet18", dim=16, weights=None, size=64)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self, name: str = "resnet18", dim: int = 192, weights: str | None = "DEFAULT", size: int = 224
    ):
        super().__init__()
        from torchvision.models import get_model, get_model_weights

        try:
            network = get_model(name, weights=weights)
        except OSError as error:
            url = getattr(get_model_weights(name), weights).url
            place = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
            raise CorpusError(
                f"{name}: its weights could not be downloaded ({error}). Get {url} and put it at {place}"
            ) from None
        last = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1]
        head, (parent, _, own) = network.get_submodule(last), last.rpartition(".")
        setattr(network.get_submodule(parent), own, nn.Identity())
        self.network, self.size = network.requires_grad_(False), size
        self.project = nn.Linear(head.in_features, dim)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> "Pretrained":
        super().train(mode)
        self.network.eval()  # what it has learnt of means and variances stays, too
        return self

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"pictures: expected shape (B, 3, H, W), found {tuple(x.shape)}")
        x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        with torch.no_grad():
            found = self.network(((x + 1) / 2 - self.mean) / self.spread)
        return self.project(found)
