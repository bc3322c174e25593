"""Chapter 01's recipe, with tiny models: what is shown, what is asked, what is missing, and the control."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from mmtutor.data import load_emoji, split
from mmtutor.experiments import mapping as recipe


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(recipe, "STEPS", {"cpu": 2, "gpu": 2})
    monkeypatch.setattr(recipe, "WIDTH", {"cpu": 4, "gpu": 4})
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def drawings():
    return recipe.Drawings(split("emoji-things").test)


def test_a_row_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"row: expected one of all maps, .*; found 'all'"):
        recipe.run("all", 0)


@pytest.mark.parametrize("row", [row for row in recipe.ROWS if row != "linear"])
def test_each_row_measures_the_maps_it_has(row):
    figures = recipe.run(row, 0)
    s = recipe.settings(row)
    for task in s.get("tasks", ()):
        for m in s["inputs"]:
            assert f"{recipe.MODALITIES[m]} → {task}" in figures
    assert ("picture → name R@1" in figures) == bool(s.get("partner"))
    assert all(0 <= value <= 1 for name, value in figures.items() if "→" in name)
    for name, hits in figures.outcomes.items():
        assert len(figures.groups[name]) == len(hits)


def test_the_linear_baseline_beats_the_largest_class_everywhere():
    with threadpool_limits(1):  # beside other work the threads of a linear solver wait for each other
        linear, largest = (recipe.run(row, 0) for row in ("linear", "largest class"))
    assert all(linear[name] > largest[name] for name in largest)


def test_a_baseline_has_no_pairs_to_shuffle():
    with pytest.raises(ValueError, match="shuffle_pairs: expected a row that is trained, found 'linear'"):
        recipe.fit("linear", 0, shuffle_pairs=True)


def test_train_and_test_share_no_family(drawings):
    family = load_emoji().family
    assert not set(family[split("emoji-things").train]) & set(family[drawings.item])


def test_every_present_drawing_comes_once_with_what_is_true_of_it(drawings):
    emoji = load_emoji()
    assert len(drawings.item) == emoji.present[:, split("emoji-things").test].sum()
    k = next(
        k
        for k, i in enumerate(drawings.item)
        if emoji.names[i] == drawings.names[k] and drawings.video[k] >= 0
    )
    item, style = drawings.item[k], drawings.style[k]
    assert np.array_equal(drawings.images[k], emoji.images[style, item])
    assert emoji.video_item[drawings.video[k]] == item
    assert drawings.targets["group"][k] == emoji.group[item]
    assert drawings.targets["motion"][k] == emoji.motion[drawings.video[k]]


def test_the_words_of_the_vocabulary_come_from_training_names_alone(drawings):
    words = recipe.vocabulary()
    training = " ".join(load_emoji().names[i] for i in split("emoji-things").train)
    assert set(words) <= recipe.words_of(training)
    k = int(drawings.known("word").nonzero()[0])
    true = {word for word, there in zip(words, drawings.targets["word"][k], strict=True) if there}
    assert true and true <= recipe.words_of(drawings.names[k])


def test_an_absent_modality_changes_nothing_and_none_at_all_leaves_the_bias(drawings):
    model = recipe.OneSpace(("image", "video"), ("group",), width=4).eval()
    rows = torch.tensor([int((drawings.video < 0).nonzero()[0]), int((drawings.video >= 0).nonzero()[0])])
    x, valid = drawings.inputs(rows, ("image", "video"))
    assert valid.tolist() == [[True, False], [True, True]]
    z = model.points(x)
    other = {**z, "video": torch.where(valid[:, 1:], z["video"], torch.nan)}
    assert torch.equal(model.answers(z, valid)["group"], model.answers(other, valid)["group"])
    nothing = model.answers(z, torch.zeros_like(valid))["group"]
    assert torch.allclose(nothing, model.q["group"].bias.expand(2, -1))


def test_a_batch_without_known_answers_costs_nothing():
    scores = torch.randn(3, 4, requires_grad=True)
    loss = recipe.task_loss("motion", scores, torch.full((3,), -1), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (scores.grad == 0).all()


def test_stillness_is_one_where_nothing_moves():
    frames = np.repeat(np.random.default_rng(0).integers(0, 255, (2, 1, 32, 32, 3), np.uint8), 8, 1)
    x = recipe.moving_pixels(frames)
    assert x.shape == (2, 6, 32, 32) and torch.allclose(x[:, 3:], torch.ones(2, 3, 32, 32), atol=1e-5)


def test_shuffled_drawings_lose_their_names_and_answers_together(monkeypatch):
    kept = {}
    monkeypatch.setattr(recipe, "train", lambda model, loss, steps, **_: kept.update(loss=loss))
    made = []
    init = recipe.Drawings.__init__
    monkeypatch.setattr(
        recipe.Drawings, "__init__", lambda self, items: (init(self, items), made.append(self))[0]
    )
    recipe.fit("all maps", 0, shuffle_pairs=True)
    emoji, mixed = load_emoji(), made[0]
    own = [emoji.names[i] == name for i, name in zip(mixed.item, mixed.names, strict=True)]
    assert np.mean(own) < 0.01
    group = {name: emoji.group[i] for i, name in enumerate(emoji.names)}
    assert [group[name] for name in mixed.names] == mixed.targets["group"].tolist()
