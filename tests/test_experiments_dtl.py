"""Chapter 11's recipes, with tiny models: what is asked, what each row changes, and films of real clips."""

import numpy as np
import pytest
import torch

from mmtutor.cross_modal import masked_mean
from mmtutor.data import load_emoji, split
from mmtutor.experiments import dtl, dtl_baselines, dtl_models, films, films_baselines, films_models, pairs
from mmtutor.experiments.dtl_tasks import MODALITIES, clips, moving, things
from mmtutor.experiments.films_tasks import CLIPS, FRAMES, THINGS, held, moving_things
from mmtutor.experiments.films_tasks import draw_films as draw
from mmtutor.experiments.fusion_tasks import VENDORS


def seed(n=0):
    return torch.Generator().manual_seed(n)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of very small models on few items and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    for recipe in (dtl, films, pairs):
        monkeypatch.setattr(recipe, "DIM", 8)
        monkeypatch.setattr(recipe, "WIDTH", {"cpu": 4})
    for recipe in (dtl, pairs):
        monkeypatch.setattr(recipe, "STEPS", {"cpu": 2})
        monkeypatch.setattr(recipe, "BATCH", 4)
    monkeypatch.setattr(dtl, "REFERENCE", dict(rate=1e-3, epochs=0.01))
    monkeypatch.setattr(films, "STEPS", {"cpu": dict(find=2, recall=2)})
    monkeypatch.setattr(films, "SEE", dict(steps={"cpu": 2}, batch=8, rate=1e-3))
    monkeypatch.setattr(films, "BATCH", dict(find=4, recall=4))
    monkeypatch.setattr(films, "TIMES", 1)
    monkeypatch.setattr(films, "TESTED", 8)
    yield
    torch.set_num_threads(threads)


def model_of(row, recipe=dtl, width=4, dim=8):
    s = recipe.settings(row)
    if recipe is films:
        return films_models.network(s, dim, width, films.ANSWERS).eval(), s
    return dtl_models.network(s, dim, width, dtl.CLASSES[s["question"]]).eval(), s


# What is asked of one thing


def test_nothing_that_is_tested_on_is_learnt_from():
    families = {part: {*load_emoji().family[things("motion", part).item]} for part in ("train", "test")}
    assert not families["train"] & families["test"]


def test_a_thing_comes_once_by_each_vendor_with_its_own_animation_and_answers():
    emoji, (clip, motion, group) = load_emoji(), moving()
    seen = {question: things(question, "test") for question in ("group × moves", "group", "motion")}
    side = seen["motion"]
    n = len(side.y) // len(VENDORS)
    assert torch.equal(side.item[:n], side.item[n:]) and len({*side.item.tolist()}) == n
    for vendor, name in enumerate(VENDORS):
        for i in (0, n - 1):
            row, item = vendor * n + i, int(side.item[vendor * n + i])
            drawn = torch.tensor(emoji.pictures(name)[item]).movedim(-1, 0) / 127.5 - 1
            assert torch.allclose(side.x["picture"][row], drawn, atol=1e-5)
            assert torch.equal(side.x["animation"][row], clips(8)[clip[item]])
            assert side.y[row] == motion[item] and seen["group"].y[row] == group[item]
            still = emoji.motion_names[motion[item]] == "in place"
            assert seen["group × moves"].y[row] == 2 * group[item] + still


def test_frames_come_with_what_changed_since_the_one_before():
    x = things("motion", "test").x["animation"][:5]
    assert torch.allclose(x[:, 1:, 3:], x[:, 1:, :3] - x[:, :-1, :3], atol=1e-6)
    assert torch.allclose(x[:, 0, 3:], x[:, 0, :3] - x[:, -1, :3], atol=1e-6)


def test_an_unknown_question_is_an_error():
    with pytest.raises(ValueError, match="question: expected one of group × moves, group, motion"):
        things("smell", "test")


def test_variation_moves_all_frames_of_an_animation_alike_and_keeps_the_changes_true():
    seen = things("motion", "test").at(torch.arange(6))
    seen.x["animation"] = held(seen.x["animation"][:, :4])
    x = dtl.varied(seen, seed()).x
    assert not torch.equal(x["animation"][:, 0, :3], seen.x["animation"][:, 0, :3])
    assert not x["animation"][:, :, 3:].any()  # held clips stay held


# Rows


@pytest.mark.parametrize("row", [row for row in dtl.ROWS if "ensemble" not in row])
def test_a_row_gives_its_figures(row):
    figures = dtl.run(row, 0)
    right = figures.outcomes["accuracy"]
    assert len(right) == len(things(dtl.settings(row)["question"], "test").y) and {*right} <= {0, 1}
    assert ("parameters" in figures) == ("baseline" not in dtl.ROWS[row])


@pytest.mark.parametrize("row", ["group × moves, DTL, ensemble", "group × moves, concat, ensemble"])
def test_an_ensemble_has_three_members_and_answers_by_the_mean_of_their_logarithms(row):
    model, s = dtl.fit(row, 1), dtl.settings(row)
    seen = things("group × moves", "test").at(torch.arange(3))
    logits = [dtl.answers(one, seen, s)["both"].log_softmax(1) for one in model.models]
    assert len(logits) == 3 and not torch.allclose(logits[0], logits[1])
    assert torch.allclose(dtl.answers(model, seen, s)["both"], sum(logits) / 3, atol=1e-5)


@pytest.mark.parametrize("row", ["picture, mean", "animation, mean", "animation, max", "animation, Bi-LSTM"])
def test_a_modality_that_is_hidden_changes_nothing(row):
    model, s = model_of(f"group × moves, {row}")
    seen = things("group × moves", "test").at(torch.arange(4))
    before = dtl.answers(model, seen, s)["both"]
    for m in MODALITIES:
        changed = seen.x | {m: seen.x[m].flip(0)}
        after = dtl.answers(model, type(seen)(changed, seen.valid, seen.y, seen.item), s)["both"]
        assert torch.equal(before, after) == (s["hidden"] == m)


def test_plain_frames_tell_nothing_of_changes():
    seen = things("motion", "test").at(torch.arange(4))
    x, _ = dtl.shown(seen, dtl.settings("motion, animation, Bi-GRU, plain frames"), "cpu")
    assert not x["animation"][:, :, 3:].any() and x["animation"][:, :, :3].any()


def test_rows_differ_in_what_they_say():
    model, _ = model_of("group × moves, DTL, shared extractor")
    assert model.extractors[0] is model.extractors[1] and model.rnns[0] is not model.rnns[1]
    model, _ = model_of("group × moves, DTL, shared Bi-RNN")
    assert model.extractors[0] is not model.extractors[1] and model.rnns[0] is model.rnns[1]
    model, _ = model_of("group × moves, DTL, separate predictors")
    assert len({*model.predictors}) == 3
    assert list(model_of("group × moves, DTL, without short")[0].dam.parts) == [
        "inter",
        "composition",
        "hierarchical",
        "long",
    ]
    assert list(model_of("group × moves, DTL, only long")[0].dam.parts) == ["long"]
    model, s = model_of("group × moves, DTL, one direction")
    x = torch.randn(2, 8, 8)
    later = torch.cat([x[:, :5], torch.randn(2, 3, 8)], 1)
    assert torch.equal(model.rnns[1](x)[:, :5], model.rnns[1](later)[:, :5])


def test_the_largest_value_is_that_of_real_tokens():
    x = torch.tensor([[[1.0], [5.0]], [[-2.0], [3.0]]])
    assert dtl_models.masked_max(x, torch.tensor([[True, False], [True, False]])).tolist() == [[1.0], [-2.0]]


def test_the_same_seed_gives_the_same_model_and_the_shuffled_control_another(monkeypatch):
    monkeypatch.setattr(films, "BATCH", dict(find=32))  # few answers may be alike after they are dealt out
    for fit, row in ((dtl.fit, "motion, DTL"), (films.fit, "find, DTL, only exchange")):
        one, same, control = (
            [*fit(row, 3, shuffle_pairs=shuffled).parameters()] for shuffled in (False, False, True)
        )
        assert all(map(torch.equal, one, same)) and not all(map(torch.equal, one, control))


def test_the_shuffled_control_of_a_baseline_knows_nothing():
    side = things("group × moves", "train")
    fitted, control = (dtl_baselines.fit("logistic regression", side, shuffled) for shuffled in (None, 0))
    test = things("group × moves", "test")
    right, shuffled = ((m.answers(test) == test.y.numpy()).mean() for m in (fitted, control))
    assert right > 0.5 > 0.35 > shuffled


def test_motion_statistics_are_the_last_columns():
    side = things("motion", "test").at(torch.arange(3))
    numbers = dtl_baselines.statistics(side)
    turned = type(side)(side.x | {"picture": side.x["picture"].flip(3)}, side.valid, side.y, side.item)
    assert not np.array_equal(dtl_baselines.statistics(turned)[:, :-9], numbers[:, :-9])
    assert np.array_equal(dtl_baselines.statistics(turned)[:, -9:], numbers[:, -9:])


@pytest.mark.parametrize("recipe", [dtl, films, pairs])
def test_an_unknown_row_is_an_error_that_names_the_known_ones(recipe):
    with pytest.raises(ValueError, match=f"row: expected one of {next(iter(recipe.ROWS))}"):
        recipe.run("smell, DTL", 0)
    with pytest.raises(ValueError, match="baseline: expected one of same answer"):
        dtl_baselines.fit("luck", things("motion", "test"))


# Films


@pytest.mark.parametrize("question", CLIPS)
def test_a_film_has_things_of_different_families_of_one_side_that_move(question):
    drawn, side = draw(question, "test", 300, seed()), {*split("emoji-things").test}
    cast = [{*row} for row in drawn.items.tolist()]
    assert all(len(row) == THINGS and row <= side for row in cast)
    assert all(len({load_emoji().family[i] for i in row}) == THINGS for row in cast)
    kind = load_emoji().motion_names
    assert all(kind[moving()[1][i]] != "in place" for row in cast for i in row)
    assert (drawn.items == drawn.item[:, None]).any(1).all() and 0.4 < drawn.y.double().mean() < 0.6


@pytest.mark.parametrize("question", CLIPS)
def test_clips_play_or_are_held_and_frames_say_so(question):
    drawn = draw(question, "test", 100, seed())
    frames = drawn.seen().x["animation"][:, : FRAMES * CLIPS[question]]
    changes = frames[:, :, 3:].unflatten(1, (-1, FRAMES)).abs()
    assert torch.equal(changes.amax((2, 3, 4, 5)) > 0, drawn.played)


def test_the_thing_of_the_picture_may_be_anywhere_and_its_clip_is_the_answer():
    drawn = draw("find", "test", 300, seed())
    asked = drawn.items == drawn.item[:, None]
    assert torch.equal(drawn.played[asked].long(), drawn.y)
    assert (asked.sum(0) > 30).all()


def test_things_come_twice_and_the_later_clip_of_the_last_thing_is_the_answer():
    drawn, count = draw("recall", "test", 300, seed()), CLIPS["recall"]
    assert drawn.items.shape == (300, count)
    gaps = []
    for items, played, item, y in zip(drawn.items, drawn.played, drawn.item, drawn.y, strict=True):
        both = [k for k in range(count) if items[k] == item]
        assert len(both) == 2 and played[both[-1]] == y
        gaps.append(count - both[-1])
    assert {*range(1, 8)} <= {*gaps} and gaps.count(1) < 100
    x = drawn.seen().x["animation"]
    assert x.shape[1] == count * FRAMES + 1 and not x[:, -1, 3:].any()  # a frame in which nothing changes
    for film, items, item in zip(x[:20], drawn.items, drawn.item, strict=False):
        like = [torch.equal(film[k * FRAMES, :3], film[-1, :3]) for k in range(count)]
        assert like == (items == item).tolist()


def test_accuracy_is_split_by_whether_both_clips_agree(monkeypatch):
    monkeypatch.setattr(films, "TESTED", 40)
    figures = films.run("recall, Bi-GRU, last", 0)
    drawn = draw("recall", "test", films.TESTED, seed())
    earlier, later = drawn.played[drawn.items == drawn.item[:, None]].view(-1, 2).T
    agree = (earlier == later).double().mean().item()
    parts = (figures["accuracy, clips agree"], figures["accuracy, clips differ"])
    assert figures.outcomes["accuracy"].mean() == pytest.approx(agree * parts[0] + (1 - agree) * parts[1])


def test_an_unknown_film_is_an_error():
    with pytest.raises(ValueError, match="question: expected one of find, recall"):
        draw("smell", "test", 2, seed())


@pytest.mark.parametrize("row", films.ROWS)
def test_a_row_of_films_gives_its_figures(row):
    figures = films.run(row, 0)
    assert {*figures.outcomes} == {"accuracy", "accuracy, known things"}
    assert all(len(right) == 8 for right in figures.outcomes.values())
    assert ("parameters" in figures) == ("deterministic" not in films.ROWS[row])


@pytest.mark.parametrize("question", CLIPS)
def test_tokens_that_are_kept_are_those_of_pictures_and_clips_unchanged(question):
    model, _ = model_of(f"{question}, DTL", films)
    items = moving_things("test")
    tokens = films_models.Tokens(model.extractors, items, lambda seen: seen, 1)
    drawn = draw(question, "test", 5, seed())
    kept, seen = tokens.seen(drawn, seed()), drawn.seen()
    for m, extract in zip(MODALITIES, model.extractors, strict=True):
        assert torch.allclose(kept.x[m], extract(seen.x[m])[0], atol=1e-5)
    assert torch.equal(kept.y, drawn.y)


def test_extractors_learn_no_more_once_they_are_kept():
    extractor = model_of("find, DTL", films)[0].extractors[0]
    frozen = films_models.Frozen(extractor)
    x = torch.randn(2, 3, 32, 32)
    tokens, valid = frozen(x)
    again, same = frozen(tokens)
    assert torch.equal(tokens, extractor(x)[0]) and torch.equal(again, tokens) and torch.equal(same, valid)
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("row", ["find, DTL", "recall, DTL, only short", "find, cross-modal Transformer"])
def test_what_compares_begins_with_inner_products(row):
    model, _ = model_of(row, films)
    films_models.start_alike(model, 4.0)
    eye = torch.eye(8)
    if "Transformer" in row:
        W_q, W_k, _ = model.cross.layers[1][0].cross_attention.in_proj_weight.chunk(3)
        assert torch.allclose(W_q.T @ W_k, 4 * eye)
        return
    parts = dict(model.dam.parts)
    assert torch.equal(parts["short"].W_q.weight.T @ parts["short"].W_k.weight, 4 * torch.eye(4))
    if len(parts) > 1:
        assert all(torch.equal(W.weight, eye) for W in model.exchange.project)
        assert all(torch.equal(W.weight, 4 * eye) for W in parts["composition"].queries)
        W_q, W_k, _ = parts["inter"].looks[0].in_proj_weight.chunk(3)
        assert torch.allclose(W_q.T @ W_k, 4 * eye)
        assert torch.equal(parts["long"].W_r.weight, 4 * parts["long"].W_v.weight)


@pytest.mark.parametrize("question", CLIPS)
def test_a_baseline_reads_each_clip_by_itself(question):
    model, _ = model_of(f"{question}, DTL", films)
    one = films_models.EachClip(model, 8, 5.0).eval()
    torch.nn.init.constant_(one.recency, 0.3)
    seen = draw(question, "test", 3, seed()).seen()
    with torch.no_grad():
        clips = []
        for clip in seen.x["animation"].split(FRAMES, 1):
            tokens, valid = one.extractors[1](clip)
            clips.append(masked_mean(one.rnns[1](tokens, valid), valid))
        tokens, valid = one.extractors[0](seen.x["picture"])
        asked = masked_mean(one.rnns[0](tokens, valid), valid) if question == "find" else clips.pop()
        score = [5 * torch.cosine_similarity(asked, c) + 0.3 * k for k, c in enumerate(clips)]
        weights = torch.stack(score).softmax(0)
        slow = one.head(sum(w[:, None] * c for w, c in zip(weights, clips, strict=True)))
        assert torch.allclose(one(seen.x).logits, slow, atol=1e-4)


def test_all_networks_of_a_seed_have_learnt_to_see_alike():
    rows = ("find, DTL, only inter", "find, Bi-GRU, mean", "find, each clip")
    first, *others = [[p for e in films.fit(row, 2).extractors for p in e.parameters()] for row in rows]
    assert all(all(map(torch.equal, first, other)) for other in others)


def test_what_is_hidden_in_a_film_changes_nothing():
    for row, m in (("find, DTL, no picture", "picture"), ("recall, DTL", "picture")):
        model, s = films.fit(row, 0), films.settings(row)
        seen = draw(s["question"], "test", 4, seed()).seen()
        before = dtl.answers(model, seen, s)["both"]
        other = type(seen)(seen.x | {m: seen.x[m].flip(0)}, seen.valid, seen.y, seen.item)
        assert torch.equal(dtl.answers(model, other, s)["both"], before)


def test_colours_are_those_of_the_ink_and_find_a_picture_among_others():
    red, blue = np.full((1, 4, 4, 3), 255, np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    red[0, 1, :2], blue[0, :2, 1] = (200, 10, 10), (10, 10, 200)
    h = films_baselines.histogram(np.concatenate([red, blue]))
    assert h.shape == (2, 64) and np.allclose(h.sum(1), 1) and (h.max(1) == 1).all()
    assert h[0].argmax() == 3 and h[1].argmax() == 48
    drawn = draw("find", "test", 300, seed())
    right = (films_baselines.Colours().answers(drawn) == drawn.y.numpy()).mean()
    assert right > 0.72  # counting has 0.66
    drawn = draw("recall", "test", 100, seed())
    assert (films_baselines.Colours().answers(drawn) == drawn.y.numpy()).all()  # the same frame again


@pytest.mark.parametrize("hard", [True, False])
def test_redundancy_is_that_of_what_the_exchange_compares_and_of_what_it_gives(hard):
    model, _ = model_of(f"find, DTL, only {'hard ' * hard}exchange", films)
    seen = things("motion", "test", frames=FRAMES).at(torch.arange(20))
    found = films.redundancy(model, seen)
    tokens, valid = model.tokens(seen.x)
    order = torch.randperm(20, generator=seed())
    for who in ("", ", strangers"):
        before = [W(tokens[m]).mean(1) for m, W in zip(MODALITIES, model.exchange.project, strict=True)]
        after = [x.mean(1) for x in model.exchange(tokens)[0].values()]
        assert found[f"CKA before{who}"] == pytest.approx(films.cka(*before).item(), rel=1e-4)
        assert found[f"CKA after{who}"] == pytest.approx(films.cka(*after).item(), rel=1e-4)
        tokens["animation"] = tokens["animation"][order]


def test_alignment_of_spaces_is_that_of_their_grams_and_knows_no_rotation():
    x, y = torch.randn(30, 4, generator=seed()), torch.randn(30, 6, generator=seed(1))
    K, L = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
    assert torch.allclose(films.cka(x, y), (K * L).sum() / (K.norm() * L.norm()), atol=1e-5)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=seed(2)))[0]
    assert torch.allclose(films.cka(x, y), films.cka(x, y @ turn + 3), atol=1e-5)
    assert films.cka(x, x) == pytest.approx(1) and films.cka(x, y) < 0.5


# Other pairs


@pytest.mark.parametrize("row", pairs.ROWS)
def test_a_row_of_other_pairs_gives_its_figures(row):
    figures = pairs.run(row, 0)
    assert len(figures.outcomes["accuracy"]) == len(pairs.pairs(row.split(", ")[0], "test").y)


@pytest.mark.parametrize("question", pairs.MODALITIES)
def test_a_hidden_modality_of_another_pair_changes_nothing(question):
    a, b = pairs.MODALITIES[question]
    s = pairs.settings(f"{question}, only {a}")
    model, seen = pairs.network(s, 4).eval(), pairs.pairs(question, "test").at(torch.arange(5))
    before = dtl.answers(model, seen, s)["both"]
    for m in (a, b):
        other = type(seen)(seen.x | {m: seen.x[m].flip(0)}, seen.valid, seen.y, seen.item)
        assert torch.equal(dtl.answers(model, other, s)["both"], before) == (m == b)


def test_a_digit_is_read_row_by_row_and_a_name_word_by_word():
    seen = pairs.pairs("digits", "test")
    assert torch.equal(seen.x["pixels"][3, 2], seen.x["pixels"][3].flatten()[30:45])
    seen = pairs.pairs("named", "test")
    tokens, real = pairs.Words(8)(seen.x["name"][:9], torch.ones(9, dtype=torch.bool))
    assert real.sum(1).tolist() == [
        min(len(load_emoji().names[i].split()), real.shape[1]) for i in seen.item[:9].tolist()
    ]
    with pytest.raises(ValueError, match="question: expected one of named, digits"):
        pairs.pairs("smell", "test")
