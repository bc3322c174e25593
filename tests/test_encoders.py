"""Encoders: what a picture, an animation and a text become, and that the text network folds exactly."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtutor.encoders import (
    ImageEncoder,
    TextEncoder,
    VideoEncoder,
    fnv1a,
    pixels,
    text_features,
)

TEXTS = ["red apple", "红苹果", "grinning cat 猫", "kitten"]


def trained_text_encoder(**options) -> TextEncoder:
    """A small text encoder whose batch normalisations have seen something and whose weights have moved."""
    torch.manual_seed(0)
    encoder = TextEncoder(dim=8, buckets=64, width=6, hidden=10, **options)
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.5)
    for _ in range(5):
        encoder(TEXTS)
    return encoder.eval()


# Pictures


def test_pixels_maps_0_and_255_to_minus_1_and_1_with_channels_first():
    images = torch.arange(256, dtype=torch.uint8).repeat(24).reshape(2, 32, 32, 3)
    x = pixels(images)
    assert x.shape == (2, 3, 32, 32) and x.dtype == torch.float32
    assert x.min() == -1 and x.max() == 1
    for channel in range(3):
        torch.testing.assert_close(x[1, channel], images[1, :, :, channel].float() / 255 * 2 - 1)


@pytest.mark.parametrize("batch", [(), (2,), (2, 8)])
def test_pixels_takes_one_picture_a_batch_or_a_batch_of_animations_from_numpy_too(batch):
    images = np.random.default_rng(0).integers(0, 256, (*batch, 32, 32, 3), dtype=np.uint8)
    images.setflags(write=False)  # as the loaders return them
    x = pixels(images)
    assert x.shape == (*batch, 3, 32, 32)
    assert torch.equal(x, pixels(torch.tensor(images)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.int8])
def test_pixels_refuses_what_is_not_uint8(dtype):
    with pytest.raises(TypeError, match=rf"pictures: expected dtype uint8 \(0..255\), found {dtype}"):
        pixels(torch.zeros(2, 32, 32, 3, dtype=dtype))


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (32, 32), (2, 32, 32, 4), (2, 16, 32, 3)])
def test_pixels_refuses_other_shapes(shape):
    found = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"expected shape \(..., 32, 32, 3\), found {found}"):
        pixels(torch.zeros(shape, dtype=torch.uint8))


def test_image_encoder_maps_each_picture_by_itself_in_evaluation_mode():
    torch.manual_seed(0)
    encoder = ImageEncoder(dim=10, width=4).eval()
    x = torch.randn(5, 3, 32, 32)
    z = encoder(x)
    assert z.shape == (5, 10)
    for i in range(5):
        torch.testing.assert_close(encoder(x[i : i + 1])[0], z[i])


def test_image_encoder_tells_where_a_colour_sits():
    """A grid averaged over places would give both pictures nearly the same point."""
    torch.manual_seed(0)
    pictures = torch.ones(2, 3, 32, 32)
    pictures[0, ..., :16] = pictures[1, ..., 16:] = -1
    left, right = ImageEncoder(dim=10, width=4)(pictures)
    assert (left - right).norm() > 0.1 * left.norm()


@pytest.mark.parametrize("encoder", [ImageEncoder(dim=6, width=4), ImageEncoder(dim=6, width=4, channels=6)])
def test_every_weight_of_the_image_encoder_gets_a_gradient(encoder):
    encoder(torch.randn(4, encoder.blocks[0][0].in_channels, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (3, 32, 32), (2, 8, 3, 32, 32)])
def test_image_encoder_names_the_shape_it_expects(shape):
    with pytest.raises(ValueError, match=r"pictures: expected shape \(B, 3, 32, 32\), found \("):
        ImageEncoder(dim=6, width=4)(torch.zeros(shape))


# Animations


def test_video_encoder_is_the_mean_over_frames_and_blind_to_their_order():
    torch.manual_seed(0)
    frame_encoder = ImageEncoder(dim=10, width=4)
    encoder = VideoEncoder(frame_encoder).eval()
    x = torch.randn(3, 5, 3, 32, 32)
    z = encoder(x)
    for i in range(3):
        frames = [frame_encoder(frame[None])[0] for frame in x[i]]
        torch.testing.assert_close(z[i], sum(frames) / 5)
    torch.testing.assert_close(encoder(x.flip(1)), z)
    torch.testing.assert_close(encoder(x[:, :1]), frame_encoder(x[:, 0]))


def test_video_encoder_shares_its_weights_with_the_image_encoder():
    frame_encoder = ImageEncoder(dim=6, width=4)
    assert set(VideoEncoder(frame_encoder).parameters()) == set(frame_encoder.parameters())


def test_video_encoder_names_the_shape_it_expects():
    with pytest.raises(ValueError, match=r"expected shape \(B, L, 3, 32, 32\), found \(2, 3, 32, 32\)"):
        VideoEncoder(ImageEncoder(dim=6, width=4))(torch.zeros(2, 3, 32, 32))


# Texts


@pytest.mark.parametrize(
    "text, value",
    [("", 0x811C9DC5), ("a", 0xE40C292C), ("b", 0xE70C2DE5), ("foo", 0xA9F37ED7), ("foobar", 0xBF9CF968)],
)
def test_fnv1a_gives_the_published_values(text, value):
    assert fnv1a(text) == value


@given(st.text(max_size=12))
@settings(max_examples=50, deadline=None)
def test_fnv1a_is_the_formula_over_utf8_bytes(text):
    value = 2166136261
    for byte in text.encode("utf-8"):
        value = (value // 256 * 256 + (value % 256 ^ byte)) * 16777619 % 2**32
    assert fnv1a(text) == value


def test_features_are_the_same_in_every_process():
    code = "from mmtutor.encoders import TextEncoder; print(TextEncoder(2, width=2).features('Panda 熊猫'))"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert found == [str(TextEncoder(2, width=2).features("Panda 熊猫"))] * 2


def test_text_features_are_words_with_trigrams_and_chinese_characters_with_pairs():
    assert text_features("I, cats!") == ["i", "<i>", "cats", "<ca", "cat", "ats", "ts>"]
    assert text_features("小熊猫") == ["小", "熊", "猫", "小熊", "熊猫"]
    assert text_features("cat猫 2") == ["cat", "<ca", "cat", "at>", "2", "<2>", "猫"]


@pytest.mark.parametrize("text", ["", " ", "?!", "😀", "—"])
def test_a_text_without_words_has_no_features(text):
    assert text_features(text) == []


def test_case_width_and_signs_do_not_matter():
    assert text_features("ＣＡＴ") == text_features("Cat") == text_features("“cat”…")


def test_an_unseen_word_shares_features_with_its_relatives():
    kitten, kittens = set(text_features("kitten")), set(text_features("kittens"))
    assert len(kitten & kittens) >= 5
    assert not kitten & set(text_features("苹果"))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_folded_layers_equal_the_network_in_evaluation_mode(dropout):
    encoder = trained_text_encoder(dropout=dropout)
    (first, first_bias), (last, last_bias) = encoder.layers()
    for text in TEXTS:
        x = encoder.table[encoder.features(text)].mean(0)
        by_hand = last @ (first @ x + first_bias).relu() + last_bias
        torch.testing.assert_close(encoder([text])[0], by_hand, atol=1e-5, rtol=1e-5)


def test_a_text_is_the_mean_of_its_rows_with_repetition_and_in_any_order():
    encoder = trained_text_encoder()
    torch.testing.assert_close(encoder(["red apple"]), encoder(["apple red"]))
    torch.testing.assert_close(encoder(["red apple"]), encoder(["red apple red apple"]))
    assert not torch.allclose(encoder(["red apple"]), encoder(["red red apple"]))


@pytest.mark.parametrize("training", [True, False])
def test_a_text_without_words_gives_the_zero_vector_and_no_gradient(training):
    encoder = trained_text_encoder().train(training)
    z = encoder(["red apple", "", "猫", "!?"])
    assert torch.equal(z[[1, 3]], torch.zeros(2, 8))
    assert (z[[0, 2]].abs().sum(1) > 0).all() and torch.isfinite(z).all()
    z[[1, 3]].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())


def test_a_batch_of_texts_without_words_gives_zeros():
    assert torch.equal(trained_text_encoder()(["", "?"]), torch.zeros(2, 8))


def test_a_batch_does_not_change_its_texts_in_evaluation_mode_and_one_text_is_enough():
    encoder = trained_text_encoder()
    z = encoder(TEXTS)
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(encoder([text])[0], z[i])


def test_prepared_texts_give_the_same_embeddings():
    encoder = trained_text_encoder()
    rows, lengths = encoder.prepare([*TEXTS, ""])
    assert lengths.tolist() == [len(text_features(text)) for text in TEXTS] + [0]
    assert len(rows) == lengths.sum() and rows.min() >= 0 and rows.max() < 64
    assert torch.equal(encoder((rows, lengths)), encoder([*TEXTS, ""]))


def test_every_weight_of_the_text_encoder_gets_a_gradient():
    encoder = trained_text_encoder().train()
    encoder(TEXTS).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("wrong", ["one string", ["a", 3], [None], [["a", "b"]]])
def test_what_is_no_list_of_strings_is_refused(wrong):
    with pytest.raises(TypeError, match="texts: expected a list of strings, found"):
        TextEncoder(dim=2, width=2)(wrong)
