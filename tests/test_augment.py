"""Augmentation: against a lookup written pixel by pixel, and what each change promises to preserve."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch import Tensor

from mmtutor import augment
from mmtutor.augment import AUGMENTATIONS, PROPERTIES, random_affine, random_ink
from mmtutor.data import load_emoji
from mmtutor.encoders import pixels

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


# All that change pictures or clips

PICTURES = {
    "mirror": augment.random_mirror,
    "quarter turn": augment.random_quarter_turn,
    "crop": augment.random_crop,
    "masked patches": augment.mask_patches,
}
CLIPS = {
    **PICTURES,
    "reversed time": augment.reverse_time,
    "sampled frames": lambda x, generator=None: augment.sample_frames(x, 5, generator=generator),
    "affine": lambda x, generator=None: augment.frames_alike(random_affine, x, generator=generator),
    "ink": lambda x, generator=None: augment.frames_alike(random_ink, x, generator=generator),
}


def clips(count: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, 8, 3, 32, 32, generator=generator(seed)) * 2 - 1


def drawings(style: str, *names: str) -> Tensor:
    emoji = load_emoji()
    return pixels(emoji.pictures(style)[[emoji.names.index(name) for name in names]])


@pytest.mark.parametrize("name", CLIPS)
def test_changes_repeat_by_generator_leave_the_global_stream_and_the_argument_and_stay_in_range(name):
    change = CLIPS[name]
    for x in (clips(12), *([pictures(12)] if name in PICTURES else [])):
        before, state = x.clone(), torch.get_rng_state()
        changed = change(x, generator=generator(7))
        assert torch.equal(changed, change(x, generator=generator(7)))
        assert not torch.equal(changed, change(x, generator=generator(8)))
        assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, before)
        assert changed.dtype == x.dtype and len(changed) == 12 and changed.shape[-3:] == x.shape[-3:]
        assert changed.isfinite().all()
        if name != "ink":  # more ink may be blacker than black
            assert changed.min() >= -1 - 1e-5 and changed.max() <= 1 + 1e-5


@pytest.mark.parametrize("name", CLIPS)
def test_without_a_generator_each_call_draws_anew_from_the_global_stream(name):
    torch.manual_seed(0)
    x = clips(12)
    first, second = CLIPS[name](x), CLIPS[name](x)
    torch.manual_seed(0)
    assert not torch.equal(first, second) and torch.equal(CLIPS[name](x), first)


@pytest.mark.parametrize("name", [*PICTURES, "affine", "ink"])
def test_all_frames_of_a_clip_are_changed_alike_and_each_clip_by_its_own_draw(name):
    still = pictures(1)[:, None].expand(12, 8, -1, -1, -1)
    changed = CLIPS[name](still, generator=generator())
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    assert len(changed[:, 0].flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("name", CLIPS)
def test_wrong_clips_and_pictures_are_named_with_what_was_expected(name):
    expected = r"\(B, C, H, W\) or \(B, L, C, H, W\)" if name in PICTURES else r"\(B, L, C, H, W\)"
    with pytest.raises(ValueError, match=rf"images: expected shape {expected}, found \(3, 32, 32\)"):
        CLIPS[name](torch.ones(3, 32, 32))
    with pytest.raises(TypeError, match="images: expected floats, found torch.uint8; see encoders.pixels"):
        CLIPS[name](clips().byte())


def test_one_by_one_gives_each_picture_its_own_draw_of_a_torchvision_transform():
    from torchvision.transforms import v2

    x = pictures(1).expand(6, -1, -1, -1)
    jitter = v2.RandomErasing(p=1.0)
    assert len(jitter(x).flatten(1).unique(dim=0)) == 1  # torchvision: one draw for the batch
    assert len(augment.one_by_one(jitter, x).flatten(1).unique(dim=0)) == 6


# Replacement


def test_a_mirror_twice_is_the_picture_and_about_as_many_as_asked_are_mirrored():
    x = pictures(400)
    always = augment.random_mirror(x, probability=1.0)
    assert torch.equal(augment.random_mirror(always, probability=1.0), x)
    assert torch.equal(augment.random_mirror(x, probability=0.0), x)
    some = augment.random_mirror(x, probability=0.25, generator=generator())
    flipped = (some != x).flatten(1).any(1)
    assert torch.equal(some, torch.where(flipped[:, None, None, None], always, x))
    assert flipped.double().mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 400) ** 0.5)


@pytest.mark.parametrize("style", ["noto", "twemoji", "fluent"])
@pytest.mark.parametrize("name, becomes", [("left arrow", "right arrow"), ("three o’clock", "nine o’clock")])
def test_a_mirrored_left_is_a_right_so_neither_name_nor_direction_is_preserved(style, name, becomes):
    mirrored = augment.random_mirror(drawings(style, name), probability=1.0)
    everything = pixels(load_emoji().pictures(style))
    nearest = (everything - mirrored).abs().mean((1, 2, 3)).argmin()
    assert load_emoji().names[nearest] == becomes
    assert not AUGMENTATIONS["mirror"].preserves & {"name", "pair", "direction"}


def test_a_quarter_turn_is_each_of_four_turns_equally_often():
    x = pictures(800)
    turned = augment.random_quarter_turn(x, generator=generator())
    is_turn = torch.stack([(turned == x.rot90(k, (2, 3))).flatten(1).all(1) for k in range(4)])
    assert (is_turn.sum(0) == 1).all()
    assert ((is_turn.sum(1) - 200).abs() < 4 * (800 * 3 / 16) ** 0.5).all()
    with pytest.raises(ValueError, match=r"images: expected as high as wide, found \(1, 3, 32, 16\)"):
        augment.random_quarter_turn(torch.ones(1, 3, 32, 16))


def test_another_hand_is_drawn_evenly_among_those_that_drew_the_thing():
    present = torch.tensor(load_emoji().present)
    item = torch.arange(present.shape[1])
    style = torch.zeros_like(item)
    drawn = torch.stack(
        [augment.another_hand(present, style, item, generator=generator(seed)) for seed in range(3)]
    )
    assert (drawn != 0).all() and present[drawn, item].all()
    four = ~present[4]  # things with three other hands
    share = F.one_hot(drawn[:, four].flatten(), 5).double().mean(0)
    torch.testing.assert_close(share[1:4], torch.full((3,), 1 / 3, dtype=torch.double), atol=0.06, rtol=0)
    alone = torch.tensor([[True], [False]])
    assert augment.another_hand(alone, torch.tensor([0]), torch.tensor([0])).tolist() == [0]


def test_another_hand_names_what_was_wrong():
    with pytest.raises(TypeError, match="present: expected bool, found torch.float32"):
        augment.another_hand(torch.ones(2, 3), torch.tensor([0]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"item: expected shape \(B,\) as style, found \(1,\), \(2,\)"):
        augment.another_hand(torch.ones(2, 3) > 0, torch.tensor([0]), torch.tensor([0, 1]))


def test_another_text_is_one_of_the_thing_s_own_and_each_is_drawn():
    texts = [["red apple", "红苹果", "fruit"], ["cat"]]
    drawn = [augment.another_text(texts, generator=generator(seed)) for seed in range(40)]
    assert {first for first, _ in drawn} == set(texts[0]) and {second for _, second in drawn} == {"cat"}
    with pytest.raises(ValueError, match="expected at least one text for each thing, found none for thing 1"):
        augment.another_text([["cat"], []])
    with pytest.raises(TypeError, match="expected a list of texts for each thing, found 'cat' for thing 0"):
        augment.another_text(["cat"])


# Sampling


def test_a_crop_shows_a_part_of_the_picture_as_large_as_asked():
    """On a picture whose values are the coordinates, the corners of a crop say which part it is."""
    line = torch.linspace(-1, 1, 32)
    x = torch.stack([line.expand(32, 32), line[:, None].expand(32, 32)])[None].expand(100, -1, -1, -1)
    changed = augment.random_crop(x, area=(0.5, 0.8), generator=generator())
    across = (changed[:, 0, :, -1] - changed[:, 0, :, 0]).mean(1) / 2
    down = (changed[:, 1, -1] - changed[:, 1, 0]).mean(1) / 2
    share = across * down
    assert share.min() > 0.4 and share.max() < 0.85 and share.max() - share.min() > 0.2
    assert (across > 0).all() and (down > 0).all()  # nothing is mirrored
    torch.testing.assert_close(
        augment.random_crop(x, area=(1.0, 1.0))[:, 0].std(), x[:, 0].std(), rtol=0.1, atol=0
    )


def test_sampled_frames_are_different_ones_in_their_order_and_equally_often_each():
    x = torch.arange(8.0).reshape(1, 8, 1, 1, 1).expand(2000, -1, -1, -1, -1)
    times = augment.sample_frames(x, 3, generator=generator()).flatten(1)
    assert (times.diff() > 0).all()
    counts = torch.bincount(times.long().flatten(), minlength=8)
    assert ((counts - 750).abs() < 4 * (2000 * 3 / 8 * 5 / 8) ** 0.5).all()
    assert torch.equal(augment.sample_frames(x, 8), x)
    for count in (0, 9):
        with pytest.raises(ValueError, match=f"count: expected 1 to 8 frames, found {count}"):
            augment.sample_frames(x, count)


def test_time_reversed_twice_is_the_clip():
    x = clips()
    back = augment.reverse_time(x, probability=1.0)
    assert torch.equal(back[:, 0], x[:, 7]) and torch.equal(augment.reverse_time(back, probability=1.0), x)


# Masking


@pytest.mark.parametrize("at_least", [1, 2])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_a_mask_hides_only_what_was_there_and_leaves_as_many_as_asked(rate, at_least):
    valid = torch.rand(500, 4, generator=generator(1)) < 0.6
    kept = augment.mask_present(valid, rate=rate, at_least=at_least, generator=generator())
    assert not (kept & ~valid).any()
    assert (kept.sum(1) >= valid.sum(1).clamp(max=at_least)).all()
    if rate == 0:
        assert torch.equal(kept, valid)
    if rate == 1:
        assert torch.equal(kept.sum(1), valid.sum(1).clamp(max=at_least))


def test_a_mask_hides_each_part_equally_often_at_the_rate():
    valid = torch.ones(4000, 6, dtype=torch.bool)
    hidden = (~augment.mask_present(valid, rate=0.3, generator=generator())).double().mean(0)
    torch.testing.assert_close(hidden, torch.full((6,), 0.3, dtype=torch.double), atol=0.03, rtol=0)
    alone = augment.mask_present(valid, rate=1.0, generator=generator()).double().mean(0)
    torch.testing.assert_close(alone, torch.full((6,), 1 / 6, dtype=torch.double), atol=0.025, rtol=0)


def test_a_mask_names_what_was_wrong_and_takes_an_empty_batch():
    assert augment.mask_present(torch.ones(0, 3, dtype=torch.bool)).shape == (0, 3)
    assert not augment.mask_present(torch.zeros(2, 3, dtype=torch.bool)).any()
    with pytest.raises(TypeError, match="valid: expected bool, found torch.float32"):
        augment.mask_present(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"valid: expected shape \(B, K\), found \(3,\)"):
        augment.mask_present(torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="rate: expected 0 to 1, found 1.5"):
        augment.mask_present(torch.ones(2, 3, dtype=torch.bool), rate=1.5)


def test_masked_patches_are_whole_squares_and_what_is_left_is_untouched_even_beside_a_nan():
    x = pictures(50)
    changed = augment.mask_patches(x, rate=0.5, fill=9.0, generator=generator())
    covered = (changed == 9).all(1)
    assert torch.equal(changed, torch.where(covered[:, None], 9.0, x))
    share = covered.unflatten(1, (4, 8)).unflatten(3, (4, 8)).double().mean((2, 4))
    assert set(share.unique().tolist()) == {0.0, 1.0} and share.mean() == pytest.approx(0.5, abs=0.08)
    broken = torch.full((50, 3, 32, 32), torch.nan)
    assert (
        augment.mask_patches(broken, rate=1.0, generator=generator()).isnan().sum((1, 2, 3)) == 3 * 64
    ).all()
    with pytest.raises(ValueError, match=r"expected sides divisible by 5, found \(50, 3, 32, 32\)"):
        augment.mask_patches(x, patch=5)


def test_masked_words_keep_their_places_and_one_word_is_always_left():
    texts = ["face with tears of joy", "cat", "", "红苹果"]
    masked = augment.mask_words(texts, rate=1.0, generator=generator())
    assert masked[1:] == ["cat", "", "红苹果"]
    words = masked[0].split()
    assert len(words) == 5 and words.count("[masked]") == 4
    assert all(a in (b, "[masked]") for a, b in zip(words, texts[0].split(), strict=True))
    assert augment.mask_words(texts, rate=0.0) == texts and augment.mask_words([]) == []
    assert augment.mask_words(texts, generator=generator(3)) == augment.mask_words(
        texts, generator=generator(3)
    )
    with pytest.raises(TypeError, match="texts: expected a list of texts, found 'red apple'"):
        augment.mask_words("red apple")


# Balancing


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_balanced_sample_has_the_shares_of_the_formula(strength):
    labels = torch.tensor(load_emoji().group)
    sizes = torch.bincount(labels).double()
    share = sizes ** (1 - strength) / (sizes ** (1 - strength)).sum()
    count = 20_000
    drawn = augment.balanced_sample(labels, count, strength=strength, generator=generator())
    found = torch.bincount(labels[drawn], minlength=len(sizes)).double()
    chi_square = ((found - count * share) ** 2 / (count * share)).sum()
    assert chi_square < 24.3  # 7 degrees of freedom, one time in a thousand
    assert len(drawn.unique()) > 0.9 * len(labels)  # and within a class all come


def test_a_balanced_sample_takes_labels_with_gaps_and_names_what_was_wrong():
    drawn = augment.balanced_sample(torch.tensor([7, 7, 7, -1]), 1000, generator=generator())
    assert (drawn == 3).double().mean() == pytest.approx(0.5, abs=0.07)
    assert torch.equal(
        drawn, augment.balanced_sample(torch.tensor([7, 7, 7, -1]), 1000, generator=generator())
    )
    with pytest.raises(TypeError, match="labels: expected whole numbers, found torch.float32"):
        augment.balanced_sample(torch.ones(3), 4)
    with pytest.raises(ValueError, match=r"labels: expected shape \(N,\) with N > 0, found \(0,\)"):
        augment.balanced_sample(torch.zeros(0, dtype=torch.long), 4)


# What each declares, on the real data


def axis_of_motion() -> tuple[Tensor, Tensor]:
    """Return the clips that move across or up and down, and whether they move across."""
    emoji = load_emoji()
    chosen = np.isin(emoji.motion, [0, 1])
    return pixels(emoji.videos[chosen]), torch.tensor(emoji.motion[chosen] == 0)


def moves_across(x: Tensor) -> Tensor:
    """Say of each clip whether the centre of its ink moves more across than up and down."""
    ink, place = (1 - x).mean(2).clamp(min=0), torch.arange(32) - 15.5
    across = (ink.sum(2) * place).sum(2) / ink.sum((2, 3))
    down = (ink.sum(3) * place).sum(2) / ink.sum((2, 3))
    return across.std(1) > down.std(1)


@pytest.mark.parametrize("name", [name for name in CLIPS if "motion" in AUGMENTATIONS[name].preserves])
def test_what_declares_to_preserve_motion_keeps_its_axis(name):
    x, across = axis_of_motion()
    assert (moves_across(x) == across).double().mean() > 0.95  # so the centre of ink is a fair judge
    change = (
        (lambda x, **_: augment.mask_patches(x, fill=1.0, **_)) if name == "masked patches" else CLIPS[name]
    )
    kept = (moves_across(change(x, generator=generator())) == moves_across(x)).double().mean()
    assert kept == 1 if name in ("mirror", "reversed time") else kept > 0.9


def test_a_quarter_turn_exchanges_across_with_up_and_down_and_does_not_declare_motion():
    x, _ = axis_of_motion()
    assert torch.equal(moves_across(x.rot90(1, (3, 4))), ~moves_across(x))
    assert "motion" not in AUGMENTATIONS["quarter turn"].preserves


def test_an_affine_change_of_each_frame_by_itself_moves_what_stood_still():
    emoji = load_emoji()
    still = pixels(emoji.videos[emoji.motion == emoji.motion_names.index("in place")][:40])
    moved = random_affine(still.flatten(0, 1), generator=generator()).unflatten(0, still.shape[:2])
    alike = augment.frames_alike(random_affine, still, generator=generator())
    change = [x.diff(dim=1).abs().mean().item() for x in (still, alike, moved)]
    assert change[1] < 1.1 * change[0] and change[2] > 2 * change[0]


def edges(x: Tensor) -> Tensor:
    return (4 * x - sum(x.roll(step, axis) for step in (-1, 1) for axis in (2, 3))).abs().mean()


@pytest.mark.parametrize("name", ["affine", "crop"])
def test_resampling_softens_edges_by_more_than_hands_differ_so_it_does_not_declare_style(name):
    change = AUGMENTATIONS[name].function
    hands = [pixels(load_emoji().pictures(style)) for style in ("noto", "twemoji", "fluent", "fluent3d")]
    sharp = [edges(x) for x in hands]
    soft = [edges(change(x, generator=generator())) for x in hands]
    assert max(soft) < min(sharp)
    assert "style" not in AUGMENTATIONS[name].preserves


@pytest.mark.parametrize("name", ["mirror", "quarter turn"])
def test_what_moves_whole_pixels_keeps_every_edge(name):
    x = pixels(load_emoji().pictures("noto"))
    torch.testing.assert_close(edges(AUGMENTATIONS[name].function(x)), edges(x))
    assert "style" in AUGMENTATIONS[name].preserves


def test_ink_makes_some_orange_circles_red_so_it_does_not_declare_name_or_colour():
    names = [f"{colour} circle" for colour in ("red", "orange", "yellow", "green", "blue", "purple", "brown")]
    x = drawings("twemoji", *names)
    kept = []
    for seed in range(60):
        changed = random_ink(x, generator=generator(seed))
        kept.append(torch.cdist(changed.flatten(1), x.flatten(1)).argmin(1) == torch.arange(7))
    assert 0.85 < torch.stack(kept).double().mean() < 0.99
    assert not AUGMENTATIONS["ink"].preserves & {"name", "pair", "colour"}


def test_a_keyword_is_true_but_not_a_name_and_a_chinese_name_is_one():
    emoji = load_emoji()
    assert len(set(emoji.names_zh)) == len(emoji.names)  # each tells its thing from all others
    things = {}
    for i, words in enumerate(emoji.keywords):
        for word in words:
            things.setdefault(word, set()).add(i)
    groups = [len(set(emoji.group[list(of_word)])) for of_word in things.values()]
    assert (
        np.mean([len(of_word) > 1 for of_word in things.values()]) > 0.2
        and np.mean(np.array(groups) > 1) > 0.1
    )
    assert "name" in AUGMENTATIONS["another name"].preserves
    assert not {"name", "group"} & AUGMENTATIONS["keyword"].preserves


def test_every_family_and_every_modality_has_an_augmentation_and_every_name_is_its_own():
    assert {each.family for each in AUGMENTATIONS.values()} == set(augment.FAMILIES)
    assert {each.modality for each in AUGMENTATIONS.values()} == {"picture", "frames", "text", "any"}
    assert all(name == each.name for name, each in AUGMENTATIONS.items())
    for each in AUGMENTATIONS.values():
        assert isinstance(each.preserves, frozenset) and each.preserves <= set(PROPERTIES)


def test_check_refuses_what_a_task_cannot_bear_and_says_why():
    assert augment.check("mirror", "motion").name == "mirror"
    with pytest.raises(
        ValueError, match="mirror: does not preserve direction .what is left and what is right."
    ):
        augment.check("mirror", ["group", "direction"])
    with pytest.raises(ValueError, match="quarter turn: does not preserve motion"):
        augment.check("quarter turn", "motion")
    with pytest.raises(ValueError, match="another hand: does not preserve style"):
        augment.check("another hand", "style")
    with pytest.raises(ValueError, match="augmentation: expected one of another hand, .*; found 'flip'"):
        augment.check("flip", "group")
    with pytest.raises(ValueError, match="property: expected one of group, .*; found 'mood'"):
        augment.check("mirror", "mood")
    with pytest.raises(ValueError, match="family: expected one of replacement, .*; found 'magic'"):
        augment.Augmentation("spell", "magic", "text", frozenset({"name"}), augment.another_text)
    with pytest.raises(ValueError, match="property: expected one of .*; found 'mood'"):
        augment.Augmentation("spell", "masking", "text", frozenset({"mood"}), augment.another_text)


def test_allowed_are_those_that_check_lets_pass():
    for needs in ("group", "motion", "style", ("pair", "direction"), ()):
        let_pass = []
        for name in AUGMENTATIONS:
            try:
                let_pass.append(augment.check(name, needs).name)
            except ValueError:
                continue
        assert augment.allowed(needs) == let_pass
    assert augment.allowed(()) == list(AUGMENTATIONS)
