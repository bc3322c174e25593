"""Balancing: each method against its equation, its limits, tasks without labels, bad input, and torchjd."""

import copy
import itertools
import math
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmtutor.balancing import (
    DynamicWeightAverage,
    FixedWeights,
    GradNorm,
    LossWeighting,
    MMoE,
    PCGrad,
    SoftmaxWeights,
    TaskAttention,
    UncertaintyWeighting,
    effective_experts,
    expert_load,
    load_balancing_loss,
    pcgrad,
)
from mmtutor.sharing import HardSharing, Head, task_gradients

SIZES = {"kind": (3, "classes"), "tags": (4, "labels"), "place": (2, "numbers")}
TASKS = list(SIZES)
NO_PEER = "the comparison needs torchjd, which is not installed (pip install torchjd)"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def heads(width: int = 6) -> dict[str, Head]:
    return {task: Head(width, *sizes).double() for task, sizes in SIZES.items()}


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def model() -> HardSharing:
    return HardSharing(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6)).double(), heads())


def batch(size: int = 12) -> tuple[Tensor, dict[str, Tensor]]:
    targets = {"kind": torch.randint(3, (size,)), "tags": torch.rand(size, 4) < 0.3, "place": randn(size, 2)}
    return randn(size, 5), targets


def losses_of(m: HardSharing, without: str | None = None) -> dict[str, Tensor]:
    x, targets = batch()
    valid = {without: torch.zeros(12, dtype=torch.bool)} if without else {}
    return m.losses(m(x), targets, valid)


METHODS = {
    "fixed": lambda m: FixedWeights(TASKS),
    "softmax": lambda m: SoftmaxWeights(TASKS),
    "average": lambda m: DynamicWeightAverage(TASKS, every=3),
    "uncertainty": lambda m: UncertaintyWeighting(TASKS),
    "gradnorm": lambda m: GradNorm(TASKS, m.trunk[-1].parameters()),
    "pcgrad": lambda m: PCGrad(TASKS, m, m.trunk.parameters(), torch.Generator().manual_seed(0)),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def descend(loss: Tensor, parameters: Iterable[nn.Parameter], rate: float = 0.1) -> None:
    """Take a step of plain gradient descent; what the loss does not depend on keeps no gradient."""
    parameters = list(parameters)
    for p in parameters:
        p.grad = None
    loss.backward()
    for p in parameters:
        if p.grad is not None:
            p.data -= rate * p.grad


def step(m: HardSharing, weighting: LossWeighting, losses: dict[str, Tensor]) -> None:
    """Descend once, in the weights of the network and those of the weighting."""
    descend(weighting(losses), [*m.parameters(), *weighting.parameters()])


def state(weighting: LossWeighting) -> dict[str, Tensor]:
    return copy.deepcopy(weighting.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all numbers are the same to the last bit; NaN is the same as NaN."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].nan_to_num(-99), other[name].nan_to_num(-99)) for name in one
    )


# Mixture of experts


def experts(count: int = 4) -> list[nn.Module]:
    return [nn.Sequential(nn.Linear(5, 6), nn.Tanh()).double() for _ in range(count)]


def test_a_point_is_the_loop_over_experts_weighted_by_the_softmax_of_the_gate():
    m, x = MMoE(experts(), heads(), inputs=5).double(), randn(3, 5)
    points, weights = m.attend(x)
    for task, i in itertools.product(TASKS, range(3)):
        scores = [math.exp(s) for s in m.gates[task](x[i]).tolist()]
        expected = sum(s / sum(scores) * expert(x[i]) for s, expert in zip(scores, m.experts, strict=True))
        assert torch.allclose(points[task][i], expected, rtol=1e-12)
        assert weights[task][i].tolist() == pytest.approx([s / sum(scores) for s in scores])
        assert torch.equal(m(x)[task], m.heads[task](points[task]))


def test_one_expert_is_hard_sharing():
    (expert,), q, x = experts(1), heads(), batch()[0]
    mixed = MMoE([expert], q, inputs=5).double()
    hard = HardSharing(expert, q)
    assert all(torch.equal(mixed(x)[task], hard(x)[task]) for task in TASKS)


def test_gates_open_to_an_expert_each_make_the_tasks_independent():
    m = MMoE(experts(3), heads(), inputs=5).double()
    for number, gate in enumerate(m.gates.values()):
        nn.init.zeros_(gate.weight)
        gate.bias.data = torch.where(torch.arange(3) == number, 0.0, -math.inf).double()
    x, targets = batch()
    losses = m.losses(m(x), targets)
    g = task_gradients(losses, m.experts.parameters()).reshape(3, 3, -1)
    for task, expert in itertools.product(range(3), range(3)):
        assert bool(g[task, expert].any()) == (task == expert)


def test_all_experts_gates_and_the_stem_are_trained_and_each_is_run_once():
    calls, stem = [], nn.Sequential(nn.Linear(8, 5), nn.Tanh())
    m = MMoE(experts(), heads(), inputs=5, stem=stem).double()
    for part in (m.stem, *m.experts):
        part.register_forward_hook(lambda *_: calls.append(1))
    targets = batch()[1]
    sum(m.losses(m(randn(12, 8)), targets).values()).backward()
    assert len(calls) == 1 + 4
    assert all(p.grad.abs().sum() > 0 for p in m.parameters())


def test_gates_see_a_picture_flattened():
    pictures = [nn.Sequential(nn.Flatten(), nn.Linear(27, 6)) for _ in range(2)]
    m = MMoE(pictures, {"kind": Head(6, 3)}, inputs=27)
    assert m.attend(torch.randn(4, 3, 3, 3))[1]["kind"].shape == (4, 2)


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (lambda: MMoE([], heads(), 5), None, "experts: expected at least one, found none"),
        (lambda: MMoE(experts(), {}, 5), None, "heads: expected at least one task, found none"),
        (
            lambda: MMoE(experts(), heads(), 4).double(),
            torch.zeros(2, 5).double(),
            r"inputs: expected 4 numbers an item, found shape \(2, 5\)",
        ),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused(make, x, message):
    with pytest.raises(ValueError, match=message):
        make()(x)


# The load of experts


def gates(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_the_load_is_each_tasks_mean_over_the_batch():
    load = expert_load({"a": gates([1, 0, 0], [0.2, 0.8, 0]), "b": gates([0, 0, 1], [0, 0.5, 0.5])})
    assert torch.allclose(load, gates([0.6, 0.4, 0], [0, 0.25, 0.75]))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_effective_experts_are_as_many_as_share_the_load_equally(count):
    load = torch.zeros(2, 5, dtype=torch.float64)
    load[:, :count] = 1 / count
    assert effective_experts(load).tolist() == pytest.approx([count, count])


def test_effective_experts_of_an_uneven_load_lie_between_one_and_all():
    load = torch.rand(100, 4).log().softmax(1)
    found = effective_experts(load)
    assert found.shape == (100,) and (found > 1).all() and (found < 4).all()


@given(seed=st.integers(0, 1000), tasks=st.integers(1, 3), experts=st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_the_balancing_loss_is_the_squared_coefficient_of_variation_of_the_load_of_all_tasks(
    seed, tasks, experts
):
    torch.manual_seed(seed)
    weights = {str(t): randn(6, experts).softmax(1) for t in range(tasks)}
    load = torch.cat([*weights.values()]).mean(0)
    expected = load.var(correction=0) / load.mean() ** 2
    assert load_balancing_loss(weights).item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)


def test_the_balancing_loss_is_largest_for_one_expert_and_zero_for_specialised_tasks():
    one, other, third = gates([1, 0, 0]), gates([0, 1, 0]), gates([0, 0, 1])
    assert load_balancing_loss({"a": one, "b": one, "c": one}).item() == pytest.approx(2)
    assert load_balancing_loss({"a": one, "b": other, "c": third}).item() == pytest.approx(0)


def test_descending_the_balancing_loss_mends_a_collapsed_load():
    m, x = MMoE(experts(3), heads(), inputs=5).double(), randn(50, 5)
    for gate in m.gates.values():
        gate.bias.data = torch.tensor([5.0, 0.0, 0.0], dtype=torch.float64)
    used = [effective_experts(expert_load(m.attend(x)[1]).mean(0)).item()]
    for _ in range(100):
        descend(load_balancing_loss(m.attend(x)[1]), m.gates.parameters(), rate=3.0)
    used.append(effective_experts(expert_load(m.attend(x)[1]).mean(0)).item())
    assert used[0] < 1.2 and used[1] > 2.9


@pytest.mark.parametrize(
    "weights", [{}, {"a": torch.ones(3)}, {"a": torch.ones(0, 2)}, {"a": gates([1, 0]), "b": gates([1])}]
)
def test_gates_of_other_shapes_have_no_load(weights):
    with pytest.raises(ValueError, match=r"weights: expected one shape \(B, E\) for all tasks, found"):
        expert_load(weights)


@pytest.mark.parametrize("load", [[0.5, 0.4], [1.5, -0.5], [math.nan, 1.0]])
def test_what_are_no_shares_have_no_effective_number(load):
    with pytest.raises(ValueError, match="load: expected shares that sum to 1, found sums"):
        effective_experts(torch.tensor(load))


# Masks


def masked() -> TaskAttention:
    """Three stages: a grid of 4 by 4, one of 2 by 2, and points."""
    trunk = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh()),
        nn.Sequential(nn.Conv2d(4, 5, 3, padding=1, stride=2), nn.Tanh()),
        nn.Sequential(nn.Flatten(), nn.Linear(20, 6)),
    )
    return TaskAttention(trunk, heads(), widths=[4, 5, 6]).double()


def fill(m: TaskAttention, task: str, bias: float) -> None:
    """Make all masks of a task say the same, whatever they see."""
    for mask in m.masks[task]:
        nn.init.zeros_(mask.weight)
        nn.init.constant_(mask.bias, bias)


def test_masks_and_points_are_the_loop_over_stages_and_places_of_their_equation():
    m, x = masked(), randn(2, 3, 4, 4)
    points, masks = m.attend(x)
    p1 = m.trunk[0](x)
    p2 = m.trunk[1](p1)
    p3 = m.trunk[2](p2)
    for task, i in itertools.product(TASKS, range(2)):
        V = [mask.weight[:, :, 0, 0] for mask in m.masks[task]]
        b = [mask.bias for mask in m.masks[task]]
        z1, z2 = torch.empty(4, 4, 4).double(), torch.empty(5, 2, 2).double()
        for h, w in itertools.product(range(4), range(4)):
            a = torch.sigmoid(V[0] @ p1[i, :, h, w] + b[0])
            assert torch.allclose(masks[task][0][i, :, h, w], a)
            z1[:, h, w] = a * p1[i, :, h, w]
        for h, w in itertools.product(range(2), range(2)):
            before = z1[:, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].mean((1, 2))
            a = torch.sigmoid(V[1] @ torch.cat([p2[i, :, h, w], before]) + b[1])
            assert torch.allclose(masks[task][1][i, :, h, w], a)
            z2[:, h, w] = a * p2[i, :, h, w]
        a = torch.sigmoid(V[2] @ torch.cat([p3[i], z2.mean((1, 2))]) + b[2])
        assert torch.allclose(masks[task][2][i].flatten(), a)
        assert torch.allclose(points[task][i], a * p3[i])
        assert torch.equal(m(x)[task], m.heads[task](points[task]))


def test_open_masks_are_hard_sharing_and_closed_ones_let_nothing_pass():
    m, x = masked(), randn(2, 3, 4, 4)
    for task, bias in zip(TASKS, (50.0, 50.0, -800.0), strict=True):
        fill(m, task, bias)
    hard = HardSharing(m.trunk, dict(m.heads))(x)
    found, points = m(x), m.features(x)
    assert torch.equal(found["kind"], hard["kind"]) and torch.equal(found["tags"], hard["tags"])
    assert not points["place"].any()
    g = task_gradients({task: z.square().sum() for task, z in points.items()}, m.trunk.parameters())
    assert g[0].any() and not g[2].any()


def test_a_mask_of_one_task_is_nothing_to_the_others_and_the_trunk_is_run_once():
    calls, m, x = [], masked(), randn(2, 3, 4, 4)
    m.trunk.register_forward_hook(lambda *_: calls.append("whole"))
    for stage in m.trunk:
        stage.register_forward_hook(lambda *_: calls.append("stage"))
    before = m(x)
    assert calls == ["stage"] * 3
    fill(m, "tags", 1.0)
    after = m(x)
    assert [torch.equal(before[task], after[task]) for task in TASKS] == [True, False, True]


def test_what_an_early_mask_lets_pass_is_seen_by_the_later_ones():
    """So early masks are trained, although the heads see the last stage only."""
    m = masked()
    sum(output.square().sum() for output in m(randn(2, 3, 4, 4)).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in m.parameters())


@pytest.mark.parametrize(
    ("trunk", "widths", "message"),
    [
        ([nn.Linear(5, 6)], [6, 6], "widths: expected one for each of 1 stages, found 2"),
        ([nn.Linear(5, 6)], [7], r"stage 0: expected shape \(B, 7\) or \(B, 7, H, W\), found \(2, 6\)"),
        (
            [nn.Linear(5, 6), nn.Unflatten(1, (6, 1))],
            [6, 6],
            r"stage 1: expected shape \(B, 6\) or \(B, 6, H, W\), found \(2, 6, 1\)",
        ),
    ],
)
def test_a_trunk_that_masks_do_not_fit_is_refused(trunk, widths, message):
    with pytest.raises(ValueError, match=message):
        TaskAttention(nn.Sequential(*trunk), heads(), widths)(torch.zeros(2, 5))


def test_a_trunk_without_stages_is_refused():
    with pytest.raises(TypeError, match="trunk: expected a Sequential of stages, found Linear"):
        TaskAttention(nn.Linear(5, 6), heads(), [6])


@pytest.mark.parametrize("m", [MMoE(experts(), heads(), 5).double(), model()], ids=["experts", "hard"])
def test_a_task_without_head_is_named(m):
    x, targets = batch()
    with pytest.raises(
        ValueError, match=r"targets: expected the tasks .*, found \['colour', 'kind', 'place'"
    ):
        m.losses(m(x), targets | {"colour": torch.zeros(12)})


# All weightings of losses


@every_method
def test_every_method_begins_with_the_plain_sum(make):
    m = model()
    weighting, losses = make(m), losses_of(m)
    assert weighting.weights() == pytest.approx(dict.fromkeys(TASKS, 1.0))
    assert weighting(losses).item() == pytest.approx(sum(losses.values()).item(), rel=1e-6)


@every_method
def test_losses_in_a_tensor_are_those_of_the_dict_in_the_order_of_the_tasks(make):
    ends = []
    for as_tensor in (False, True):
        torch.manual_seed(0)
        m = model()
        weighting = make(m)
        for _ in range(5):
            losses = losses_of(m)
            shuffled = {task: losses[task] for task in ("place", "kind", "tags")}
            step(m, weighting, torch.stack([losses[t] for t in TASKS]) if as_tensor else shuffled)
        ends.append({**state(m), **state(weighting)})
    assert same(*ends)


@every_method
@pytest.mark.parametrize("without", TASKS)
def test_a_task_without_labels_costs_nothing_and_changes_nothing(make, without):
    """Whether it is left out or its loss is zero: the others' gradients and all weights are the same."""
    ends, at = [], TASKS.index(without)
    for left_out in (False, True):
        torch.manual_seed(1)
        m, backward_passes = model(), []
        weighting = make(m)
        for _ in range(3):
            step(m, weighting, losses_of(m))
        before, losses = state(weighting), losses_of(m, without)
        losses[without].register_hook(backward_passes.append)
        if left_out:
            del losses[without]
        omega = weighting.weights()
        total = weighting(losses).item()
        counted = {task: 1 if isinstance(weighting, PCGrad) else omega[task] for task in losses}
        expected = sum(counted[task] * loss.item() for task, loss in losses.items())
        if isinstance(weighting, UncertaintyWeighting):
            expected += sum(0.5 * s for t, s in enumerate(weighting.log_var.tolist()) if t != at)
        assert total == pytest.approx(expected, rel=1e-6)
        weighting.load_state_dict(before)
        step(m, weighting, losses)
        assert not backward_passes and all(p.grad is None for p in m.heads[without].parameters())
        assert all(p.grad.any() for p in m.trunk.parameters())
        of_task = [{k: v[at] for k, v in s.items() if v.ndim} for s in (before, state(weighting))]
        assert of_task[0] and same(*of_task)
        ends.append({**state(m), **state(weighting)})
    assert same(*ends)


@every_method
def test_no_labels_at_all_are_refused(make):
    m = model()
    for losses in ({}, {"kind": torch.zeros(())}, torch.zeros(3)):
        with pytest.raises(ValueError, match=r"losses: expected one of \['kind', .* to have labels .* none"):
            make(m)(losses)


@every_method
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_loss_that_is_no_number_or_negative_is_named_and_changes_no_weight(make, value):
    m = model()
    weighting = make(m)
    before, losses = state(weighting), losses_of(m)
    losses["tags"] = losses["tags"] * 0 + value
    with pytest.raises(ValueError, match=f"tags: expected a finite loss of 0 or more, found {value}"):
        weighting(losses)
    assert same(before, state(weighting))


@every_method
@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"kind": torch.ones(()), "colour": torch.ones(())},
         r"losses: expected some of the tasks \['kind', 'tags', 'place'\], found \['colour', 'kind'\]"),
        ({"kind": torch.ones(2)}, r"kind: expected a scalar loss, found shape \(2,\)"),
        (torch.ones(2), r"losses: expected shape \(3,\), found \(2,\)"),
        (torch.ones(()), r"losses: expected shape \(3,\), found \(\)"),
    ],
    ids=["unknown", "not scalar", "too few", "one number"],
)  # fmt: skip
def test_losses_that_are_not_those_of_the_tasks_are_refused(make, losses, message):
    with pytest.raises(ValueError, match=message):
        make(model())(losses)


@pytest.mark.parametrize("tasks", [[], 0, ["a", "b", "a"]])
def test_tasks_must_be_given_once_each(tasks):
    with pytest.raises(ValueError, match="tasks: expected at least one, each once; found"):
        FixedWeights(tasks)


@every_method
def test_evaluation_changes_no_weight(make):
    m = model()
    weighting = make(m)
    for _ in range(3):
        step(m, weighting, losses_of(m))
    before, losses = state(weighting), losses_of(m)
    with torch.no_grad():
        first = [weighting(losses).item() for _ in range(3)]
    weighting.eval()
    second = [weighting(losses).item() for _ in range(3)]
    assert same(before, state(weighting)) and len(set(first + second)) == 1


@every_method
def test_a_weighting_goes_on_from_its_stored_state(make):
    ends = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        m = model()
        weighting = make(m)
        for number in range(7):
            if interrupted and number == 3:
                stored, weighting = state(weighting), make(m)
                weighting.load_state_dict(stored)
            if number == 3 and isinstance(weighting, PCGrad):
                weighting.generator.manual_seed(0)  # belongs to the caller, so it is not stored
            step(m, weighting, losses_of(m))
        ends.append({**state(m), **state(weighting)})
    assert same(*ends)


@every_method
def test_the_weights_of_the_network_are_not_those_of_the_weighting(make):
    m = model()
    weighting = make(m)
    mine = {id(p) for p in m.parameters()}
    assert not any(id(p) in mine for p in weighting.parameters())
    assert all(value.numel() <= len(TASKS) for value in weighting.state_dict().values())


# Fixed weights


def test_fixed_weights_weigh_losses_and_gradients_and_stay():
    m, omega = model(), {"kind": 0.5, "tags": 0.0, "place": 3.0}
    weighting, losses = FixedWeights(TASKS, omega), losses_of(m)
    g = task_gradients(losses, m.trunk.parameters())
    (total,) = task_gradients({"total": weighting(losses)}, m.trunk.parameters())
    assert torch.allclose(total, 0.5 * g[0] + 3 * g[2])
    assert weighting.weights() == omega


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (-1.0, r"weights: expected 0 or more, found \{'kind': -1.0"),
        ({"kind": 1.0, "tags": 1.0, "place": -0.5}, "weights: expected 0 or more, found .*'place': -0.5"),
        (math.nan, "weights of kind: expected a finite number, found nan"),
        ({"kind": 1.0, "tags": math.inf, "place": 1.0}, "weights of tags: expected a finite number"),
        ({"kind": 1.0}, r"weights: expected the tasks \['kind', 'tags', 'place'\], found \['kind'\]"),
        ({**dict.fromkeys(TASKS, 1.0), "colour": 1.0}, r"weights: expected the tasks .*found \['colour'"),
    ],
)  # fmt: skip
def test_a_weight_below_zero_or_of_no_task_is_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        FixedWeights(TASKS, weights)


# Softmax weights


@given(seed=st.integers(0, 1000), count=st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_the_gradient_of_a_softmax_weight_is_its_loss_above_the_weighted_mean(seed, count):
    torch.manual_seed(seed)
    weighting, L = SoftmaxWeights(count).double(), 0.1 + randn(count).abs()
    nn.init.normal_(weighting.scores)
    weighting(L).backward()
    p = weighting.scores.detach().exp() / weighting.scores.detach().exp().sum()
    expected = [count * p[t] * (L[t] - sum(p[u] * L[u] for u in range(count))) for t in range(count)]
    assert torch.allclose(weighting.scores.grad, torch.stack(expected))
    assert sum(weighting.weights().values()) == pytest.approx(count)


def test_learnt_softmax_weights_collapse_onto_the_easiest_task_which_is_then_all_that_is_learnt():
    """Two tasks pull one weight to different places; the noise of the hard one cannot be explained."""
    w = nn.Parameter(torch.tensor(0.0))
    weighting = SoftmaxWeights(["hard", "easy"])
    shares = []
    for _ in range(200):
        total = weighting({"hard": (w - 1) ** 2 + 2, "easy": (w + 1) ** 2 + 0.1})
        descend(total, [w, *weighting.parameters()])
        shares.append(weighting.weights()["easy"] / 2)
    assert all(b > a - 1e-6 for a, b in itertools.pairwise(shares)) and shares[-1] > 0.99
    assert w.item() == pytest.approx(-1, abs=0.02)


# Dynamic weight average


def average_by_loop(epochs: list[list[float]], temperature: float) -> list[float]:
    """The weights after these mean losses of all epochs, ``epochs[n][t]``."""
    if len(epochs) < 2:
        return [1.0] * len(epochs[0])
    r = [now / before for now, before in zip(epochs[-1], epochs[-2], strict=True)]
    powers = [math.exp(x / temperature) for x in r]
    return [len(r) * x / sum(powers) for x in powers]


@pytest.mark.parametrize(("every", "temperature"), [(1, 2.0), (3, 0.5)])
def test_average_weights_are_the_softmax_of_the_ratio_of_the_last_two_epochs(every, temperature):
    weighting = DynamicWeightAverage(3, every, temperature).double()
    L = 0.1 + torch.rand(5 * every, 3, dtype=torch.float64)
    for n in range(5):
        for row in L[n * every : (n + 1) * every]:
            weighting(row)
        epochs = L.reshape(5, every, 3).mean(1)[: n + 1].tolist()
        assert [*weighting.weights().values()] == pytest.approx(average_by_loop(epochs, temperature))


def test_average_weights_do_not_depend_on_the_units_of_a_task():
    one, other = DynamicWeightAverage(2, 2), DynamicWeightAverage(2, 2)
    for row in 0.1 + torch.rand(8, 2):
        one(row), other(row * torch.tensor([1000.0, 1.0]))
    found = one.weights()
    assert found["0"] != pytest.approx(1.0, abs=1e-3) and other.weights() == pytest.approx(found, rel=1e-5)


def test_an_average_is_taken_over_the_batches_that_have_labels_and_a_ratio_waits_for_the_next():
    weighting = DynamicWeightAverage(["a", "b"], every=2, temperature=1.0)
    ratios = []
    for a, b in [(4, 1), (None, 1), (1, 1), (3, 1), (None, 1), (None, 1), (6, 2), (None, 2)]:
        losses = {"a": a, "b": b}
        weighting({task: torch.tensor(float(loss)) for task, loss in losses.items() if loss is not None})
        ratios.append(weighting.ratio.tolist())
    assert ratios[1::2] == [[1, 1], [0.5, 1], [0.5, 1], [3, 2]]  # a: 4, 2, none, 6, so 2/4, then 6/2


# Uncertainty weighting


@pytest.mark.parametrize("d", [1, 3])
def test_uncertainty_weighting_is_the_gaussian_likelihood_of_torch_but_for_a_constant(d):
    y, mean = randn(8, d), randn(8, d).requires_grad_()
    found = []
    for s in (-1.0, 0.0, 0.7):
        weighting = UncertaintyWeighting(["place"], factor=d / 2, log_var=s).double()
        half = (y - mean).square().sum(1).mean() / 2
        ours = weighting({"place": half})
        normal = torch.distributions.Normal(mean, (weighting.log_var / 2).exp())
        theirs = -normal.log_prob(y).sum(1).mean()
        wanted = [mean, weighting.log_var]
        for a, b in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted), strict=True):
            assert torch.allclose(a, b)
        found.append((theirs - ours).item())
    assert found == pytest.approx([d / 2 * math.log(2 * math.pi)] * 3)


def test_a_mean_of_squares_with_factor_one_is_the_same_likelihood_divided_by_half_the_numbers():
    errors, weightings = randn(8, 4).square(), []
    for factor, loss in ((2.0, errors.sum(1).mean() / 2), (1.0, errors.mean())):
        weighting = UncertaintyWeighting(["place"], factor, log_var=0.4).double()
        weighting({"place": loss}).backward()
        weightings.append(weighting)
    assert torch.allclose(weightings[0].log_var.grad, 2 * weightings[1].log_var.grad)


def test_for_classes_it_is_the_cross_entropy_at_variance_one_and_near_the_tempered_one_beside_it():
    q, y = randn(200, 5), torch.randint(5, (200,))
    gaps = {}
    for s in (0.0, 0.1, 1.0):
        weighting = UncertaintyWeighting(["kind"], log_var=s).double()
        tempered = F.cross_entropy(q / math.exp(s), y)
        gaps[s] = abs(weighting({"kind": F.cross_entropy(q, y)}).item() - tempered.item())
    assert gaps[0.0] < 1e-12 < gaps[0.1] < 0.1 < gaps[1.0]


def test_weights_settle_where_every_task_contributes_its_factor():
    L, b = {"a": 0.1, "b": 5.0, "c": 20.0}, {"a": 0.5, "b": 2.0, "c": 1.0}
    weighting = UncertaintyWeighting(L, b)
    for _ in range(200):
        total = weighting({task: torch.tensor(loss) for task, loss in L.items()})
        descend(total, weighting.parameters())
    assert weighting.weights() == pytest.approx({task: b[task] / L[task] for task in L}, rel=1e-3)


def test_uncertainty_starts_where_it_is_told():
    weighting = UncertaintyWeighting(2, log_var={"0": 1.0, "1": -2.0})
    assert weighting.log_var.tolist() == [1, -2]
    assert weighting.weights() == pytest.approx({"0": math.exp(-1), "1": math.exp(2)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 0.0}, "factor: expected positive numbers, found"),
        ({"factor": {"a": 0.5, "b": -0.5}}, r"factor: expected positive numbers, found \[0.5, -0.5\]"),
        ({"factor": {"a": 0.5}}, r"factor: expected the tasks \['a', 'b'\], found \['a'\]"),
        ({"log_var": math.inf}, "log_var of a: expected a finite number, found inf"),
        ({"log_var": {"a": 0.0, "c": 0.0}}, r"log_var: expected the tasks \['a', 'b'\], found \['a', 'c'\]"),
    ],
)
def test_uncertainties_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UncertaintyWeighting(["a", "b"], **arguments)


# GradNorm


def test_a_step_of_gradnorm_descends_the_gradient_of_its_equation():
    """Found here by differentiating twice, as the paper writes it; only the ratios of the weights count."""
    m = model()
    shared, alpha, rate = list(m.trunk[-1].parameters()), 0.7, 0.05
    weighting = GradNorm(TASKS, shared, alpha, rate)
    first = None
    for _ in range(4):
        losses = losses_of(m)
        L = torch.stack([losses[task] for task in TASKS])
        first = L.detach() if first is None else first
        log_omega = weighting.omega.log().double().requires_grad_()
        G = []
        for t in range(3):
            g = torch.autograd.grad(log_omega[t].exp() * L[t], shared, retain_graph=True, create_graph=True)
            G.append(sum(p.square().sum() for p in g).sqrt())
        r = (L / first / (L / first).mean()).detach()
        mean = (sum(G) / 3).detach()
        E = sum((G[t] - mean * r[t] ** alpha).abs() for t in range(3))
        (gradient,) = torch.autograd.grad(E, log_omega, retain_graph=True)
        expected = (log_omega - rate * gradient / mean).detach()
        step(m, weighting, losses)
        found = weighting.omega.double().log()
        assert torch.allclose(found - found.mean(), expected - expected.mean(), atol=1e-6)
        assert weighting.omega.sum().item() == pytest.approx(3)


def test_gradnorm_makes_the_gradients_of_all_tasks_equally_long():
    m = model()
    scales = torch.tensor([100.0, 1.0, 0.1])
    weighting = GradNorm(TASKS, m.trunk.parameters(), alpha=0.0, rate=0.05)
    losses = {task: k * loss for k, (task, loss) in zip(scales, losses_of(m).items(), strict=True)}
    norms = task_gradients(losses, m.trunk.parameters()).norm(dim=1)
    assert norms.max() / norms.min() > 50
    for _ in range(200):
        weighting(losses)
    G = norms * weighting.omega
    assert G.max() / G.min() < 1.11  # a step is 5 % up or down


def test_gradnorm_gives_more_to_a_task_that_lags_behind():
    w = nn.Parameter(torch.ones(2))
    for alpha, more in ((0.0, False), (1.5, True)):
        weighting = GradNorm(["falls", "stuck"], [w], alpha)
        for falling in (1.0, *[0.5] * 30):
            weighting({"falls": w[0] - 1 + falling, "stuck": w[1]})
        assert (weighting.weights()["stuck"] > 1.2) == more


def test_the_loss_that_gradnorm_returns_has_the_weights_before_the_step():
    m = model()
    weighting, losses = GradNorm(TASKS, m.trunk.parameters(), rate=0.5), losses_of(m)
    g = task_gradients(losses, m.trunk.parameters())
    (total,) = task_gradients({"total": weighting(losses)}, m.trunk.parameters())
    assert torch.allclose(total, g.sum(0)) and not torch.allclose(weighting.omega, torch.ones(3))


def test_gradnorm_divides_among_the_tasks_with_labels_what_these_had():
    m = model()
    weighting = GradNorm(TASKS, m.trunk.parameters(), rate=0.2)
    weighting(losses_of(m))
    before = weighting.weights()
    weighting(losses_of(m, without="kind"))
    after = weighting.weights()
    assert before["kind"] != pytest.approx(1, abs=0.01) and after["kind"] == before["kind"]
    assert after["tags"] != before["tags"] and sum(after.values()) == pytest.approx(3)


def test_gradnorm_survives_a_batch_in_which_nothing_has_a_gradient():
    w = nn.Parameter(torch.zeros(2))
    weighting = GradNorm(2, [w])
    weighting(1 + w.square())
    assert weighting.omega.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "alpha: expected a finite number of 0 or more, found -1.0"),
        ({"alpha": math.inf}, "alpha: expected a finite number of 0 or more, found inf"),
        ({"rate": 0.0}, "rate: expected a positive number, found 0.0"),
        ({"shared": []}, "shared: expected weights that are trained, found none"),
        ({"shared": [nn.Parameter(torch.ones(1), requires_grad=False)]}, "shared: expected weights that are"),
    ],
)
def test_a_gradnorm_without_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradNorm(**{"tasks": 2, "shared": [nn.Parameter(torch.ones(1))], **arguments})


@pytest.mark.parametrize("arguments", [{"every": 0}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_an_average_over_nothing_or_a_temperature_of_zero_is_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name}: expected a positive number, found"):
        DynamicWeightAverage(2, **arguments)


@pytest.mark.parametrize("name", ["gradnorm", "pcgrad"])
def test_a_gradient_that_is_not_finite_or_missing_is_named(name):
    """The root of zero: a loss of 1, whose gradient is infinite."""
    w = nn.Parameter(torch.zeros(2))
    make = {
        "gradnorm": lambda: GradNorm(["a", "b"], [w]),
        "pcgrad": lambda: PCGrad(["a", "b"], nn.Module(), [w]),
    }
    with pytest.raises(ValueError, match="b: expected a finite gradient, found one of length inf"):
        make[name]()({"a": 1 + w.sum(), "b": 1 + w.sum().sqrt()})
    with pytest.raises(ValueError, match="b: expected a scalar loss that has a gradient"):
        make[name]()({"a": 1 + w.sum(), "b": (1 + w.sum()).detach()})


# PCGrad


def surgery_by_loop(g: Tensor, orders: list[list[int]]) -> Tensor:
    """Algorithm 1 of the paper, vector by vector."""
    result = torch.zeros_like(g[0])
    for i, order in enumerate(orders):
        own = g[i].clone()
        for j in order:
            if j != i and own @ g[j] < 0:
                own = own - (own @ g[j]) / (g[j] @ g[j]) * g[j]
        result = result + own
    return result


@given(seed=st.integers(0, 10_000), tasks=st.integers(1, 12), width=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_the_result_is_that_of_the_loop_over_vectors(seed, tasks, width):
    torch.manual_seed(seed)
    g = randn(tasks, width)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(tasks, generator=generator).tolist() for _ in range(tasks)]
    found = pcgrad(g, torch.Generator().manual_seed(seed))
    assert torch.allclose(found, surgery_by_loop(g, orders), atol=1e-9)


@given(seed=st.integers(0, 10_000), width=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_for_two_tasks_the_result_is_in_conflict_with_neither(seed, width):
    torch.manual_seed(seed)
    g = randn(2, width) * torch.tensor([[1.0], [100.0]])
    assert (g @ pcgrad(g) >= -1e-9).all()
    if g[0] @ g[1] >= 0:
        assert torch.equal(pcgrad(g), g.sum(0))


def test_a_plain_sum_may_be_in_conflict_where_the_result_is_not():
    g = torch.tensor([[1.0, 0.0], [-5.0, 1.0]])
    assert (g @ g.sum(0))[0] < 0 and (g @ pcgrad(g) >= 0).all()


def test_of_opposite_gradients_nothing_is_left():
    assert pcgrad(torch.tensor([[1.0, 2.0], [-3.0, -6.0]])).abs().max() < 1e-6


def test_no_gradient_flows_through_the_surgery():
    g = torch.tensor([[1.0, 0.0], [-5.0, 1.0]], requires_grad=True)
    assert not pcgrad(g).requires_grad


def test_a_row_of_zeros_changes_nothing():
    g = randn(2, 5)
    g[1] -= 3 * g[0]
    with_zeros = torch.stack([g[0], torch.zeros(5, dtype=torch.float64), g[1]])
    assert not torch.allclose(pcgrad(g), g.sum(0)) and torch.allclose(pcgrad(with_zeros), pcgrad(g))
    assert torch.equal(pcgrad(torch.zeros(3, 4)), torch.zeros(4))


def test_gradients_too_small_to_be_squared_do_not_make_the_result_large():
    g = torch.tensor([[1.0, 0.0], [-1e-30, 0.0]])
    assert torch.equal(pcgrad(g), torch.tensor([1.0, 0.0]))


def test_the_generator_decides_the_order_and_the_order_counts():
    g = torch.tensor([[1.0, 0.0], [-1.0, 0.2], [-0.2, -1.0], [0.3, 1.0]])
    found = [pcgrad(g, torch.Generator().manual_seed(seed)) for seed in (*range(20), *range(20))]
    assert all(torch.equal(a, b) for a, b in zip(found[:20], found[20:], strict=True))
    assert len({tuple(x.tolist()) for x in found}) > 1


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        (torch.ones(3), r"gradients: expected shape \(T, P\), found \(3,\)"),
        (torch.ones(0, 3), r"gradients: expected shape \(T, P\), found \(0, 3\)"),
        (
            torch.tensor([[1.0], [math.nan], [math.inf]]),
            "gradients, row 1: expected a finite gradient, found one of length nan",
        ),
    ],
)
def test_what_are_no_gradients_is_refused(gradients, message):
    with pytest.raises(ValueError, match=message):
        pcgrad(gradients)


def against(m: HardSharing) -> dict[str, Tensor]:
    """Losses in conflict: two tasks pull the same numbers to opposite sides."""
    losses = losses_of(m)
    return losses | {"tags": (3 - losses["kind"]).relu() + losses["tags"]}


def test_the_shared_weights_get_the_surgery_and_the_heads_their_own_gradient():
    m = model()
    losses = against(m)
    g = task_gradients(losses, m.trunk.parameters())
    own = torch.autograd.grad(sum(losses.values()), list(m.heads.parameters()), retain_graph=True)
    expected = pcgrad(g, torch.Generator().manual_seed(0))
    weighting = METHODS["pcgrad"](m)
    total = weighting(losses)
    assert total.item() == pytest.approx(sum(losses.values()).item())
    assert all(p.grad is None for p in m.parameters())
    (2 * total).backward()
    found = torch.cat([p.grad.flatten() for p in m.trunk.parameters()])
    assert torch.allclose(found, 2 * expected) and not torch.allclose(found, 2 * g.sum(0))
    assert all(torch.allclose(p.grad, 2 * q) for p, q in zip(m.heads.parameters(), own, strict=True))
    omega = weighting.omega.double()
    assert (omega > 1).any() and torch.allclose(omega @ g, expected, atol=1e-6)


def test_a_shared_weight_may_be_a_single_number_and_a_task_may_not_need_all():
    a, b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.ones(2, 2))
    PCGrad(["s", "t"], nn.ParameterList([a, b]), [a, b])({"s": 3 * a, "t": b.sum() - a}).backward()
    expected = pcgrad(torch.tensor([[3.0, 0, 0, 0, 0], [-1.0, 1, 1, 1, 1]]))
    assert torch.allclose(torch.cat([a.grad[None], b.grad.flatten()]), expected)


def test_frozen_weights_get_no_gradient_and_the_losses_may_still_be_used():
    m = model()
    m.trunk[0].requires_grad_(False)
    losses = against(m)
    PCGrad(TASKS, m, m.trunk.parameters())(losses).backward()
    assert all(p.grad is None for p in m.trunk[0].parameters())
    assert all(p.grad is not None for p in m.trunk[2].parameters())
    sum(losses.values()).backward()  # the graph is still there


# Beside torchjd


@pytest.mark.parametrize("tasks", [2, 3, 5, 16])
def test_one_step_of_pcgrad_is_that_of_torchjd(tasks):
    aggregation = pytest.importorskip("torchjd.aggregation", reason=NO_PEER)
    for seed in range(20):
        torch.manual_seed(seed)
        g = torch.randn(tasks, 10)
        g /= g.norm()
        torch.manual_seed(seed)
        theirs = aggregation.PCGrad()(g)
        torch.manual_seed(seed)
        assert torch.allclose(pcgrad(g), theirs, rtol=0, atol=1e-6)


def test_a_training_step_with_pcgrad_is_that_of_torchjd():
    aggregation = pytest.importorskip("torchjd.aggregation", reason=NO_PEER)
    autojac = pytest.importorskip("torchjd.autojac", reason=NO_PEER)
    x, targets = batch()
    mine = model()
    theirs = copy.deepcopy(mine)
    torch.manual_seed(3)
    PCGrad(TASKS, mine, mine.trunk.parameters())(mine.losses(mine(x), targets)).backward()
    torch.manual_seed(3)
    z = theirs.trunk(x)
    outputs = {task: head(z) for task, head in theirs.heads.items()}
    autojac.mtl_backward(list(theirs.losses(outputs, targets).values()), z)
    autojac.jac_to_grad(theirs.trunk.parameters(), aggregation.PCGrad())
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=0, atol=1e-6)


def test_uncertainty_and_average_weights_are_those_of_torchjd():
    """Theirs halves the losses, and is told where an epoch ends."""
    peer = pytest.importorskip("torchjd.scalarization", reason=NO_PEER)
    ours, theirs = UncertaintyWeighting(3), peer.UW(3)
    for weighting in (ours, theirs):
        weighting.log_var.data = torch.tensor([0.3, -1.0, 2.0])
    L = 0.1 + torch.rand(3)
    assert torch.allclose(ours(L / 2), theirs(L))
    ours, theirs = DynamicWeightAverage(3, every=4), peer.DWA()
    for number, L in enumerate(0.1 + torch.rand(16, 3)):
        assert torch.allclose(ours(L), theirs(L))
        if number % 4 == 3:
            theirs.step()
