"""Chapter 09's readers of rows of digits: questions are what they are called, rows keep their contract."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmtutor.data import load_digits
from mmtutor.experiments import attention as recipe
from mmtutor.experiments import attention_baselines as baselines
from mmtutor.experiments import attention_models as models
from mmtutor.experiments import attention_tasks as tasks
from mmtutor.experiments.fusion_tasks import examples
from mmtutor.seq2seq import sinusoids

STARTS = ("content, scaled dot, 512 wide, start of the dot", "content, scaled dot, 512 wide")
TRAINED = [row for row, s in recipe.ROWS.items() if "baseline" not in s]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps, few rows of digits, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    monkeypatch.setattr(recipe, "STEPS", {"cpu": 2, "gpu": 3})
    monkeypatch.setattr(recipe, "TESTED", 40)
    yield
    torch.set_num_threads(threads)


def draw(question: str, lengths: str = "train", size: int = 200, seed: int = 0) -> tasks.Rows:
    return tasks.rows(
        question, examples("digits", "test"), size, torch.Generator().manual_seed(seed), lengths
    )


@pytest.mark.parametrize("question", tasks.QUESTIONS)
@pytest.mark.parametrize("lengths", tasks.LENGTHS)
def test_rows_have_the_lengths_that_were_asked_for_and_padding_at_the_end(question, lengths):
    if question == "content" and lengths == "longer":
        pytest.skip("no such rows")
    seen, (least, most) = draw(question, lengths), tasks.LENGTHS[lengths]
    n = seen.valid.sum(1)
    assert {*n.tolist()} == {*range(least, most + 1)}
    assert (seen.valid == (torch.arange(most) < n[:, None])).all()
    assert not seen.digits[~seen.valid].any() and not seen.tags[~seen.valid].any()


@pytest.mark.parametrize("question", tasks.QUESTIONS)
def test_the_answer_is_the_tag_at_its_place_and_counts_only_where_a_digit_lies(question):
    seen = draw(question)
    assert torch.equal(seen.answer, seen.tags.gather(1, seen.place))
    assert seen.valid.gather(1, seen.place)[seen.answered].all()
    assert seen.answered.sum() == (seen.valid.sum() if question == "reading" else len(seen.tags))


def test_the_digit_asked_for_is_of_the_class_at_its_place_and_no_other_is():
    seen, side = draw("content"), examples("digits", "test")
    drawings = side.x[tasks.VIEW]
    asked = torch.stack([(drawings == x).all(1).nonzero()[0, 0] for x in seen.asked])
    classes = torch.where(seen.valid, side.y[seen.item], -1)
    same = classes == side.y[asked][:, None]
    assert same.sum(1).eq(1).all() and same.gather(1, seen.place).all()
    elsewhere = asked != seen.item.gather(1, seen.place)[:, 0]
    assert elsewhere.double().mean() > 0.9  # nearly always another drawing than the one in the row


def test_digits_are_real_ones_of_their_side_and_each_class_comes_once_in_ten():
    seen, side = draw("reading"), examples("digits", "test")
    assert torch.equal(seen.digits[seen.valid], side.x[tasks.VIEW][seen.item[seen.valid]])
    for row, valid in zip(side.y[seen.item], seen.valid, strict=True):
        assert len({*row[valid].tolist()}) == valid.sum()


def test_a_drawing_of_a_class_is_any_of_its_drawings():
    side = examples("digits", "test")
    item = tasks.draw_of(side, torch.arange(10).repeat(3000), torch.Generator().manual_seed(0))
    assert torch.equal(side.y[item], torch.arange(10).repeat(3000))
    assert {*item.tolist()} == {*range(len(side.y))}


def test_a_card_shows_its_own_digit_on_its_own_colour():
    seen, side = draw("reading", size=5), examples("digits", "test")
    pictures = tasks.cards(seen, 3, side)
    n = seen.valid[3].sum()
    assert pictures.shape == (n, 20, 19, 3) and pictures.dtype == np.uint8
    tags = seen.tags[3, :n]
    same = (pictures[:, None, 0, 0] == pictures[None, :, 0, 0]).all(2)  # corners: nothing but colour
    assert (torch.tensor(same) == (tags[:, None] == tags)).all()
    drawn = load_digits().views["pixels"][side.item[seen.item[3, 0]]].reshape(16, 15)
    assert ((pictures[0, 2:-2, 2:-2] == 255).all(2) == (drawn == 6)).all()


def test_places_are_equally_frequent():
    seen = draw("place", size=6000)
    of_five = seen.place[seen.valid.sum(1) == 5, 0].bincount(minlength=5).double()
    assert (of_five / of_five.sum() - 0.2).abs().max() < 0.05


def test_the_same_seed_draws_the_same_rows_and_another_others():
    one, same, other = draw("content"), draw("content"), draw("content", seed=1)
    assert torch.equal(one.digits, same.digits) and torch.equal(one.asked, same.asked)
    assert not torch.equal(one.tags, other.tags)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("meaning",), "question: expected one of content, place"),
        (("content", "longer"), "at most 10 digits"),
    ],
)
def test_what_cannot_be_asked_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(*arguments)


@pytest.mark.parametrize("row", recipe.ROWS)
def test_a_row_gives_its_figures(row):
    figures = recipe.run(row, 0)
    question = recipe.settings(row)["question"]
    suffixes = [""] if question == "content" else ["", ", longer"]
    for suffix in suffixes:
        assert figures.outcomes[f"accuracy{suffix}"].shape == (40,)
        has_weights = "one vector" not in row
        assert (f"weight{suffix}" in figures) == has_weights
    lengths = [n for n in range(5, 21) if f"accuracy, {n} digits" in figures]
    assert lengths[0] == 5 and (lengths[-1] == 20) == (len(suffixes) == 2)


@pytest.mark.parametrize("row", ["reading, hybrid", "content, one vector"])
def test_the_same_seed_gives_the_same_model_and_the_shuffled_control_another(row):
    one, same, control = (recipe.fit(row, 3, shuffle_pairs=s) for s in (False, False, True))
    first = [[*model.parameters()] for model in (one, same, control)]
    assert all(map(torch.equal, first[0], first[1]))
    assert not all(map(torch.equal, first[0], first[2]))


def test_what_a_row_says_reaches_its_model():
    assert recipe.fit("place, cosine, asked by a clock", 0).asked_by_clock
    assert recipe.fit("place, cosine, positions", 0).placed
    assert recipe.fit("content, one vector, asked first", 0).first is not None
    assert recipe.fit("content, dot, 128 wide", 0).attention.dim == 128
    large, usual = (recipe.build(recipe.settings(row)) for row in STARTS)
    assert large.digit[2].weight.std() > 3 * usual.digit[2].weight.std()


def test_shuffled_answers_are_refused_where_nothing_learns_from_them():
    with pytest.raises(ValueError, match="shuffle_pairs: expected a row that is trained on answers"):
        recipe.fit("content, LDA", 0, shuffle_pairs=True)


def test_an_unknown_row_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="expected one of content, mean"):
        recipe.run("content, telepathy", 0)


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("question", tasks.QUESTIONS)
def test_a_reader_s_weights_lie_on_real_digits_and_padding_has_no_influence(kind, question):
    seen = draw(question, size=20)
    model = models.Reader(kind, question, dim=8).eval()
    logits, weights = model(seen)
    assert torch.allclose(weights.sum(2), torch.ones(()), atol=1e-5)
    assert not weights[~seen.valid[:, None].expand_as(weights)].any()
    noisy = torch.where(seen.valid[..., None], seen.digits, torch.randn(seen.digits.shape))
    again, _ = model(replace(seen, digits=noisy))
    assert torch.allclose(again, logits, atol=1e-5)


def test_padding_has_no_influence_on_what_a_single_vector_holds():
    seen = draw("reading", size=20)
    model = models.OneVector("reading", dim=8).eval()
    noisy = torch.where(seen.valid[..., None], seen.digits, torch.randn(seen.digits.shape))
    again, _ = model(replace(seen, digits=noisy))
    assert torch.allclose(again, model(seen)[0], atol=1e-5)


def test_only_with_positions_does_an_additive_reader_see_the_order():
    seen = draw("reading", size=4)
    flipped = tasks.Rows(
        **{
            **vars(seen),
            "digits": seen.digits.flip(1),
            "tags": seen.tags.flip(1),
            "valid": seen.valid.flip(1),
        }
    )
    for placed in (False, True):
        torch.manual_seed(0)
        model = models.Reader("additive", "reading", dim=8, placed=placed).eval()
        same = torch.allclose(model(seen)[0][:, 0], model(flipped)[0][:, 0], atol=1e-5)
        assert same == (not placed)


def test_asked_by_a_clock_the_query_is_the_sinusoid_of_the_place_and_not_learnt():
    seen = draw("place", size=10)
    model = models.Reader("cosine", "place", dim=8, placed=True, asked_by_clock=True)
    assert torch.equal(model.query(seen), sinusoids(20, 8)[seen.asked])
    assert not model.query(seen).requires_grad


def test_a_start_makes_keys_and_queries_of_digits_larger_and_nothing_else():
    seen, readers = draw("content", size=10), []
    for start in (1.0, 3.0):
        torch.manual_seed(0)
        readers.append(models.Reader("dot", "content", dim=8, start=start))
    one, large = readers
    assert torch.allclose(large.query(seen), 3 * one.query(seen), atol=1e-5)
    assert torch.equal(large.head.weight, one.head.weight)


def test_a_vector_that_is_asked_first_reads_with_the_question_in_mind():
    """The state before the last card is the same for all questions only if the question comes last."""
    seen = draw("content", size=2)
    twice = replace(seen, **{name: getattr(seen, name)[[0, 0]] for name in ("digits", "tags", "valid")})
    for asked_first in (False, True):
        model, states = models.OneVector("content", dim=8, asked_first=asked_first), []
        model.read.register_forward_hook(lambda _, __, out, states=states: states.append(out[0]))
        model(twice)
        assert torch.equal(states[0][0], states[0][1]) == (not asked_first)


@pytest.mark.parametrize("name", baselines.NAMES)
def test_a_baseline_finds_a_digit_that_lies_in_the_row_as_it_is(name):
    """Asked with the very drawing, the nearest is the drawing itself."""
    seen = draw("content", size=50)
    exact = tasks.Rows(
        **{**vars(seen), "asked": seen.digits.gather(1, seen.place[..., None].expand(-1, -1, 64))[:, 0]}
    )
    logits, weights = baselines.fit(name)(exact)
    right = (logits.argmax(2) == exact.answer).double().mean()
    assert right == 1 if name == "nearest drawing" else right > 0.9
    assert (weights.sum(2) == 1).all() and not weights[:, 0][~seen.valid].any()


def test_an_unknown_baseline_is_an_error():
    with pytest.raises(ValueError, match="name: expected one of nearest drawing"):
        baselines.fit("oracle")


def test_a_reader_learns_to_look(monkeypatch):
    """In 150 steps the weight on the right digit leaves chance (about one in seven) far behind."""
    monkeypatch.setattr(recipe, "STEPS", {"cpu": 150})
    monkeypatch.setattr(recipe, "TESTED", 300)
    figures = recipe.run("place, location", 0)
    assert figures["weight"] > 0.5 and figures["accuracy"] > 0.5


def test_figures_are_means_over_rows_of_digits():
    figures = recipe.run("content, nearest drawing", 0)
    assert np.isclose(figures["accuracy"], figures.outcomes["accuracy"].mean())
