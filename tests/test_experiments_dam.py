"""Chapter 11's small cases, with tiny readers: each question is what it is called and has its answer."""

import pytest
import torch

from mmtutor.data import split
from mmtutor.experiments import dam as recipe
from mmtutor.experiments import dam_tasks as tasks
from mmtutor.experiments.attention_tasks import TAGS
from mmtutor.experiments.fusion_tasks import examples


def seed(n=0):
    return torch.Generator().manual_seed(n)


def drawn(name, size=200):
    return tasks.case(name, examples("digits", "test"), size, seed())


def classes(seen, m="upper", view="karhunen"):
    """Which digit each card has, found again by its numbers; -1 for a card without one."""
    side = examples("digits", "test")
    known = {tuple(x.tolist()): int(y) for x, y in zip(side.x[view], side.y, strict=True)}
    return [[known.get(tuple(x.tolist()), -1) for x in row] for row in seen.digits[m]]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two steps of a very small reader on few cards and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("MMTUTOR_SCALE", "cpu")
    monkeypatch.setattr(recipe, "STEPS", {"cpu": 2})
    monkeypatch.setattr(recipe, "TESTED", 24)
    monkeypatch.setattr(recipe, "DIM", 8)
    monkeypatch.setattr(recipe, "BATCH", 4)
    yield
    torch.set_num_threads(threads)


# Cases


def test_digits_of_the_test_are_not_those_that_are_learnt_from():
    assert not {*split("digits").train} & {*examples("digits", "test").item}


def test_a_partner_has_the_same_digit_drawn_by_another_and_its_colour_is_the_answer():
    seen = drawn("partner", 30)
    upper, lower = classes(seen), classes(seen, "lower", "fourier")
    for n in range(30):
        for place, digit in enumerate(lower[n]):
            above = upper[n].index(digit)
            assert seen.answer[n, place] == seen.tags["upper"][n, above]
    assert (seen.tags["lower"] == TAGS).all()


def test_either_question_has_its_answer_and_half_of_them_are_of_each_kind():
    seen = drawn("either", 400)
    upper, asked = classes(seen), classes(seen, "question")
    for n in range(400):
        if seen.kind[n]:
            place = int(seen.tags["question"][n, 0])
            assert asked[n] == [-1]
        else:
            place = upper[n].index(asked[n][0])
            assert seen.tags["question"][n, 0] == TAGS
        assert seen.answer[n, 0] == seen.tags["upper"][n, place]
    assert abs(seen.kind.double().mean() - 0.5) < 0.1


def test_one_row_of_a_page_has_a_zero_and_the_answer_lies_on_its_dark_card():
    seen = drawn("page", 60)
    cards = [a + b for a, b in zip(*(classes(seen, m) for m in tasks.PAGES), strict=True)]
    tags = torch.cat([seen.tags[m] for m in tasks.PAGES], 1)
    for digits, dark, answer in zip(cards, (tags == 0).tolist(), seen.answer[:, 0].tolist(), strict=True):
        rows = [slice(k, k + tasks.CARDS) for k in range(0, 16, tasks.CARDS)]
        assert digits.count(0) == 1 and all(sum(dark[row]) == 1 for row in rows)
        (row,) = (row for row in rows if 0 in digits[row])
        assert digits[row][dark[row].index(True)] == answer != 0


def test_recent_is_what_was_among_the_last_three_and_half_of_the_answers_are_yes():
    seen = drawn("recent", 300)
    lures, nos = 0, 0
    for n, row in enumerate(classes(seen)):
        for t in range(1, tasks.STEPS):
            assert seen.answer[n, t] == (row[t] in row[max(0, t - tasks.RECENT) : t])
            if t > tasks.RECENT and not seen.answer[n, t]:
                nos, lures = nos + 1, lures + (row[t] in row[: t - tasks.RECENT])
    assert not seen.answered[:, 0].any() and seen.answered[:, 1:].all()
    assert abs(seen.answer[:, 1:].double().mean() - 0.5) < 0.03
    assert lures / nos > 0.5


def test_latest_is_the_last_digit_on_a_colour_that_has_come_before_more_than_four_steps_ago():
    seen = drawn("latest", 200)
    again = 0
    for n, row in enumerate(classes(seen)):
        tags = seen.tags["upper"][n].tolist()
        assert row[-1] == -1
        places = [t for t, tag in enumerate(tags[:-1]) if tag == tags[-1]]
        assert row[places[-1]] == seen.answer[n, 0] and len(row) - 1 - places[-1] > 4
        again += len(places) > 1
    assert again > 150


def test_neighbours_are_alike_if_both_are_odd_or_both_even_and_one_of_them_tells_nothing():
    seen = drawn("neighbours", 500)
    odd = torch.tensor(classes(seen)) % 2
    inside = seen.answered[0]
    assert inside.tolist() == [False, *[True] * (tasks.STEPS - 2), False]
    assert torch.equal(seen.answer[:, 1:-1], (odd[:, :-2] != odd[:, 2:]).long())
    for known in (odd[:, :-2], odd[:, 2:]):
        share = seen.answer[:, 1:-1][known == 1].double().mean()
        assert abs(share - 0.5) < 0.03


def test_an_unknown_case_is_an_error():
    with pytest.raises(ValueError, match="case: expected one of partner, either, page"):
        tasks.case("smell", examples("digits", "test"), 2, seed())


# Readers


@pytest.mark.parametrize("row", recipe.ROWS)
def test_a_row_gives_its_figures(row):
    figures = recipe.run(row, 0)
    assert len(figures.outcomes["accuracy"]) == 24 and figures["parameters"] > 0
    assert ("accuracy, by place" in figures) == row.startswith("either")


@pytest.mark.parametrize("row", ["recent, short", "recent, long", "latest, GRU", "neighbours, forward"])
def test_a_reader_that_remembers_knows_nothing_of_what_comes(row):
    name, kind = row.split(", ")
    seen = drawn(name, 6)
    model = recipe.CardReader(name, kind, {"upper": 64}, 8).eval()
    before = model(seen)[0]
    seen.digits["upper"][:, 5:] = 0
    assert torch.equal(model(seen)[0][:, :5], before[:, :5])
    assert not torch.equal(model(seen)[0][:, 5:], before[:, 5:])


def test_a_backward_reader_knows_nothing_of_what_was():
    seen = drawn("neighbours", 6)
    model = recipe.CardReader("neighbours", "backward", {"upper": 64}, 8).eval()
    before = model(seen)[0]
    seen.digits["upper"][:, :5] = 0
    assert torch.equal(model(seen)[0][:, 5:], before[:, 5:])


def test_the_same_seed_gives_the_same_reader_and_the_shuffled_control_another():
    one, same, control = (recipe.fit("page, flat", 3, shuffle_pairs=s) for s in (False, False, True))
    first = [[*model.parameters()] for model in (one, same, control)]
    assert all(map(torch.equal, first[0], first[1]))
    assert not all(map(torch.equal, first[0], first[2]))


def test_an_unknown_row_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="row: expected one of partner, mean, partner, inter"):
        recipe.run("partner, luck", 0)
