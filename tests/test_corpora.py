"""Real corpora, from small files of the same layout on disk; and encoders that others have trained."""

import io
import json
import sys
import types
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mmtutor import corpora
from mmtutor.contrastive import info_nce
from mmtutor.corpora import CorpusError, Pretrained
from mmtutor.encoders import ImageEncoder, TextEncoder, VideoEncoder

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}


def photographs(folder, suffix=".jpg"):
    """One plain photograph for each colour."""
    folder.mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (60, 40), colour).save(folder / f"{name}{suffix}")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def tokens(path):
    write(
        path, "".join(f"{c}.jpg#{k}\t{word} {c} .\n" for c in COLOURS for k, word in enumerate(("A", "The")))
    )


def make_flickr8k(folder):
    photographs(folder / "Flicker8k_Dataset")
    tokens(folder / "Flickr8k.token.txt")


def make_flickr30k(folder):
    photographs(folder / "flickr30k-images")
    tokens(folder / "results_20130124.token")


def make_coco(folder):
    photographs(folder / "val2017")
    images = [{"id": k, "file_name": f"{c}.jpg"} for k, c in enumerate(COLOURS)]
    captions = [
        {"id": 10 * k + j, "image_id": k, "caption": f"{word} {c} ."}
        for k, c in enumerate(COLOURS)
        for j, word in enumerate(("A", "The"))
    ]
    path = folder / "annotations" / "captions_val2017.json"
    write(path, json.dumps({"images": images, "annotations": captions}))


def make_pets(folder):
    base = folder / "oxford-iiit-pet"
    photographs(base / "images", "_cat_7.jpg")
    write(
        base / "annotations" / "trainval.txt",
        "".join(f"{c}_cat_7 {k + 1} 1 1\n" for k, c in enumerate(COLOURS)),
    )


class StoredFrames:
    """In place of torchcodec's decoder: the files of these tests hold frames as NumPy arrays."""

    def __init__(self, path, dimension_order="NHWC"):
        assert dimension_order == "NHWC"
        self.frames = torch.tensor(np.load(path))
        self.metadata = types.SimpleNamespace(num_frames=len(self.frames), average_fps=25.0)

    def get_frames_at(self, indices):
        return types.SimpleNamespace(data=self.frames[indices])


class Silent:
    """In place of torchcodec's decoder of sound: there is none."""

    def __init__(self, path):
        raise ValueError("no audio")


@pytest.fixture
def torchcodec(monkeypatch):
    decoders = types.SimpleNamespace(VideoDecoder=StoredFrames, AudioDecoder=Silent)
    monkeypatch.setitem(sys.modules, "torchcodec", types.SimpleNamespace(decoders=decoders))


def make_ucf101(folder):
    names = []
    for k, (c, colour) in enumerate(COLOURS.items()):
        name = f"Apply{c.title()}Paint/v_{c}_g01_c01.avi"
        path = folder / "UCF-101" / name
        path.parent.mkdir(parents=True)
        stored = io.BytesIO()
        np.save(stored, np.tile(np.uint8(colour), (20, 40, 60, 1)))
        path.write_bytes(stored.getvalue())
        names.append(f"{name} {k + 1}\n")
    write(folder / "ucfTrainTestlist" / "trainlist01.txt", "".join(names))


CAPTIONED = {
    corpora.flickr8k: make_flickr8k,
    corpora.flickr30k: make_flickr30k,
    corpora.coco_captions: make_coco,
}
NAMED = {corpora.pets: make_pets, corpora.ucf101: make_ucf101}
EVERY = CAPTIONED | NAMED
every_corpus = pytest.mark.parametrize("read", EVERY, ids=lambda read: read.__name__)


@pytest.mark.parametrize("read", CAPTIONED, ids=lambda read: read.__name__)
def test_a_picture_comes_with_all_its_captions_in_the_numbers_of_its_own_colours(read, tmp_path):
    CAPTIONED[read](tmp_path)
    corpus = read(tmp_path)
    assert len(corpus) == 3
    found = {}
    for x, texts in (corpus[i] for i in range(3)):
        assert x.shape == (3, 32, 32) and len(texts) == 2
        colour = texts[0].split()[1]
        assert texts == [f"A {colour} .", f"The {colour} ."]
        found[colour] = ((x.mean((1, 2)) + 1) * 127.5).tolist()
    for colour, mean in found.items():  # JPEG loses a little
        assert np.allclose(mean, COLOURS[colour], atol=4)


def test_a_pet_is_called_by_its_breed(tmp_path):
    make_pets(tmp_path)
    corpus = corpora.pets(tmp_path, size=16)
    assert corpus[0][0].shape == (3, 16, 16)
    assert [corpus[i][1] for i in range(3)] == [["Red Cat"], ["Green Cat"], ["Blue Cat"]]


def test_a_film_is_some_of_its_frames_and_its_action_in_words(tmp_path, torchcodec):
    make_ucf101(tmp_path)
    corpus = corpora.ucf101(tmp_path, count=4)
    x, texts = corpus[0]
    assert len(corpus) == 3 and x.shape == (4, 3, 32, 32)
    assert texts == ["apply blue paint"] and torch.allclose(x[:, 2], torch.ones(()))


@every_corpus
def test_the_chapters_encoders_and_loss_take_a_batch_as_it_comes(read, tmp_path, torchcodec):
    EVERY[read](tmp_path)
    loader = DataLoader(read(tmp_path), batch_size=3, shuffle=True, collate_fn=corpora.one_text_each)
    for x, texts in loader:
        see = VideoEncoder(ImageEncoder(dim=8, width=4)) if x.ndim == 5 else ImageEncoder(dim=8, width=4)
        loss = info_nce(see(x), TextEncoder(dim=8)(texts))
        loss.backward()
        assert len(x) == len(texts) == 3 and torch.isfinite(loss)


@every_corpus
def test_missing_files_are_named_with_what_to_get_and_where_to_put_it(read, tmp_path):
    with pytest.raises(CorpusError) as problem:
        read(tmp_path)
    assert f"expected {tmp_path}" in str(problem.value) and "found nothing there. Get " in str(problem.value)
    assert str(tmp_path) in str(problem.value).split("Get ")[1]  # where it goes


def test_pictures_that_are_missing_are_left_out_with_a_warning(tmp_path):
    make_flickr8k(tmp_path)
    (tmp_path / "Flicker8k_Dataset" / "red.jpg").unlink()
    with pytest.warns(UserWarning, match="Flickr8k: 1 of 3 pictures are not there, left out"):
        corpus = corpora.flickr8k(tmp_path)
    assert [texts[0] for _, texts in (corpus[0], corpus[1])] == ["A blue .", "A green ."]
    for path in (tmp_path / "Flicker8k_Dataset").iterdir():
        path.unlink()
    with pytest.raises(CorpusError, match="expected the pictures of .* found none"):
        corpora.flickr8k(tmp_path)


@pytest.mark.parametrize(
    ("read", "package"), [(corpora.coco_captions, "pycocotools"), (corpora.ucf101, "torchcodec")]
)
def test_a_missing_package_is_named(read, package, tmp_path, monkeypatch):
    EVERY[read](tmp_path)
    for name in (package, "pycocotools.coco"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CorpusError, match=f"by the package {package}"):
        read(tmp_path)


def test_a_decoder_that_is_installed_and_does_not_load_is_told_from_a_missing_one(tmp_path, monkeypatch):
    make_ucf101(tmp_path)
    write(tmp_path / "packages" / "torchcodec.py", "raise RuntimeError('no libav\\nand a long story')\n")
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    with pytest.raises(CorpusError, match="install FFmpeg and a torchcodec .* found: no libav$"):
        corpora.ucf101(tmp_path)


def test_a_picture_loses_its_longer_ends_and_a_grey_one_gets_colours():
    wide = Image.new("L", (90, 30), 0)
    wide.paste(255, (30, 0, 60, 30))  # the middle square is white
    assert torch.equal(corpora.picture_of(wide, 8), torch.ones(3, 8, 8))


def test_each_item_of_a_batch_has_one_text_and_each_text_its_turn():
    item = torch.zeros(3, 4, 4), ["a", "b"]
    seen = {text for _ in range(50) for text in corpora.one_text_each([item, item])[1]}
    assert seen == {"a", "b"}


def test_an_item_without_a_text_is_refused():
    with pytest.raises(ValueError, match="texts: expected at least one for each item"):
        corpora.one_text_each([(torch.zeros(3, 4, 4), ["a"]), (torch.zeros(3, 4, 4), [])])


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (3, 32, 32)])
def test_a_pretrained_network_refuses_what_is_no_batch_of_colour_pictures(shape):
    model = Pretrained("resnet18", dim=8, weights=None, size=32)
    with pytest.raises(ValueError, match=r"pictures: expected shape \(B, 3, H, W\), found"):
        model(torch.zeros(shape))


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "inception_v3"])
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_only_the_last_map_of_a_pretrained_network_learns_and_its_statistics_stay(name):
    model = Pretrained(name, dim=8, weights=None, size=80).train()
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == [
        "project.weight",
        "project.bias",
    ]
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())


def test_weights_that_cannot_be_downloaded_are_named_with_their_place(monkeypatch, tmp_path):
    def offline(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        CorpusError, match="resnet18: its weights could not be downloaded .*no network"
    ) as problem:
        Pretrained("resnet18")
    assert "resnet18-f37072fd.pth" in str(problem.value) and str(tmp_path) in str(problem.value)


def test_weights_that_lie_in_their_place_are_used(monkeypatch, tmp_path):
    from torchvision.models import resnet18

    state = resnet18(weights=None).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = Pretrained("resnet18").network.state_dict()
    assert torch.equal(found["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
