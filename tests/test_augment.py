"""Augmentation: against a lookup written pixel by pixel, and what each change promises to preserve."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from mmtutor.augment import random_affine, random_ink

STILL = dict(degrees=0.0, shift=0.0, scale=0.0, shear=0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=generator(seed)) * 2 - 1


def test_limits_of_zero_change_nothing():
    x = pictures()
    torch.testing.assert_close(random_affine(x, **STILL), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(random_ink(x, strength=0.0), x)


def test_affine_looks_up_each_pixel_where_the_formula_says():
    """One move and one stretch without a turn: the lookup is written out, the interpolation is SciPy's."""
    x, shift, scale = pictures(3, 1)[:, :1], 0.1, 0.2
    found = random_affine(x, degrees=0.0, shear=0.0, shift=shift, scale=scale, generator=generator())
    draws = generator()
    angle, size, aspect, _, right, down = (torch.rand(3, generator=draws).numpy() * 2 - 1 for _ in range(6))
    centre = (np.arange(32) + 0.5) / 16 - 1  # pixel centres, from -1 to 1
    for i in range(3):
        wide = (1 + scale * size[i]) * (1 + 0.75 * scale * aspect[i])
        high = (1 + scale * size[i]) / (1 + 0.75 * scale * aspect[i])
        columns = (wide * centre + 2 * shift * right[i] + 1) * 16 - 0.5
        rows = (high * centre + 2 * shift * down[i] + 1) * 16 - 0.5
        where = np.meshgrid(rows, columns, indexing="ij")
        expected = map_coordinates(x[i, 0].numpy() - 1, where, order=1, mode="grid-constant", cval=0) + 1
        np.testing.assert_allclose(found[i, 0].numpy(), expected, atol=1e-4)


def test_a_turn_carries_a_dot_around_the_centre_by_at_most_the_limit():
    x = torch.ones(200, 3, 32, 32)
    x[:, :, 15:17, 27:29] = -1  # a black dot to the right, 12 pixels from the centre
    ink = (1 - random_affine(x, **{**STILL, "degrees": 30.0}, generator=generator()))[:, 0]
    place = torch.arange(32) - 15.5
    mass = ink.sum((1, 2))
    across, down = (ink.sum(1) * place).sum(1) / mass, (ink.sum(2) * place).sum(1) / mass
    angle = torch.atan2(down, across).rad2deg()
    torch.testing.assert_close(across.hypot(down), torch.full((200,), 12.0), atol=0.3, rtol=0)
    assert angle.abs().max() <= 30.5 and angle.min() < -25 and angle.max() > 25
    assert angle.std() == pytest.approx(30 / 3**0.5, rel=0.15)  # drawn evenly


@pytest.mark.parametrize("change", [random_affine, random_ink])
def test_every_picture_is_changed_by_its_own_amount(change):
    same = pictures(1).expand(5, -1, -1, -1)
    changed = change(same, generator=generator())
    for i in range(5):
        for j in range(i):
            assert (changed[i] - changed[j]).abs().mean() > 0.01


@pytest.mark.parametrize("change", [random_affine, random_ink])
def test_a_generator_repeats_the_change_and_leaves_the_global_stream_alone(change):
    x, before = pictures(), torch.get_rng_state()
    assert torch.equal(change(x, generator=generator(7)), change(x, generator=generator(7)))
    assert not torch.equal(change(x, generator=generator(7)), change(x, generator=generator(8)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("change", [random_affine, random_ink])
def test_white_paper_stays_white_and_the_argument_unchanged(change):
    white = torch.ones(50, 3, 32, 32)
    torch.testing.assert_close(change(white), white, atol=1e-6, rtol=0)
    x = pictures()
    change(x)
    assert torch.equal(x, pictures())


def test_affine_keeps_shape_and_type_for_any_size_and_a_batch_of_one():
    x = torch.rand(1, 2, 7, 11)
    changed = random_affine(x)
    assert changed.shape == x.shape and changed.dtype == x.dtype


def test_affine_never_swaps_left_and_right():
    x = torch.ones(500, 3, 32, 32)
    x[..., :16] = -1  # ink on the left
    changed = random_affine(x, generator=generator())
    assert (changed[..., :16].mean((1, 2, 3)) < changed[..., 16:].mean((1, 2, 3))).all()


def test_fill_is_what_lies_outside_of_the_picture():
    x = torch.zeros(100, 1, 32, 32)
    moved = random_affine(x, **{**STILL, "shift": 0.3}, fill=5.0, generator=generator())
    assert moved.min() >= -1e-5 and moved.max() == pytest.approx(5, abs=1e-5)
    torch.testing.assert_close(moved[:, 0, 16, 16], torch.zeros(100), atol=1e-5, rtol=0)


def test_ink_scales_the_distance_from_paper_by_one_gain_per_picture_and_channel():
    x = pictures(200)
    gain = (1 - random_ink(x, strength=0.3, generator=generator())) / (1 - x)
    torch.testing.assert_close(gain, gain[..., :1, :1].expand_as(gain), atol=1e-2, rtol=0)
    gain = gain[..., 0, 0]
    assert gain.min() >= 0.69 and gain.max() <= 1.31
    assert gain.mean() == pytest.approx(1, abs=0.03) and gain.std() == pytest.approx(0.3 / 3**0.5, rel=0.1)
    assert not torch.allclose(gain[:, 0], gain[:, 1], atol=0.1)


def test_wrong_pictures_are_named_with_what_was_expected():
    with pytest.raises(ValueError, match=r"images: expected shape \(B, C, H, W\), found \(3, 32, 32\)"):
        random_affine(torch.ones(3, 32, 32))
    with pytest.raises(TypeError, match="images: expected floats, found torch.uint8; see encoders.pixels"):
        random_affine(torch.ones(2, 3, 32, 32, dtype=torch.uint8))
    for shape, found in (((2, 1, 32, 32), r"\(2, 1, 32, 32\)"), ((3, 32, 32), r"\(3, 32, 32\)")):
        with pytest.raises(ValueError, match=rf"images: expected shape \(B, 3, H, W\), found {found}"):
            random_ink(torch.ones(shape))
