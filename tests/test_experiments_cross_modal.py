"""Chapter 10's recipe, with tiny models: nothing leaks, and all that is measured is what it is called."""

import numpy as np
import pytest
import torch

from mmtutor.data import load_emoji, split
from mmtutor.experiments import cross_modal as recipe
from mmtutor.experiments import cross_modal_models as models
from mmtutor.experiments import cross_modal_scores as scores
from mmtutor.experiments import cross_modal_tasks as tasks
from mmtutor.experiments.fusion_tasks import examples


def seed(n=0):
    return torch.Generator().manual_seed(n)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small model on few scenes and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    monkeypatch.setattr(recipe, "STEPS", {"cpu": dict.fromkeys(recipe.STEPS["cpu"], 2)})
    monkeypatch.setattr(recipe, "TESTED", dict.fromkeys(recipe.TESTED, 24))
    monkeypatch.setattr(recipe, "WIDTH", {"cpu": 2})
    monkeypatch.setattr(recipe, "DIM", 8)
    monkeypatch.setattr(recipe, "BATCH", dict.fromkeys(recipe.BATCH, 4))
    yield
    torch.set_num_threads(threads)


def answering(kind="interactive", question="hand", **more) -> models.Answering:
    classes = recipe.CLASSES[question]
    return models.Answering(kind, 8, 2, classes, question in recipe.FILMS, **more).eval()


# Questions


def test_a_scene_has_every_hand_once_so_that_it_tells_no_answer():
    seen = tasks.asked("hand", "test", 50, seed())
    assert (seen.answer.sort(1).values == torch.arange(4)).all()
    assert len({tuple(row) for row in seen.answer.tolist()}) > 10


def test_no_two_things_of_a_scene_belong_together():
    family = load_emoji().family[tasks.asked("hand", "train", 300, seed()).item.numpy()]
    assert all(len({*row}) == 4 for row in family)


@pytest.mark.parametrize("question", tasks.QUESTIONS)
def test_things_of_the_test_are_not_among_the_training_things(question):
    things = {
        part: tasks.asked(question, part, 40, seed()).item.unique().tolist() for part in ("train", "test")
    }
    assert {*things["train"]} <= {*split("emoji-things").train}
    assert {*things["test"]} <= {*split("emoji-things").test}


def test_question_q_is_about_part_q_and_its_picture_is_by_the_hand_that_is_the_answer():
    emoji, seen = load_emoji(), tasks.asked("hand", "test", 3, seed())
    for scene in range(3):
        for q in range(4):
            thing, style = int(seen.item[scene, q]), tasks.HANDS[seen.answer[scene, q]]
            assert seen.texts[scene][q] == emoji.names[thing].lower()
            drawn = tasks.pixels(emoji.pictures(style)[[thing]])[0]
            assert torch.equal(seen.parts[scene, q], drawn)


def test_half_of_the_films_questions_are_true_and_say_how_the_thing_moves():
    emoji, seen = load_emoji(), tasks.asked("motion", "train", 400, seed())
    clip = {int(i): n for n, i in enumerate(emoji.video_item)}
    texts, some = sum(seen.texts[:20], []), slice(20)
    flat = (seen.item[some].flatten(), texts, seen.answer[some].flatten())
    for item, text, answer in zip(*flat, strict=True):
        moves = tasks.MOTIONS[emoji.motion_names[emoji.motion[clip[int(item)]]]]
        assert text.startswith(f"does the {emoji.names[int(item)].lower()} ")
        assert text.endswith(moves) == bool(answer)
    assert abs(seen.answer.double().mean() - 0.5) < 0.05


def test_a_clip_that_is_held_never_changes_and_one_that_is_played_does_and_things_are_played_and_held():
    seen = tasks.asked("held", "train", 200, seed())
    moves = (seen.parts[:, :, :, :3] != seen.parts[:, :, :1, :3]).flatten(2).any(2)
    changes = (seen.parts[:, :, :, 3:] != 0).flatten(2).any(2)
    assert torch.equal(changes, moves) and torch.equal(moves, seen.answer == 1)
    answers = {}
    for item, answer in zip(seen.item.flatten().tolist(), seen.answer.flatten().tolist(), strict=True):
        answers.setdefault(item, set()).add(answer)
    assert sum(len(found) == 2 for found in answers.values()) > 0.4 * len(answers)
    assert seen.texts[0][1] == f"does the {load_emoji().names[seen.item[0, 1]].lower()} move"


def test_a_held_clip_stays_held_in_a_lesson():
    seen = recipe.lesson(recipe.settings("held, concat"), seed())
    changes = (seen.parts[:, :, :, 3:].abs() > 1e-6).flatten(2).any(2)
    assert torch.equal(changes, seen.answer == 1)


def test_what_changed_in_a_frame_is_since_the_frame_before_in_the_same_clip():
    seen = tasks.asked("motion", "test", 2, seed())
    frames, change = seen.parts[:, :, :, :3], seen.parts[:, :, :, 3:]
    assert torch.equal(change[:, :, 1], frames[:, :, 1] - frames[:, :, 0])
    assert torch.equal(change[:, :, 0], frames[:, :, 0] - frames[:, :, -1])


def test_there_is_a_class_for_each_answer_and_none_besides():
    for question, classes in recipe.CLASSES.items():
        answers = tasks.asked(question, "train", 400, seed()).answer.unique()
        assert answers.tolist() == [*range(classes)]


def test_an_unknown_question_is_an_error():
    with pytest.raises(
        ValueError, match="question: expected one of hand, motion, held, group; found 'smell'"
    ):
        tasks.asked("smell", "train", 2, seed())


def test_the_path_through_two_streams_changes_after_an_odd_digit():
    digits, side = [], examples("digits", "test")
    seen = tasks.streams(side, 30, seed())
    known = {tuple(x.tolist()): int(y) for x, y in zip(side.x["karhunen"], side.y, strict=True)}
    for row in range(30):
        at = 0
        for t in range(8):
            assert seen.follows[row, t] == at
            digit = known[tuple(seen.x[["upper", "lower"][at]][row, t].tolist())]
            at = (at + digit) % 2
        digits.append(digit)
    assert seen.answer.tolist() == digits


def test_features_of_words_are_hashed_and_a_long_text_is_cut():
    ids = tasks.hashed("a " * 50)
    assert ids.shape == (tasks.WORDS, tasks.FEATURES) and (ids[:, 0] > 0).all()
    assert torch.equal(tasks.hashed("red apple")[1], tasks.hashed("apple")[0])
    assert (tasks.hashed("") == 0).all()


# Models


def test_padding_of_words_changes_nothing():
    text = models.WordTokens(8).eval()
    ids = torch.stack([tasks.hashed("red apple")])
    short, valid = text(ids[:, :2])
    long, padded = text(ids)
    assert torch.equal(long[:, :2], short) and padded.sum() == 2 == valid.sum()


@pytest.mark.parametrize("question", tasks.QUESTIONS)
@pytest.mark.parametrize("kind", [*recipe.FUSERS, *recipe.JOINS])
def test_every_join_answers_every_question_and_its_weights_sum_to_at_most_one(kind, question):
    seen = tasks.asked(question, "test", 3, seed())
    logits, weights = answering(kind, question).answer(seen)
    assert logits.shape == (*seen.answer.shape, recipe.CLASSES[question])
    assert (weights is None) == (kind in recipe.FUSERS)
    if weights is not None:
        heads = {"cross-modal Transformer": 8, "gated cross-attention": 8}.get(kind, 1)
        assert weights.shape[:4] == (*seen.answer.shape, heads, seen.parts.shape[1])
        total = weights.sum((3, 4))
        some = kind == "joint"  # the rest lies on the words
        assert (total < 1).all() if some else torch.allclose(total, torch.ones_like(total), atol=1e-5)


def told() -> models.NearestPart:
    model = models.NearestPart("nearest part", 8, 2, 4, False).eval()
    model.told = True
    return model


def test_a_model_told_the_part_sees_no_other_one():
    model, seen = told(), tasks.asked("hand", "test", 2, seed())
    changed = seen.parts.clone()
    changed[:, 1] = 0
    before, after = (model(parts, seen.words)[0] for parts in (seen.parts, changed))
    assert torch.equal(before[:, [0, 2, 3]], after[:, [0, 2, 3]])
    assert not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("hidden", ["image", "text"])
def test_a_hidden_modality_has_no_influence(hidden):
    model, seen = answering("concat", hidden=hidden), tasks.asked("hand", "test", 2, seed())
    before = model(seen.parts, seen.words)[0]
    parts, words = (seen.parts * 0, seen.words) if hidden == "image" else (seen.parts, seen.words.roll(1, 1))
    assert torch.equal(before, model(parts, words)[0])


def test_the_nearest_part_is_looked_at_alone_and_in_training_it_is_the_right_one():
    model, seen = recipe.fit("hand, nearest part", 0), tasks.asked("hand", "test", 5, seed())
    chosen = model.choice(seen.parts, seen.words)
    assert (chosen.sum(2) == 1).all()
    before, q = model(seen.parts, seen.words)[0], 2
    changed = torch.where(chosen[:, q, :, None, None, None] > 0, seen.parts, 0)
    model.choice = lambda *_: chosen
    assert torch.allclose(model(changed, seen.words)[0][:, q], before[:, q], atol=1e-6)
    fresh = recipe.fit("hand, nearest part", 0).train()
    assert torch.equal(fresh.choice(seen.parts, seen.words)[0], torch.eye(4))


def test_gates_that_start_closed_hide_the_image_and_open_ones_show_it():
    seen = tasks.asked("hand", "test", 2, seed())
    for kind, hides in (("gated cross-attention", True), ("gates open", False)):
        model = answering(kind)
        same = torch.equal(model(seen.parts, seen.words)[0], model(seen.parts * 0, seen.words)[0])
        assert same == hides


# Rows


@pytest.mark.parametrize("row", recipe.ROWS)
def test_a_row_gives_its_figures(row):
    figures, s = recipe.run(row, 0), recipe.settings(row)
    looks = (
        {f"look {n}" for n in range(4)} if s["kind"] in recipe.JOINS and s["question"] != "group" else set()
    )
    assert {"accuracy"} | looks <= {*figures.outcomes}
    assert ("accuracy, longer" in figures) == (s["question"] == "streams")
    weighted = (*recipe.JOINS, "gates open", "nearest part")
    if s["question"] != "streams":
        assert {"accuracy", "accuracy, known things"} <= {*figures.groups}
    if s["question"] in ("hand", "motion", "held"):
        assert ("points, attention" in figures) == (s["kind"] in weighted)
        assert ("flat, known things" in figures) == (s["kind"] in weighted[:-1])
        assert ("told" in figures) == (s["kind"] == "nearest part")
    if row in ("group, co-attention", "group, cross-modal Transformer"):
        assert {"disagree, before", "disagree, after", "found, after"} <= {*figures}


@pytest.mark.parametrize("row", ["hand, joint", "streams, temporal"])
def test_the_same_seed_gives_the_same_model_and_the_shuffled_control_another(row):
    one, same, control = (recipe.fit(row, 3, shuffle_pairs=s) for s in (False, False, True))
    first = [[*model.parameters()] for model in (one, same, control)]
    assert all(map(torch.equal, first[0], first[1]))
    assert not all(map(torch.equal, first[0], first[2]))


def test_an_unknown_row_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="row: expected one of hand, concat"):
        recipe.run("foot, concat", 0)


def test_settings_of_a_row_reach_its_model():
    assert recipe.fit("motion, only text", 0).hidden == "image"
    assert recipe.fit("hand, gates open", 0).joined.kind == "gates open"
    assert not recipe.fit("streams, unasked", 0).read.query.weight.any()
    assert recipe.fit("streams, temporal", 0).read.query.weight.any()


def test_short_first_begins_with_short_streams_and_mixed_ones_come_in_any_order(monkeypatch):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": recipe.STEPS["cpu"] | {"streams": 8}})
    lengths, draw = [], recipe.streams
    monkeypatch.setattr(recipe, "streams", lambda *args: lengths.append(args[3]) or draw(*args))
    for row in ("streams, concat, short first", "streams, concat", "streams, temporal, mixed"):
        recipe.fit(row, 0)
    assert lengths[:16] == [2, 2, 3, 3, 4, 4, 8, 8] + [8] * 8
    assert lengths[16:] != sorted(lengths[16:]) and {*lengths[16:]} <= {*recipe.SHORT}


def test_rows_that_are_not_aligned_have_as_many_steps_in_all(monkeypatch):
    monkeypatch.setattr(recipe, "STEPS", {"cpu": {"align": 2, "hand": 4}})
    model = recipe.fit("hand, interactive, not aligned", 0)
    assert len(model.history.loss) == 6


def test_an_inserted_join_changes_nothing_on_its_first_day_if_its_gates_are_shut_and_trains_only_itself():
    shut, open_ = (recipe.fit(f"group, inserted, gates {gates}", 0) for gates in ("shut", "open"))
    assert shut.first_day["accuracy, inserted"] == shut.first_day["accuracy, before"]
    assert open_.first_day["accuracy, before"] == shut.first_day["accuracy, before"]
    for model in (shut, open_):
        learns = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert learns == {"image", "joined"} and not model.joined.asleep


def test_what_reads_means_has_no_choice_and_what_stands_apart_reads_nothing():
    seen = tasks.asked("hand", "test", 3, seed())
    tokens, valid = answering().tokens(seen.parts, seen.words)
    mixed = tokens | {"image": tokens["image"].mean(1, keepdim=True).expand_as(tokens["image"])}
    turned = tokens | {"text": tokens["text"].roll(1, 0)}
    ones = {"image": valid["image"], "text": torch.ones_like(valid["text"])}
    for kind, hears in (("of means", True), ("apart", False)):
        join = models.Joined(f"cross-modal Transformer, {kind}", 8).eval()
        layer = join.join.layers[0][1]  # the words read the image
        read = [layer(x["text"], x["image"], ones["text"], ones["image"])[0] for x in (tokens, mixed)]
        assert torch.allclose(*read, atol=1e-5)
        layer = join.join.layers[0][0]  # the image reads the words
        read = [layer(x["image"], x["text"], ones["image"], ones["text"])[0] for x in (tokens, turned)]
        assert torch.equal(*read) != hears


@pytest.mark.parametrize("kind", recipe.JOINS)
def test_flattened_weights_are_all_alike_and_the_model_is_left_as_it_is(kind):
    model, seen = answering(kind), tasks.asked("hand", "test", 3, seed())
    if kind == "joint":
        torch.nn.init.normal_(model.joined.join.query)
    before = model.look(seen)
    assert before.std(3).max() > 1e-4
    scores.flat(model, seen, seen)
    assert torch.equal(model.look(seen), before)
    model.joined.flatten("text")
    assert model.look(seen).std(3).max() < 1e-6


def test_the_best_head_is_the_one_that_points_on_training_things():
    seen = tasks.asked("hand", "test", 3, seed())

    class Heads:
        def answer(self, _):
            weights = torch.full((3, 4, 2, 4, 1), 0.25)
            weights[:, :, 1, :, 0] = 0.7 * torch.eye(4) + 0.1
            return None, weights

    assert scores.best_head(Heads(), seen, seen)["share, best head"] == pytest.approx(0.8 / 1.1)


def test_the_motion_that_is_asked_for_tells_nothing_of_the_answer():
    seen = tasks.asked("motion", "train", 3000, seed())
    ways = [*tasks.MOTIONS.values()]
    asked = np.array(
        [[next(k for k, way in enumerate(ways) if t.endswith(way)) for t in x] for x in seen.texts]
    )
    yes = [seen.answer.numpy()[asked == k].mean() for k in range(4)]
    assert np.abs(np.array(yes) - 0.5).max() < 0.05


def test_a_look_has_a_row_for_each_word_that_asks_and_its_mean_is_the_weight():
    seen = tasks.asked("hand", "test", 3, seed())
    for kind, asks in (("gates open", seen.words.shape[2]), ("interactive", 1)):
        model = answering(kind)
        looks, weights = model.look(seen), model.answer(seen)[1]
        assert looks.shape == (3, 4, asks, 16)
        real = (seen.words > 0).any(3).double() if asks > 1 else torch.ones(3, 4, 1)
        mean = (looks * real[..., None]).sum(2) / real.sum(2, keepdim=True)
        assert torch.allclose(mean.float(), weights.mean(2).flatten(2), atol=1e-6)


def test_alignment_trains_the_encoders_and_nothing_else():
    s = recipe.settings("hand, interactive")
    model = recipe.build(s, 2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    recipe.align(model, s, 2, seed(), progress=False)
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"image", "text"}


# Figures


def test_blank_parts_are_white_and_do_not_move():
    assert (scores.blank(torch.randn(2, 4, 3, 32, 32)) == 1).all()
    clip = scores.blank(torch.randn(1, 3, 4, 6, 32, 32))
    assert (clip[:, :, :, :3] == 1).all() and (clip[:, :, :, 3:] == 0).all()


def test_occlusion_of_a_model_told_the_part_is_zero_elsewhere_and_so_is_the_gradient():
    model, seen = told(), tasks.asked("hand", "test", 3, seed())
    for way in scores.WAYS.values():
        found = way(model, seen.parts, seen.words, seen.answer)
        off = ~torch.eye(4, dtype=torch.bool)
        assert found.shape == (3, 4, 4) and (found[:, off] == 0).all() and (found[:, ~off] != 0).any()


def test_gradients_guess_what_a_nearly_blank_part_is_worth():
    model, seen = answering().double(), tasks.asked("hand", "test", 2, seed())
    parts = 1 - 1e-4 * torch.rand(seen.parts.shape, dtype=torch.float64)
    ways = [way(model, parts, seen.words, seen.answer) for way in scores.WAYS.values()]
    assert torch.allclose(ways[0], ways[1], rtol=0.05, atol=1e-8)


def test_the_weight_on_the_part_asked_about_is_counted_per_question():
    model, seen = answering(), tasks.asked("hand", "test", 4, seed())
    _, weights = model.answer(seen)
    share = np.mean([weights[b, q, 0, q].sum().item() for b in range(4) for q in range(4)])
    found = scores.pointing(model, seen, torch.ones(4, 4, dtype=torch.bool))
    assert found["share"] == pytest.approx(share, abs=1e-5)


def test_swapped_names_are_those_of_the_picture_before():
    seen = tasks.asked("group", "test", 5, seed())
    wrong = scores.swapped(seen)
    assert torch.equal(wrong.words[1:], seen.words[:-1]) and wrong.texts[1] == seen.texts[0]
    assert torch.equal(wrong.parts, seen.parts)


def test_points_before_attention_do_not_know_of_the_other_modality_and_after_it_they_do():
    seen = tasks.asked("group", "test", 6, seed())
    for kind in ("co-attention", "cross-modal Transformer"):
        model = answering(kind, "group")
        whole, wrong = scores.points(model, seen), scores.points(model, scores.swapped(seen))
        assert np.array_equal(whole["before"]["image"], wrong["before"]["image"])
        assert not np.array_equal(whole["after"]["image"], wrong["after"]["image"])


def test_gates_of_different_signs_do_not_cancel():
    row = "group, inserted, gates shut"
    model = recipe.fit(row, 0, scale="cpu")
    for layer, a in zip(model.joined.join.layers, (0.5, -0.5), strict=True):
        torch.nn.init.constant_(layer.a, a)
    assert recipe.score(model, row)["gate, look"] == pytest.approx(np.tanh(0.5))
