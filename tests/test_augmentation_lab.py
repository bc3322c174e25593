import io
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mmtutor.data import load_emoji
from mmtutor.experiments.contrastive_baselines import small_centred
from mmtutor.widgets import AugmentationLab
from mmtutor.widgets.augmentation_lab import CHOICES, KNOWN
from mmtutor.widgets.picture_changes import ASPECTS, CHANGES, HIDING_ORDER, centred, look_up, measure

HOSTILE = "</script><img src=x onerror=alert(1)><!-- & \"'"
PICTURES = load_emoji().pictures("fluent")[:12] / 255
STOPS = [(key, s) for key, change in CHANGES.items() for s in change.strengths]


def changed(key, strength, pictures=PICTURES):
    return CHANGES[key].apply(pictures, strength)


@pytest.fixture(scope="module")
def lab():
    return AugmentationLab()


def stored_state(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S).group(1))


def show(lab, thing, change, strength):
    lab.thing, lab.change, lab.strength = lab.names.index(thing), change, strength
    return lab


# --- changes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", CHANGES)
def test_the_first_stop_changes_nothing_and_gives_up_nothing(key):
    change = CHANGES[key]
    assert np.allclose(changed(key, change.strengths[0]), PICTURES, atol=1e-12)
    assert list(change.gives_up(change.strengths[0])) == []
    assert change.opening in change.strengths[1:]


@pytest.mark.parametrize(("key", "strength"), STOPS)
def test_every_stop_keeps_shape_and_range_and_leaves_its_input_alone(key, strength):
    before = PICTURES.copy()
    after = changed(key, strength)
    assert after.shape == PICTURES.shape and (before == PICTURES).all()
    assert after.min() >= -1e-9 and after.max() <= 1 + 1e-9
    assert set(CHANGES[key].gives_up(strength)) <= set(ASPECTS)


def test_mirror_flip_and_quarter_turns_are_those_of_numpy():
    assert np.allclose(changed("mirror", 1), PICTURES[:, :, ::-1])
    assert np.allclose(changed("flip", 1), PICTURES[:, ::-1])
    for quarters in range(5):
        clockwise = np.rot90(PICTURES, -quarters, axes=(1, 2))
        assert np.allclose(changed("turn", 90 * quarters), clockwise, atol=1e-12)


def with_torch(matrix, shift=(0.0, 0.0)):
    """The same look-up by ``grid_sample``, whose coordinates go from -1 to 1 across the picture."""
    theta = torch.tensor([[*matrix[0], shift[0] / 16], [*matrix[1], shift[1] / 16]], dtype=torch.float64)
    images = torch.tensor(PICTURES).permute(0, 3, 1, 2)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return (F.grid_sample(images - 1, grid, align_corners=False) + 1).permute(0, 2, 3, 1).numpy()


def test_look_up_agrees_with_torch():
    matrix, shift = [[0.9, -0.4], [0.2, 1.3]], (2.3, -5.1)
    assert np.allclose(look_up(PICTURES, matrix, shift), with_torch(matrix, shift), atol=1e-9)


def test_turn_move_shrink_and_crop_agree_with_torch():
    cos, sin = np.cos(np.pi / 12), np.sin(np.pi / 12)
    expected = {
        ("turn", 15): with_torch([[cos, sin], [-sin, cos]]),
        ("move", 5): with_torch([[1, 0], [0, 1]], (-5, 0)),
        ("shrink", 0.7): with_torch([[1 / 0.7, 0], [0, 1 / 0.7]]),
        ("crop", 0.7): with_torch([[0.7, 0], [0, 0.7]]),
    }
    for (key, strength), pictures in expected.items():
        assert np.allclose(changed(key, strength), pictures, atol=1e-9), key


def test_moved_pictures_come_from_the_left_and_leave_white():
    after = changed("move", 4)
    assert np.allclose(after[:, :, 4:], PICTURES[:, :, :-4]) and np.allclose(after[:, :, :4], 1)


def test_hue_at_a_third_of_a_turn_passes_the_channels_on_and_keeps_greys():
    assert np.allclose(changed("hue", 120), PICTURES[..., [2, 0, 1]])  # red becomes green
    assert np.allclose(changed("hue", 360), PICTURES)
    grey = PICTURES.mean(-1, keepdims=True).repeat(3, -1)
    assert all(np.allclose(changed("hue", s, grey), grey) for s in CHANGES["hue"].strengths)


def test_grey_keeps_the_brightness_and_ends_without_colour():
    luma = [0.299, 0.587, 0.114]
    for share in CHANGES["grey"].strengths:
        assert np.allclose(changed("grey", share) @ luma, PICTURES @ luma)
    assert np.ptp(changed("grey", 1), axis=-1).max() < 1e-12


@pytest.mark.parametrize("share", CHANGES["mask"].strengths)
def test_mask_hides_the_share_it_says_and_more_hides_what_less_did(share):
    noise = np.random.default_rng(0).random((2, 32, 32, 3))
    hidden = (changed("mask", share, noise) != noise).any(-1)
    assert hidden.mean((1, 2)).tolist() == [share, share]
    assert np.allclose(changed("mask", share, noise)[0][hidden[0]], noise[0].mean((0, 1)))
    more = (changed("mask", 15 / 16, noise) != noise).any(-1)
    assert (more | ~hidden).all() and sorted(HIDING_ORDER) == list(range(64))


@pytest.mark.parametrize(
    ("key", "strength", "given_up"),
    [
        ("mirror", 1, {"left and right"}),
        ("flip", 1, {"up and down"}),
        ("turn", 15, set()),
        ("turn", 30, {"tilt"}),
        ("turn", 90, {"left and right", "up and down", "tilt"}),
        ("turn", 180, {"left and right", "up and down"}),
        ("turn", 360, set()),
        ("move", 2, {"place"}),
        ("move", 8, {"place", "every part"}),
        ("shrink", 0.5, {"size"}),
        ("crop", 0.5, {"size", "every part"}),
        ("mask", 0.5, {"every part"}),
        ("hue", 120, {"colour"}),
        ("hue", 345, set()),
        ("grey", 1, {"colour"}),
    ],
)
def test_a_change_declares_what_it_gives_up(key, strength, given_up):
    assert set(CHANGES[key].gives_up(strength)) == given_up


# --- similarity -----------------------------------------------------------------------------------------


def test_centred_pixels_are_those_of_the_baseline():
    pictures = load_emoji().images[1, :50]
    ours, theirs = centred(pictures / 255), small_centred(pictures).numpy()  # theirs: channels first
    assert np.allclose(ours.reshape(-1, 256, 3), theirs.reshape(-1, 3, 256).transpose(0, 2, 1), atol=1e-5)


def test_an_even_colour_resembles_nothing():
    even = np.broadcast_to([0.3, 0.7, 0.1], (1, 32, 32, 3))
    assert not centred(even).any()
    assert not centred(changed("turn", 0.0, even + 1e-9 * np.random.default_rng(0).random(even.shape))).any()


def test_shares_equal_a_loop_over_the_things():
    pictures = np.rint(255 * PICTURES).astype(np.uint8)
    shares = measure(pictures)
    known = [small_centred_loop(picture) for picture in pictures / 255]
    for key, strength in [("mirror", 1.0), ("turn", 90.0), ("crop", 0.5), ("grey", 1.0)]:
        own = 0
        for i, picture in enumerate(pictures / 255):
            after = small_centred_loop(CHANGES[key].apply(picture[None], strength)[0])
            own += i == np.argmax([x @ after for x in known])
        assert shares[key][CHANGES[key].strengths.index(strength)] == pytest.approx(own / len(pictures))
    assert all(row[0] == 1 for row in shares.values())


def small_centred_loop(picture):
    small = [
        [picture[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((0, 1)) for c in range(16)] for r in range(16)
    ]
    x = (np.array(small) - np.mean(small, (0, 1))).ravel()
    return x / np.linalg.norm(x)


# --- the widget -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thing", "change", "strength", "becomes", "similarity"),
    [
        ("left arrow", "mirror", 1, "right arrow", 0.99),
        ("left arrow", "turn", 90, "up arrow", 0.99),
        ("thumbs up", "turn", 180, "thumbs down", 0.99),
        ("keycap: 6", "turn", 180, "keycap: 9", 0.99),
        ("three o’clock", "mirror", 1, "nine o’clock", 0.99),
        ("twelve o’clock", "turn", 180, "six-thirty", 0.99),
        ("slightly smiling face", "flip", 1, "upside-down face", 0.99),
        ("large orange diamond", "shrink", 0.5, "small orange diamond", 0.99),
        ("red apple", "hue", 75, "green apple", 0.9),
        ("cat", "grey", 1, "black cat", 0.9),
        ("unlocked", "move", 2, "locked", 0.9),
    ],
)
def test_a_changed_thing_becomes_another_known_drawing(lab, thing, change, strength, becomes, similarity):
    (name, found), *_ = show(lab, thing, change, strength).rank()
    assert name == becomes and found >= similarity


def test_a_grey_red_apple_is_no_longer_nearest_to_itself(lab):
    assert show(lab, "red apple", "grey", 0).rank(1) == [("red apple", 1.0)]
    assert show(lab, "red apple", "grey", 1).rank(1)[0][0] != "red apple"
    assert show(lab, "green apple", "grey", 1).rank(1)[0][0] == "green apple"


def test_the_book_s_known_drawings_are_all_different_and_hold_every_choice(lab):
    assert len(set(lab.names)) == len(lab.names) == KNOWN
    assert len(lab.pictures) == KNOWN * 32 * 32 * 3
    chosen = [i for group in lab.groups for i in group["things"]]
    assert 40 <= len(chosen) == len(set(chosen)) <= 60
    assert [lab.names[i] for i in chosen] == [name for row in CHOICES.values() for name in row]
    assert all(change["shares"][0] == 1 for change in lab.changes)


def test_every_need_is_met_before_and_broken_by_some_change(lab):
    given_up = {aspect for change in lab.changes for stop in change["gives_up"] for aspect in stop}
    assert {aspect for needs in lab.needs for aspect in needs} <= given_up == set(range(len(ASPECTS)))
    assert lab.needs[lab.names.index("left arrow")] == [0, 2]


def test_share_is_that_of_the_present_strength_and_the_nearest_stop_counts(lab):
    turn = next(change for change in lab.changes if change["key"] == "turn")
    assert show(lab, "left arrow", "turn", 180).share() == turn["shares"][12]
    assert show(lab, "left arrow", "turn", 93).share() == turn["shares"][6]
    assert lab.rank(1)[0][0] == "up arrow" and "turned by 90°" in lab.summary()
    assert "as it is" in show(lab, "left arrow", "turn", 0).summary()


def test_a_disc_cropped_to_one_even_colour_has_no_nearest(lab):
    assert show(lab, "red circle", "crop", 0.5).rank() == []
    assert "similarity, are none" in lab.summary()


def test_summary_and_picture_say_what_stands_there():
    lab = AugmentationLab()
    assert lab.summary().startswith("left arrow, mirrored: the nearest of 360 known drawings")
    assert "right arrow (1.00)" in lab.summary()
    assert repr(lab) == "AugmentationLab('left arrow', 'mirror', 360 known drawings)"
    assert Image.open(io.BytesIO(lab.picture())).size == (256, 128)


def test_page_is_the_same_every_time_and_under_300_kb():
    html = AugmentationLab().to_html()
    assert html == AugmentationLab().to_html()
    assert len(html.encode()) <= 300 * 1024
    assert set(stored_state(html)["bytes"]) == {"pictures"}
    data, _ = AugmentationLab()._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(data)


def test_hostile_names_cannot_leave_their_script_element():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    names = [HOSTILE, HOSTILE + "2"]
    html = AugmentationLab(pictures=pictures, names=names, choices={HOSTILE: names}).to_html()
    assert html.count("</script>") == 2 and "<img src=x" not in html and "<!--" not in html
    assert stored_state(html)["values"]["names"] == names


def test_lab_names_what_is_wrong():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    own = {"pictures": pictures, "names": ["a", "b"]}
    with pytest.raises(ValueError, match="expected both or neither"):
        AugmentationLab(pictures=pictures)
    with pytest.raises(ValueError, match=r"pictures: expected shape \(N, 32, 32, 3\) uint8, found"):
        AugmentationLab(pictures=pictures / 255, names=["a", "b"])
    with pytest.raises(ValueError, match="names: expected 2 different ones, found 1"):
        AugmentationLab(pictures=pictures, names=["a", "a"])
    with pytest.raises(ValueError, match="expected 'walrus' among the 2 known"):
        AugmentationLab("walrus", **own)
    with pytest.raises(ValueError, match="expected 'c' among the 2 known"):
        AugmentationLab(**own, choices={"things": ["a", "c"]})
    with pytest.raises(ValueError, match="change: expected one of mirror, flip, .*, found 'melt'"):
        AugmentationLab(change="melt", **own)
    with pytest.raises(ValueError, match="strength: expected one of 0.0, 15.0, .*, found 7"):
        AugmentationLab(change="turn", strength=7, **own)
    with pytest.raises(ValueError, match="needs: expected some of left and right, .*, found 'smell'"):
        AugmentationLab(**own, needs={"a": ["smell"]})
