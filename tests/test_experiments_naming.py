"""The naming recipe, with tiny models: nothing leaks, rows keep their contract, names are scored as said."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from mmtutor.data import load_emoji, split
from mmtutor.experiments import naming as recipe
from mmtutor.experiments import naming_baselines as baselines
from mmtutor.experiments import naming_evidence as evidence
from mmtutor.experiments import naming_tasks as tasks
from mmtutor.seq2seq import PADDING, PictureTokens, TextTokens

TRAINED = [row for row, s in recipe.ROWS.items() if "baseline" not in s]
REAL = tasks.named


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on few items and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {"picture": 2, "text": 2, "animals": 2}})
    monkeypatch.setattr(recipe, "WIDTH", {"cpu": 2})
    monkeypatch.setattr(recipe, "DIM", 8)
    monkeypatch.setattr(recipe, "BATCH", 16)

    def few(question, part):
        side = REAL(question, part)
        every = max(1, len(side.names) // 40)
        return tasks.Named(side.inputs[::every], side.names[::every], side.thing[::every])

    monkeypatch.setattr(recipe, "named", few)
    monkeypatch.setattr(baselines, "named", few)
    monkeypatch.setattr(baselines, "CANDIDATES", 3)
    monkeypatch.setattr(baselines, "REFERENCES", 5)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("question", ["English", "Chinese"])
def test_a_style_never_seen_is_not_among_the_training_pictures(question):
    emoji, train, test = load_emoji(), REAL(question, "train"), REAL(question, "test")
    unseen = emoji.images[emoji.styles.index(tasks.STYLE)]
    assert torch.equal(test.inputs, torch.tensor(unseen))
    known = {picture.numpy().tobytes() for picture in train.inputs}
    shared = sum(picture.tobytes() in known for picture in unseen)
    assert shared == 0 and {*train.thing} == {*test.thing}


@pytest.mark.parametrize("question", ["unseen things", "translation"])
def test_things_never_seen_are_not_among_the_training_things_nor_are_their_relatives(question):
    family = load_emoji().family
    sides = [family[REAL(question, part).thing] for part in ("train", "test")]
    assert not {*sides[0]} & {*sides[1]}
    assert {*REAL(question, "test").thing} == {*split("emoji-things").test}


@pytest.mark.parametrize("question", tasks.QUESTIONS)
def test_names_are_those_of_their_things(question):
    emoji, side = load_emoji(), REAL(question, "test")
    names = emoji.names_zh if question in ("Chinese", "translation") else emoji.names
    assert side.names == [names[i] for i in side.thing]
    if question == "translation":
        english = tasks.vocabulary("English").decode(side.inputs)
        assert english == [emoji.names[i] for i in side.thing]


def test_an_unknown_question_is_an_error():
    with pytest.raises(ValueError, match="question: expected one of English, Chinese"):
        REAL("French", "test")


def test_batches_hold_every_item_once_an_epoch_and_texts_of_about_one_length():
    length = torch.randint(1, 40, (16 * 8 * 2,))
    draw = recipe.batches(length, torch.Generator().manual_seed(0))
    parts = [next(draw) for _ in range(16)]
    assert sorted(torch.cat(parts).tolist()) == [*range(len(length))]
    spread = np.mean([np.ptp(length[part].numpy()) for part in parts])
    assert spread < np.ptp(length.numpy()) / 3
    assert not torch.equal(next(draw), parts[0])


@pytest.mark.parametrize("row", recipe.ROWS)
def test_a_row_gives_its_figures(row):
    figures = recipe.run(row, 0)
    assert {*figures.outcomes} == {"exact"} and 0 <= figures["chrF"] <= 1
    assert figures.outcomes["exact"].shape == figures.groups["exact"].shape
    assert ("nats" in figures) == ("baseline" not in recipe.ROWS[row])
    assert sum(name.startswith("exact, ") for name in figures) == 4


@pytest.mark.parametrize("row", ["English, attention", "translation, Transformer"])
def test_the_same_seed_gives_the_same_model_and_the_shuffled_control_another(row):
    one, same, control = (recipe.fit(row, 3, shuffle_pairs=s) for s in (False, False, True))
    first = [[*model.parameters()] for model in (one, same, control)]
    assert all(map(torch.equal, first[0], first[1]))
    assert not all(map(torch.equal, first[0], first[2]))


def test_shuffled_names_are_refused_where_nothing_is_trained():
    with pytest.raises(ValueError, match="shuffle_pairs: expected a row that is trained"):
        recipe.fit("English, nearest", 0, shuffle_pairs=True)


def test_an_unknown_row_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="expected one of English, vanilla"):
        recipe.run("Latin, Transformer", 0)


@pytest.mark.parametrize("encoder", [PictureTokens(8, 2), TextTokens(9, 8)])
def test_one_token_is_the_mean_of_the_real_ones(encoder):
    pictures = isinstance(encoder, PictureTokens)
    x = torch.randn(2, 3, 32, 32) if pictures else torch.tensor([[4, 5, 2], [6, 2, PADDING]])
    one, encoder = recipe.OneToken(encoder).eval(), encoder.eval()
    memory, valid = encoder(x)
    mean, real = one(x)
    assert mean.shape == (2, 1, 8) and real.all()
    for row, m, v in zip(mean, memory, valid, strict=True):
        assert torch.allclose(row[0], m[v].mean(0), atol=1e-6)


def test_the_loss_per_character_is_that_of_all_names_at_once():
    model, things = recipe.fit("English, vanilla", 0), recipe.named("English", "test")
    tokens = tasks.vocabulary("English").encode(things.names)
    every = torch.arange(len(tokens))
    with torch.no_grad():
        expected = model.loss(things.at(every), tokens).item()
    assert recipe.nats(model, things, "English") == pytest.approx(expected, rel=1e-4)


def slow_chrf(text: str, name: str) -> float:
    """Mean precision and recall of runs of 1 to 6 characters that both can have; their F2."""
    precisions, recalls = [], []
    text, name = (x.replace(" ", "") for x in (text, name))
    for n in range(1, 7):
        runs = [Counter(x[i : i + n] for i in range(len(x) - n + 1)) for x in (text, name)]
        if all(runs):
            common = (runs[0] & runs[1]).total()
            precisions.append(common / runs[0].total())
            recalls.append(common / runs[1].total())
    if not any(precisions):
        return 0.0
    p, r = np.mean(precisions), np.mean(recalls)
    return 5 * p * r / (4 * p + r)


def test_chrf_counts_runs_of_characters_that_text_and_name_share():
    texts = ["grinning face", "cat", "a very long name", "猫头鹰", "", "red apple"]
    names = ["grinning cat", "cat", "name", "头像", "dog", "apple red"]
    slow = [slow_chrf(text, name) for text, name in zip(texts, names, strict=True)]
    assert recipe.chrf(texts, names) == pytest.approx(slow, abs=1e-6)
    assert slow[1] == 1 and slow[4] == 0 and 0 < slow[0] < 1


def test_the_nearest_picture_of_a_known_picture_is_itself_and_so_is_the_nearest_name():
    for question in ("English", "translation"):
        side = baselines.named(question, "train")
        written = baselines.fit("nearest", question).write(side)
        right = np.mean([text == name for text, name in zip(written, side.names, strict=True)])
        assert right > 0.95


def test_the_constant_answer_is_a_training_name():
    things = baselines.named("unseen things", "test")
    written = baselines.fit("constant", "unseen things").write(things)
    assert len({*written}) == 1 and written[0] in baselines.named("unseen things", "train").names


def test_an_unknown_baseline_is_an_error():
    with pytest.raises(ValueError, match="name: expected one of constant, nearest"):
        baselines.fit("oracle", "English")


# What is said of patches


def model_and_texts(decoder="attention"):
    model = recipe.fit(f"English, {decoder}", 0)
    texts = ["red apple", "cat"]
    return model, torch.rand(2, 3, 32, 32) * 2 - 1, texts, tasks.vocabulary("English").encode(texts)


def test_own_patches_see_nothing_but_themselves():
    encoder = recipe.OwnPatches(8, 2).eval()
    one = torch.randn(1, 3, 32, 32)
    other = one.clone()
    other[:, :, 8:16, 16:24] += 1  # the patch in row 1, column 2
    changed = (encoder(one)[0] != encoder(other)[0]).any(2)[0].nonzero().flatten()
    assert changed.tolist() == [1 * 4 + 2]
    together = (PictureTokens(8, 2).eval()(one)[0] != 0).all()
    assert encoder(one)[0].shape == (1, 16, 8) and together


def test_erased_patches_are_white_and_the_others_as_they_were():
    pictures, patches = torch.zeros(2, 3, 32, 32), torch.zeros(2, 16, dtype=torch.bool)
    patches[1, 6] = True
    found = evidence.erase(pictures, patches)
    assert torch.equal(found[0], pictures[0])
    assert (found[1, :, 8:16, 16:24] == 1).all() and found[1].sum() == 3 * 64


@pytest.mark.parametrize("decoder", ["attention", "Transformer"])
def test_occlusion_is_what_a_word_loses_without_a_patch(decoder):
    model, pictures, texts, tokens = model_and_texts(decoder)
    said = evidence.evidence(model, pictures, texts, tokens)
    assert {x.shape for x in said.values()} == {(3, 16)}
    patch = torch.arange(16)[None] == 5
    with torch.no_grad():
        whole = model(pictures[:1], tokens[:1])[0].log_softmax(2)
        left = model(evidence.erase(pictures[:1], patch), tokens[:1])[0].log_softmax(2)
    apple = sum((whole - left)[0, t, tokens[0, t]] for t in range(4, 9))
    assert said["occlusion"][1, 5] == pytest.approx(apple.item(), abs=1e-5)
    assert torch.allclose(said["attention"].sum(1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("decoder", ["attention", "Transformer"])
def test_a_token_that_must_not_be_read_is_as_good_as_absent(decoder):
    model, pictures, _, tokens = model_and_texts(decoder)
    lost = evidence.token_occlusion(model, pictures, tokens)
    memory, valid = model.encoder(pictures)
    memory = torch.cat([memory[:, :3], memory[:, 4:]], 1)
    before = torch.cat([torch.full((2, 1), 1), tokens[:, :-1]], 1)
    with torch.no_grad():
        without = model.decoder(memory, valid[:, 1:], before)[0].log_softmax(2)
        whole = model(pictures, tokens)[0].log_softmax(2)
    expected = (whole - without).gather(2, tokens[..., None])[..., 0]
    assert torch.allclose(lost[..., 3], expected, atol=1e-5)


def test_gradients_guess_the_loss_of_a_patch_that_is_nearly_white():
    model, pictures, texts, tokens = model_and_texts()
    faint = 1 - 1e-3 * torch.rand_like(pictures)
    model, faint = model.double(), faint.double()
    said = evidence.evidence(model, faint, texts, tokens)
    assert torch.allclose(said["gradient"], said["occlusion"], rtol=0.05, atol=1e-7)


@pytest.mark.parametrize("decoder", ["attention", "Transformer"])
def test_flattened_weights_are_all_the_same(decoder):
    model, pictures, _, tokens = model_and_texts(decoder)
    weights = evidence.flattened(model)(pictures, tokens)[1]
    assert torch.allclose(weights, torch.full_like(weights, 1 / 16))
    assert not torch.allclose(model(pictures, tokens)[1], weights)


def test_the_best_patches_by_occlusion_cost_more_than_those_by_chance():
    model, pictures, texts, tokens = model_and_texts()
    found = evidence.figures(model, pictures, texts, tokens)
    assert found["erased, occlusion"] > found["erased, chance"]
    assert found["rank, occlusion"] == pytest.approx(1)
    assert all(-1 <= value <= 1 for name, value in found.items() if name.startswith("rank"))


def test_a_rank_correlation_is_scipys_and_nan_where_nothing_varies():
    a, b = torch.randn(4, 16), torch.randn(4, 16)
    a[2] = 1.0
    expected = [spearmanr(x, y).statistic for x, y in zip(a[[0, 1, 3]], b[[0, 1, 3]], strict=True)]
    found = evidence.rank_correlation(a, b)
    assert np.isnan(found[2]) and found[[0, 1, 3]] == pytest.approx(expected)


def test_a_models_evidence_is_among_its_figures():
    model, things = recipe.fit("English, attention", 0), recipe.named("English", "test")
    exact = np.arange(len(things.names)) < 3
    found = recipe.examined(model, things, exact)
    assert {"rank, attention", "erased, ink", "blank, letter 1", "exact, flat weights"} <= {*found}
    assert recipe.examined(model, things, exact & False) == {}


@pytest.mark.parametrize(
    ("row", "key", "value"),
    [("English, vanilla, 3 × steps", "times", 3), ("English, vanilla, rate 0.01", "rate", 0.01)],
)
def test_settings_of_a_row_reach_its_training(row, key, value, monkeypatch):
    given = {}

    def record(model, batch_loss, steps, *, rate, **more):
        given.update(times=steps / 2, rate=rate)
        model.eval()

    monkeypatch.setattr(recipe, "train", record)
    recipe.fit(row, 0)
    assert given[key] == value


def test_tags_and_own_patches_reach_the_model():
    assert recipe.fit("translation, Transformer, tags", 0).tag.out_features == len(load_emoji().group_names)
    assert recipe.fit("translation, Transformer", 0).tag is None
    assert isinstance(recipe.fit("English, Transformer, own patches", 0).encoder, recipe.OwnPatches)
