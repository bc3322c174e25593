"""The shipped data: what its loaders promise, and that no split leaks."""

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmtutor.data as data
from mmtutor.data import emoji, splits


def sides(name: str) -> list[np.ndarray]:
    part = data.split(name)
    return [part.train, part.validation, part.test]


def side_of_each(name: str, count: int) -> np.ndarray:
    side = np.full(count, -1)
    for number, indices in enumerate(sides(name)):
        side[indices] = number
    return side


# What the loaders promise


def test_emoji_has_the_documented_shapes_and_types():
    e = data.load_emoji()
    things, styles, animations = 1562, 5, 692
    assert e.images.shape == (styles, things, 32, 32, 3) and e.images.dtype == np.uint8
    assert e.present.shape == (styles, things) and e.present.dtype == bool
    assert e.styles == ("noto", "twemoji", "fluent", "fluent3d", "blob")
    for texts in (e.hex, e.emoji, e.names, e.names_zh, e.keywords, e.keywords_zh):
        assert isinstance(texts, tuple) and len(texts) == things and all(texts)
    assert len(set(e.hex)) == len(set(e.names)) == len(set(e.names_zh)) == things
    assert e.videos.shape == (animations, 8, 32, 32, 3) and e.videos.dtype == np.uint8
    assert e.motion_px.shape == (animations, 4) and e.motion_px.dtype == np.float32
    for number, names in ((e.group, e.group_names), (e.subgroup, e.subgroup_names)):
        assert number.shape == (things,) and set(number.tolist()) == set(range(len(names)))
    assert (len(e.group_names), len(e.subgroup_names)) == (8, 94)


def test_every_picture_that_is_present_shows_something_and_no_other_does():
    e = data.load_emoji()
    drawn = (e.images != 255).any(axis=(2, 3, 4))
    np.testing.assert_array_equal(drawn, e.present)
    assert e.present[:4].all() and not e.present[4].all()


def test_pictures_gives_one_style():
    e = data.load_emoji()
    np.testing.assert_array_equal(e.pictures("fluent3d"), e.images[3])


def test_each_animation_moves_and_belongs_to_one_thing():
    e = data.load_emoji()
    assert (e.videos != e.videos[:, :1]).any(axis=(1, 2, 3, 4)).all()
    assert (np.diff(e.video_item) > 0).all() and e.video_item[0] >= 0 and e.video_item[-1] < len(e.hex)


def test_animations_look_like_the_things_they_are_joined_to():
    e = data.load_emoji()
    first = e.videos[:, 0].reshape(len(e.videos), -1).astype(np.float32)
    drawn = e.pictures("fluent3d")[e.video_item].reshape(len(e.videos), -1).astype(np.float32)
    distance = (first**2).sum(1)[:, None] + (drawn**2).sum(1)[None] - 2 * first @ drawn.T
    assert (distance.argmin(axis=1) == np.arange(len(first))).mean() > 0.8  # chance: 0.0014


def test_motion_is_named_by_its_largest_component():
    e = data.load_emoji()
    assert e.motion_names == ("horizontal", "vertical", "rotate", "in place")
    px = np.array([[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 3], [0.4, 0.4, 0.4, 0.4], [0, 0, 3, 1]])
    assert emoji.motion_label(px).tolist() == [0, 1, 2, 3, -1]
    np.testing.assert_array_equal(e.motion, emoji.motion_label(e.motion_px))
    assert np.bincount(e.motion + 1).tolist() == [17, 117, 171, 89, 298]


def test_sentiment_is_that_of_the_things_it_points_to():
    s, e = data.load_sentiment(), data.load_emoji()
    assert s.item.shape == (726,) and s.counts.shape == (726, 3) and (s.counts.sum(1) > 0).all()
    row = s.item.tolist().index(e.names.index("face with tears of joy"))
    assert s.counts[row].tolist() == [3614, 4163, 6845]
    assert s.score[row] == pytest.approx((6845 - 3614) / (3614 + 4163 + 6845))
    assert s.score.min() >= -1 and s.score.max() <= 1


def test_digits_have_six_views_of_the_same_2000_digits():
    d = data.load_digits()
    widths = {"fourier": 76, "profile": 216, "karhunen": 64, "pixels": 240, "zernike": 47, "morphological": 6}
    assert {view: x.shape for view, x in d.views.items()} == {view: (2000, w) for view, w in widths.items()}
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in d.views.values())
    assert d.labels.dtype == np.int64 and np.bincount(d.labels).tolist() == [200] * 10


def test_tweets_are_rated_between_minus_four_and_four():
    t = data.load_tweets()
    assert len(t.texts) == len(t.mean) == len(t.sd) == len(set(t.texts)) == 4200
    assert np.abs(t.mean).max() <= 4 and t.sd.min() >= 0 and t.mean.dtype == t.sd.dtype == np.float32


@pytest.mark.parametrize("loaded", [data.load_emoji, data.load_sentiment, data.load_digits, data.load_tweets])
def test_what_is_loaded_cannot_be_changed_by_accident(loaded):
    value = loaded()
    assert loaded() is value
    with pytest.raises(AttributeError):
        setattr(value, next(iter(vars(value))), None)
    arrays = [
        x for x in [*vars(value).values(), *getattr(value, "views", {}).values()] if isinstance(x, np.ndarray)
    ]
    assert arrays
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


# Families


def test_variants_of_one_thing_are_one_family():
    e = data.load_emoji()
    assert e.family.max() + 1 == 1398

    def family(name):
        return e.family[e.names.index(name)]

    assert family("person running") == family("man running") == family("woman running")
    assert family("child") == family("boy") == family("girl")
    assert family("man: red hair") == family("woman: red hair") != family("man: curly hair")
    assert family("female sign") != family("male sign")
    assert family("cat") != family("cat face")


@given(st.lists(st.lists(st.integers(0, 12), max_size=3), max_size=12))
def test_joined_items_are_the_connected_components(marks):
    reach = np.array(
        [[bool(set(a) & set(b)) or i == j for j, b in enumerate(marks)] for i, a in enumerate(marks)]
    )
    for _ in marks:
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    assert splits.joined(marks) == [int(row.argmax()) for row in reach]


# Splits


@pytest.mark.parametrize(
    ("name", "count"), [("emoji-things", 1562), ("emoji-videos", 692), ("digits", 2000), ("tweets", 4200)]
)
def test_a_split_holds_every_item_once_in_the_stated_shares(name, count):
    parts = sides(name)
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    shares = [len(part) / count for part in parts]
    assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.01)


def test_no_family_of_emoji_is_on_two_sides():
    e = data.load_emoji()
    families = [set(e.family[part].tolist()) for part in sides("emoji-things")]
    assert not (families[0] & families[1] or families[0] & families[2] or families[1] & families[2])


def test_no_picture_is_on_two_sides():
    e, side = data.load_emoji(), side_of_each("emoji-things", 1562)
    shared = 0
    for style in range(len(e.styles)):
        first_with = {}
        for item in np.flatnonzero(e.present[style]):
            other = first_with.setdefault(e.images[style, item].tobytes(), item)
            assert side[item] == side[other], (e.styles[style], e.names[item], e.names[other])
            shared += e.family[item] != e.family[other]
    assert shared == 3  # two pairs drawn alike in Fluent, one of them in Fluent 3D too


def test_an_animation_is_on_the_side_of_its_thing_and_on_no_other():
    e = data.load_emoji()
    things, videos = side_of_each("emoji-things", 1562), side_of_each("emoji-videos", 692)
    np.testing.assert_array_equal(videos, things[e.video_item])
    first_with = {}
    for video, frames in enumerate(e.videos):
        assert videos[video] == videos[first_with.setdefault(frames.tobytes(), video)]


def test_digits_are_split_alike_in_every_class_and_repeated_digits_stay_together():
    d, side = data.load_digits(), side_of_each("digits", 2000)
    for number, share in enumerate([140, 30, 30]):
        assert np.abs(np.bincount(d.labels[side == number]) - share).max() <= 2
    repeated, first_with = 0, {}
    for item, pixels in enumerate(d.views["pixels"]):
        other = first_with.setdefault(pixels.tobytes(), item)
        repeated += other != item
        assert side[item] == side[other]
    assert repeated == 6


def test_a_six_and_the_nine_that_is_the_same_scan_turned_are_on_one_side():
    """Zernike moments do not change when a scan is turned, so they find the twins without the pixels."""
    d, side = data.load_digits(), side_of_each("digits", 2000)
    moments = d.views["zernike"].astype(float)
    moments /= moments.std(0)
    sixes, nines = np.flatnonzero(d.labels == 6), np.flatnonzero(d.labels == 9)
    apart = np.linalg.norm(moments[sixes][:, None] - moments[nines], axis=-1)
    six, nine = np.nonzero(apart < 1e-3)
    assert len(set(six)) == 107
    np.testing.assert_array_equal(side[sixes[six]], side[nines[nine]])


def test_texts_made_from_one_another_are_on_one_side():
    t, side = data.load_tweets(), side_of_each("tweets", 4200)
    for words, count in (("treadmill hell", 7), ("amazing time out tonight", 6), ("uber awesome", 1)):
        found = [i for i, text in enumerate(t.texts) if words in text.lower()]
        assert len(found) == count and len(set(side[found])) == 1


def test_texts_that_differ_only_in_capitals_and_spaces_stay_together():
    t, side = data.load_tweets(), side_of_each("tweets", 4200)
    first_with = {}
    for item, text in enumerate(t.texts):
        assert side[item] == side[first_with.setdefault(re.sub(r"\s+", " ", text.lower()).strip(), item)]
    assert len(first_with) == 4140


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("emoji-things", "fe145cb5ab689f32"),
        ("emoji-videos", "9a124659e9860dfa"),
        ("digits", "2e0f3a00e25acf26"),
        ("tweets", "c149141746518325"),
    ],
)
def test_a_split_never_changes(name, expected):
    indices = b"|".join(part.astype("<i8").tobytes() for part in sides(name))
    assert hashlib.sha256(indices).hexdigest()[:16] == expected


@given(st.lists(st.tuples(st.text("abc", max_size=3), st.integers(0, 2)), min_size=1, max_size=60))
def test_partition_keeps_keys_together_and_loses_nothing(items):
    keys, strata = [key for key, _ in items], [stratum for _, stratum in items]
    part = data.partition(keys, strata)
    parts = [part.train.tolist(), part.validation.tolist(), part.test.tolist()]
    assert sorted(sum(parts, [])) == list(range(len(items)))
    held = [{keys[i] for i in indices} for indices in parts]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])


def test_partition_does_not_depend_on_the_order_of_the_items():
    keys = [str(i) for i in range(200)]
    here, there = data.partition(keys, [0] * 200), data.partition(keys[::-1], [0] * 200)
    assert {keys[i] for i in here.test} == {keys[::-1][i] for i in there.test}


def test_a_held_out_style_is_never_learnt_from_in_either_rendering():
    assert data.held_out_style("noto") == (("twemoji", "fluent", "fluent3d", "blob"), "noto")
    assert data.held_out_style("noto", relatives=False) == (("twemoji", "fluent", "fluent3d"), "noto")
    assert data.held_out_style("blob", relatives=False) == (("twemoji", "fluent", "fluent3d"), "blob")
    for style in ("fluent", "fluent3d"):
        assert data.held_out_style(style) == (("noto", "twemoji", "blob"), style)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(KeyError, match="fourier, profile, .*, morphological; found 'hu'"):
        data.load_digits().views["hu"]
    with pytest.raises(ValueError, match="emoji-things, emoji-videos, digits, tweets, found 'emoji'"):
        data.split("emoji")
    for call in (data.held_out_style, data.load_emoji().pictures):
        with pytest.raises(ValueError, match="noto, twemoji, fluent, fluent3d, blob, found 'apple'"):
            call("apple")
