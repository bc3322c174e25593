"""Sharing: what each way of it tends to at its limits, what a missing label does, what gradients say."""

import ast
import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmtutor import sharing
from mmtutor.sharing import (
    CrossStitch,
    CrossStitchUnit,
    HardSharing,
    Head,
    MultiTask,
    SoftSharing,
    gradient_cosines,
    matching_width,
    multi_task_gain,
    parameter_count,
    resnet_trunk,
    soft_sharing_penalty,
    task_gradients,
    weight_distance,
)

SIZES = {"kind": (3, "classes"), "tags": (4, "labels"), "place": (2, "numbers")}
RATE = 0.05


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def trunk() -> nn.Sequential:
    """A perceptron of three stages, one of them with a batch normalisation, in double precision."""
    first = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.GELU())
    return nn.Sequential(first, nn.Sequential(nn.Linear(7, 7), nn.Tanh()), nn.Linear(7, 6)).double()


def heads() -> dict[str, Head]:
    return {task: Head(6, *sizes).double() for task, sizes in SIZES.items()}


def batch(size: int = 12) -> tuple[Tensor, dict[str, Tensor]]:
    x = torch.randn(size, 5, dtype=torch.float64)
    targets = {"kind": torch.randint(3, (size,)), "tags": torch.rand(size, 4) < 0.3}
    return x, targets | {"place": torch.randn(size, 2, dtype=torch.float64)}


def descend(model: MultiTask, steps: int = 6, *, trunk_rate: float = RATE, after=None, penalty=None):
    """Plain gradient descent on the sum of the losses, with the same batches for every model."""
    own = list(model.heads.parameters())
    rest = [p for p in model.parameters() if p.requires_grad and all(p is not q for q in own)]
    groups = [{"params": own, "lr": RATE}, {"params": rest, "lr": trunk_rate}]
    optimiser, state = torch.optim.SGD(groups), torch.get_rng_state()
    torch.manual_seed(1)
    for _ in range(steps):
        x, targets = batch()
        losses = model.losses(model(x), {task: targets[task] for task in model.heads})
        optimiser.zero_grad()
        (sum(losses.values()) + (penalty() if penalty else 0)).backward()
        optimiser.step()
        if after:
            after()
    torch.set_rng_state(state)
    return model


def alone(task: str, trunk: nn.Module, head: Head) -> HardSharing:
    """A network for one task, trained by itself."""
    return descend(HardSharing(copy.deepcopy(trunk), {task: copy.deepcopy(head)}))


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether all weights and running averages are the same to the last bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(one: nn.Module, other: nn.Module, **tolerance) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], **tolerance) for name in a)


# The trunk for pictures


def test_the_residual_trunk_maps_pictures_to_points_through_torchvisions_blocks():
    from torchvision.models.resnet import BasicBlock

    network = resnet_trunk(dim=10, width=4)
    assert [type(stage) is BasicBlock for stage in network] == [False, True, True, True, False]
    x, grids = torch.randn(3, 3, 32, 32), []
    for stage in network:
        x = stage(x)
        grids.append(tuple(x.shape[1:]))
    assert grids == [(4, 16, 16), (4, 16, 16), (8, 8, 8), (16, 4, 4), (10,)]


def test_every_weight_of_the_residual_trunk_is_trained_and_a_single_picture_will_do():
    network = resnet_trunk(dim=5, width=4)
    network(torch.randn(1, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 32, 32, 3), (2, 3, 64, 64)])
def test_the_residual_trunk_refuses_what_is_no_batch_of_small_pictures(shape):
    model = HardSharing(resnet_trunk(dim=4, width=2), {"kind": Head(4, 3)})
    with pytest.raises(ValueError, match=r"pictures: expected shape \(B, 3, 32, 32\), found"):
        model(torch.zeros(shape))


def test_the_residual_trunk_refuses_stored_bytes():
    with pytest.raises(TypeError, match="pictures: expected floats, found torch.uint8; see encoders.pixels"):
        resnet_trunk(dim=4, width=2)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_the_module_imports_torchvision_only_where_it_is_used():
    tree = ast.parse(Path(sharing.__file__).read_text(encoding="utf-8"))
    top = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    inside = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any("torchvision" in line for line in top) and any("torchvision" in line for line in inside)


# Heads and missing labels


def loss_by_loop(kind: str, output: Tensor, target: Tensor, valid: Tensor) -> float:
    """The mean over the items with a target, written from the equations one number at a time."""
    terms = []
    for q, y, known in zip(output.tolist(), target.tolist(), valid.tolist(), strict=True):
        if known and kind == "classes":
            terms.append(-math.log(math.exp(q[y]) / sum(math.exp(score) for score in q)))
        elif known and kind == "labels":
            terms.append(
                sum(math.log(1 + math.exp(-(2 * b - 1) * a)) for a, b in zip(q, y, strict=True)) / len(q)
            )
        elif known:
            terms.append(sum((a - b) ** 2 for a, b in zip(q, y, strict=True)) / len(q))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("task", SIZES)
def test_each_loss_is_the_mean_over_the_items_that_have_a_target(task):
    head, target = heads()[task], batch()[1][task]
    output = head(torch.randn(12, 6, dtype=torch.float64))
    valid = torch.rand(12) < 0.5
    assert 0 < valid.sum() < 12
    expected = loss_by_loop(head.kind, output, target, valid)
    assert head.loss(output, target, valid).item() == pytest.approx(expected, rel=1e-12)
    expected = loss_by_loop(head.kind, output, target, torch.ones(12))
    assert head.loss(output, target).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("task", SIZES)
@pytest.mark.parametrize("count", [12, 0])
def test_no_label_in_the_batch_is_a_loss_of_zero_with_gradient_zero(task, count):
    head, target = heads()[task], batch(count)[1][task]
    z = torch.randn(count, 6, dtype=torch.float64, requires_grad=True)
    loss = head.loss(head(z), target, torch.zeros(count, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in (z, head.weight, head.bias))


@pytest.mark.parametrize(("task", "missing"), [("kind", -1), ("kind", 99), ("place", math.nan)])
def test_what_stands_in_place_of_a_missing_label_has_no_influence(task, missing):
    head, target = heads()[task], batch()[1][task]
    z, valid = torch.randn(12, 6, dtype=torch.float64), torch.arange(12) % 3 > 0
    gradients = []
    for stand_in in (target, target.clone()):
        if gradients:
            stand_in[~valid] = missing
        gradients.append(torch.autograd.grad(head.loss(head(z), stand_in, valid), head.weight)[0])
    assert gradients[0].abs().sum() > 0 and torch.equal(*gradients)


@pytest.mark.parametrize("task", SIZES)
def test_an_item_without_label_gets_no_gradient_even_if_its_output_is_not_finite(task):
    head, target = heads()[task], batch()[1][task]
    output = torch.randn(12, head.out_features, dtype=torch.float64)
    output[5] = math.nan
    valid = torch.arange(12) != 5
    loss = head.loss(output.requires_grad_(), target, valid)
    loss.backward()
    assert loss.isfinite() and not output.grad[5].any() and output.grad[valid].any(1).all()


@pytest.mark.parametrize(
    ("task", "target", "valid", "error", "message"),
    [
        ("kind", torch.zeros(4), None, TypeError, "kind: expected int64 for classes, found torch.float32"),
        ("kind", torch.tensor([0, 1, 2, 3]), None, ValueError, "classes 0 to 2 where valid, found 0 to 3"),
        ("kind", torch.tensor([0, 1, 2, -1]), None, ValueError, "classes 0 to 2 where valid, found -1 to 2"),
        ("kind", torch.zeros(4, 1).long(), None, ValueError, r"expected shape \(4,\), found \(4, 1\)"),
        ("tags", torch.zeros(4, 4), None, TypeError, "tags: expected bool for labels, found torch.float32"),
        ("tags", torch.zeros(4).bool(), None, ValueError, r"expected shape \(4, 4\), found \(4,\)"),
        ("place", torch.zeros(4, 2).long(), None, TypeError, "floats for numbers, found torch.int64"),
        ("place", torch.full((4, 2), math.nan), None, ValueError, "expected finite numbers where valid"),
        ("place", torch.full((4, 2), math.inf), None, ValueError, "expected finite numbers where valid"),
        ("place", torch.zeros(4), None, ValueError, r"expected shape \(4, 2\), found \(4,\)"),
        ("place", torch.zeros(4, 1), None, ValueError, r"expected shape \(4, 2\), found \(4, 1\)"),
        ("place", torch.zeros(4, 2), torch.ones(4), ValueError, r"valid of place: expected bool of shape"),
        ("place", torch.zeros(4, 2), torch.ones(4, 2).bool(), ValueError, r"torch.bool of shape \(4, 2\)"),
    ],
)  # fmt: skip
def test_a_target_that_does_not_fit_is_named_with_what_was_expected(task, target, valid, error, message):
    head = heads()[task].float()
    with pytest.raises(error, match=message):
        head.loss(torch.zeros(4, head.out_features), target, valid, name=task)


def test_an_output_of_another_width_is_refused_rather_than_broadcast():
    with pytest.raises(ValueError, match=r"output of target: expected shape \(B, 2\), found \(4, 1\)"):
        Head(6, 2, "numbers").loss(torch.zeros(4, 1), torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((6, 3, "sets"), "kind: expected one of classes, labels, numbers; found 'sets'"),
        ((6, 1), "size: expected at least 2 for classes, found 1"),
        ((6, 0, "labels"), "size: expected at least 1 for labels, found 0"),
    ],
)
def test_a_head_without_anything_to_answer_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Head(*arguments)


@pytest.mark.parametrize("shape", [(4, 5), (4, 6, 2, 2), (6,)])
def test_points_of_another_width_are_refused(shape):
    with pytest.raises(ValueError, match=r"points: expected shape \(B, 6\), found"):
        Head(6, 3)(torch.zeros(shape))


# Hard sharing


def test_hard_sharing_asks_every_head_about_the_same_point():
    model = HardSharing(trunk(), heads())
    x, _ = batch()
    z = model.trunk.eval()(x)
    assert {task: tuple(output.shape) for task, output in model(x).items()} == {
        "kind": (12, 3), "tags": (12, 4), "place": (12, 2)
    }  # fmt: skip
    for task, output in model(x).items():
        assert torch.allclose(output, z @ model.heads[task].weight.T + model.heads[task].bias)


def test_the_trunk_is_run_once_however_many_tasks_there_are():
    calls, model = [], HardSharing(trunk(), heads())
    model.trunk.register_forward_hook(lambda *_: calls.append(1))
    model(batch()[0])
    assert len(calls) == 1


def test_a_task_without_labels_changes_nothing_in_the_trunk():
    x, targets = batch()
    model = HardSharing(trunk(), heads())
    none = {"tags": torch.zeros(12, dtype=torch.bool)}
    losses = model.losses(model(x), targets, valid=none)
    g = dict(zip(losses, task_gradients(losses, model.trunk.parameters()), strict=True))
    assert not g["tags"].any() and g["kind"].any() and g["place"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": {"kind", "tags"}}, r"targets: expected the tasks \['kind', 'place', 'tags'\], found"),
        ({"targets": {*SIZES, "colour"}}, r"targets: expected the tasks .*, found \['colour', 'kind'"),
        ({"outputs": {"kind"}}, r"outputs: expected the tasks .*, found \['kind'\]"),
        ({"valid": {"colour"}}, r"valid: expected some of the tasks .*, found \['colour'\]"),
    ],
)
def test_tasks_that_are_missing_or_unknown_are_named(change, message):
    x, targets = batch()
    model = HardSharing(trunk(), heads())
    given = {"outputs": model(x), "targets": targets, "valid": {}}
    known = torch.ones(12, dtype=torch.bool)
    given |= {name: {task: given[name].get(task, known) for task in tasks} for name, tasks in change.items()}
    with pytest.raises(ValueError, match=message):
        model.losses(**given)


def test_the_message_about_a_wrong_target_names_its_task():
    x, targets = batch()
    model = HardSharing(trunk(), heads())
    with pytest.raises(TypeError, match="tags: expected bool for labels, found torch.float64"):
        model.losses(model(x), targets | {"tags": targets["tags"].double()})


def test_a_model_without_tasks_is_refused():
    with pytest.raises(ValueError, match="heads: expected at least one task, found none"):
        HardSharing(trunk(), {})


# The penalty of soft sharing


def trunks(count: int) -> list[nn.Module]:
    return [trunk() for _ in range(count)]


def flat(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_penalty_is_the_loop_over_pairs_of_squared_distances(count):
    modules, total = trunks(count), 0.0
    for a, b in itertools.combinations(modules, 2):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            for v, w in zip(p.flatten().tolist(), q.flatten().tolist(), strict=True):
                total += (v - w) ** 2
    assert soft_sharing_penalty(modules).item() == pytest.approx(total, rel=1e-12)


def test_the_gradient_of_the_penalty_points_away_from_the_mean():
    modules = trunks(3)
    soft_sharing_penalty(modules).backward()
    mean = torch.stack([flat(module) for module in modules]).mean(0)
    for module in modules:
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        assert torch.allclose(gradient, 2 * 3 * (flat(module) - mean))


def test_the_distance_is_the_root_of_the_penalty_of_two_and_the_penalty_has_a_gradient_where_it_is_zero():
    a, b = trunks(2)
    assert weight_distance(a, b) == pytest.approx((flat(a) - flat(b)).norm().item())
    assert weight_distance(a, copy.deepcopy(a)) == 0
    same = copy.deepcopy(a)
    soft_sharing_penalty([a, same]).backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in a.parameters())


@given(sigma=st.floats(0.1, 3.0), count=st.integers(2, 5), seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_penalty_is_the_negative_log_prior_of_gaussian_weights_around_their_mean(sigma, count, seed):
    """Up to what does not depend on the weights: so for the difference of two settings of them."""
    torch.manual_seed(seed)

    def negative_log_prior(modules):
        theta = torch.stack([flat(module) for module in modules])
        return -torch.distributions.Normal(theta.mean(0), sigma).log_prob(theta).sum().item()

    one, other = ([nn.Linear(3, 2).double() for _ in range(count)] for _ in range(2))
    strength = 1 / (2 * sigma**2 * count)
    penalties = [soft_sharing_penalty(modules).item() for modules in (one, other)]
    expected = negative_log_prior(one) - negative_log_prior(other)
    assert strength * (penalties[0] - penalties[1]) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_under_a_flat_prior_the_mean_of_the_weights_is_the_most_probable_centre():
    theta = torch.randn(4, 6, dtype=torch.float64)
    centre = theta.mean(0).requires_grad_()
    prior = torch.distributions.Normal(centre, 0.7).log_prob(theta).sum()
    (gradient,) = torch.autograd.grad(prior, centre)
    assert torch.allclose(gradient, torch.zeros_like(gradient), atol=1e-12)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(5, 4), r"weight weight of shape \(4, 6\) in the first and \(4, 5\) in number 3"),
        (nn.Linear(6, 4, bias=False), r"weight bias of shape \(4,\) in the first and none in number 3"),
        (
            nn.Sequential(nn.Linear(6, 4)),
            r"weight weight of shape \(4, 6\) in the first and none in number 3",
        ),
    ],
)
def test_modules_of_different_structure_are_refused_naming_the_weight(other, message):
    with pytest.raises(ValueError, match=message):
        soft_sharing_penalty([nn.Linear(6, 4), nn.Linear(6, 4), other])


def test_a_weight_that_only_a_later_module_has_is_named_too():
    with pytest.raises(ValueError, match=r"weight bias of shape none in the first and \(4,\) in number 2"):
        weight_distance(nn.Linear(6, 4, bias=False), nn.Linear(6, 4))


@pytest.mark.parametrize("modules", [[], [nn.Flatten(), nn.Flatten()]])
def test_a_penalty_on_no_weights_is_refused(modules):
    with pytest.raises(ValueError, match="modules: expected some with weights"):
        soft_sharing_penalty(modules)


# Soft sharing, and its limits


def test_without_strength_soft_sharing_trains_as_networks_that_know_nothing_of_each_other():
    start, q = trunk(), heads()
    together = SoftSharing(start, copy.deepcopy(q), strength=0.0)
    descend(together, penalty=together.penalty)
    for task in SIZES:
        single = alone(task, start, q[task])
        assert equal(together.trunks[task], single.trunk) and equal(together.heads[task], single.heads[task])
    assert weight_distance(*list(together.trunks.values())[:2]) > 1e-3


def test_without_strength_pulling_moves_nothing():
    model = descend(SoftSharing(trunk(), heads(), strength=0.0))
    before = copy.deepcopy(model)
    model.pull_together(RATE)
    assert equal(model, before)


@pytest.mark.parametrize(("strength", "tolerance"), [(math.inf, 1e-10), (1e7, 1e-4)])
def test_at_infinite_strength_soft_sharing_trains_as_hard_sharing(strength, tolerance):
    """From one start; the shared trunk's rate is a T-th, because its gradient is a sum and not a mean."""
    start, q = trunk(), heads()
    soft = SoftSharing(start, copy.deepcopy(q), strength)
    descend(soft, after=lambda: soft.pull_together(RATE))
    hard = descend(HardSharing(copy.deepcopy(start), q), trunk_rate=RATE / len(SIZES))
    assert weight_distance(hard.trunk, start) > 0.01  # so it has learnt
    for task in SIZES:
        assert close(soft.trunks[task], hard.trunk, atol=tolerance)
        assert close(soft.heads[task], hard.heads[task], atol=tolerance)


def test_the_stronger_the_pull_the_closer_the_trunks():
    start, q, distances = trunk(), heads(), []
    for strength in (0.0, 1.0, 10.0, math.inf):
        model = SoftSharing(start, copy.deepcopy(q), strength)
        descend(model, after=lambda model=model: model.pull_together(RATE))
        distances.append(weight_distance(*list(model.trunks.values())[:2]))
    assert distances == sorted(distances, reverse=True) and distances[0] > 0 and distances[-1] == 0


class Quadratic(nn.Module):
    """One weight, so that the optimum of all tasks is known: the loss of task t is k_t (θ_t - c_t)² / 2."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("strength", [0.0, 0.3, 5.0, 1e4, math.inf])
def test_descent_with_exact_pulls_ends_at_the_closed_form_of_a_quadratic(strength):
    k, c = torch.tensor([[1.0, 2.0, 0.5], [0.0, 3.0, -2.0]], dtype=torch.float64)
    model = SoftSharing(Quadratic(), {task: Head(1, 2) for task in "abc"}, strength)
    for _ in range(400):
        for trunk, curvature, centre in zip(model.trunks.values(), k, c, strict=True):
            trunk.theta.data -= 0.3 * curvature * (trunk.theta.data - centre)
        model.pull_together(0.3)
    found = torch.stack([trunk.theta.detach() for trunk in model.trunks.values()])
    if math.isinf(strength):
        # all are tied: one weight, which minimises the sum
        expected = (k @ c / k.sum()).expand(3)
        assert torch.equal(found, found[:1].expand(3))
    else:
        pulls = 2 * strength * (3 * torch.eye(3) - 1).double()  # second derivatives of the sum over pairs
        expected = torch.linalg.solve(k.diag() + pulls, k * c)
    assert torch.allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("strength", [0.2, 3.0])
def test_a_pull_is_the_proximal_step_of_the_penalty(strength):
    """Where it ends, the pull of the penalty and the pull back to where it started cancel."""
    model = SoftSharing(trunk(), heads(), strength)
    for module in model.trunks.values():
        module.load_state_dict(trunk().state_dict())
    start = {task: flat(module).detach() for task, module in model.trunks.items()}
    model.pull_together(RATE)
    gradients = task_gradients({"penalty": model.penalty()}, model.trunks.parameters())[0]
    moved = torch.cat([flat(module) - start[task] for task, module in model.trunks.items()])
    assert moved.abs().max() > 0.01 and torch.allclose(
        moved / RATE + gradients, torch.zeros_like(moved), atol=1e-9
    )


@pytest.mark.parametrize("count", [2, 5])
def test_descent_on_the_penalty_diverges_above_the_rate_of_one_over_strength_times_tasks(count):
    strength = 3.0
    for factor, grows in ((0.9, False), (1.1, True)):
        modules, rate = trunks(count), factor / (strength * count)
        optimiser = torch.optim.SGD([p for module in modules for p in module.parameters()], lr=rate)
        start = weight_distance(*modules[:2])
        for _ in range(5):
            optimiser.zero_grad()
            (strength * soft_sharing_penalty(modules)).backward()
            optimiser.step()
        assert (weight_distance(*modules[:2]) > start) == grows


def test_soft_sharing_copies_the_trunk_and_leaves_the_original_alone():
    start = trunk()
    before = copy.deepcopy(start)
    model = descend(SoftSharing(start, heads(), strength=0.1))
    assert equal(start, before)
    assert parameter_count(model.trunks) == 3 * parameter_count(start)


@pytest.mark.parametrize("strength", [-1.0, math.nan])
def test_a_strength_below_zero_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength: expected 0 or more, found {strength}"):
        SoftSharing(trunk(), heads(), strength)


def test_an_infinite_penalty_and_a_rate_of_zero_are_refused():
    model = SoftSharing(trunk(), heads(), math.inf)
    with pytest.raises(
        ValueError, match="strength: expected a finite number, found infinity; use pull_together"
    ):
        model.penalty()
    with pytest.raises(ValueError, match="rate: expected a positive number, found 0"):
        model.pull_together(0.0)


# Cross-stitch networks


def test_a_unit_is_the_double_loop_of_its_equation_and_its_gradients_are_right():
    unit, x = CrossStitchUnit(3).double(), torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    nn.init.normal_(unit.alpha)
    mixed = unit(x)
    for t in range(3):
        assert torch.allclose(mixed[t], sum(unit.alpha[t, u] * x[u] for u in range(3)))
    assert torch.autograd.gradcheck(
        lambda alpha, x: torch.func.functional_call(unit, {"alpha": alpha}, x),
        (unit.alpha, x[:, :, :2, :2].detach().requires_grad_()),
    )


@pytest.mark.parametrize(("tasks", "own"), [(2, 0.9), (3, 0.9), (4, 0.25), (1, 1.0)])
def test_what_a_task_takes_at_first_sums_to_one_with_its_own_part_as_given(tasks, own):
    alpha = CrossStitchUnit(tasks, own).alpha.detach()
    assert torch.allclose(alpha.sum(1), torch.ones(tasks)) and torch.allclose(alpha.diag(), torch.tensor(own))
    others = alpha[~torch.eye(tasks, dtype=torch.bool)]
    assert torch.equal(others, others[:1].expand_as(others))


def frozen(model: CrossStitch) -> CrossStitch:
    model.units.requires_grad_(False)
    return model


def test_identity_units_train_exactly_as_independent_networks():
    start, q = trunk(), heads()
    together = descend(frozen(CrossStitch(start, copy.deepcopy(q)).double()))
    for task in SIZES:
        single = alone(task, start, q[task])
        assert equal(together.trunks[task], single.trunk) and equal(together.heads[task], single.heads[task])


def test_uniform_units_share_everything():
    """All tasks see one point, whatever their trunks; from one start they train as hard sharing."""
    start, q, x = trunk(), heads(), batch()[0]
    apart = CrossStitch(start, copy.deepcopy(q), own=1 / 3).double().eval()
    for module in apart.trunks.values():
        module.load_state_dict(trunk().state_dict())
    z = [*apart.features(x).values()]
    assert torch.equal(z[0], z[1]) and torch.equal(z[0], z[2])

    stitched = descend(frozen(CrossStitch(start, copy.deepcopy(q), own=1 / 3).double()))
    hard = descend(HardSharing(copy.deepcopy(start), q), trunk_rate=RATE / 3)
    for task in SIZES:
        assert close(stitched.trunks[task], hard.trunk, atol=1e-6)
        assert close(stitched.heads[task], hard.heads[task], atol=1e-6)


def test_units_are_trained_between_independent_and_shared():
    model = descend(CrossStitch(trunk(), heads(), own=0.8).double())
    fresh = CrossStitchUnit(3, 0.8).alpha.double()
    assert len(model.units) == 3
    assert all((unit.alpha - fresh).abs().max() > 1e-4 for unit in model.units)


def test_cross_stitch_networks_take_the_residual_trunk():
    model = CrossStitch(resnet_trunk(dim=6, width=2), {"kind": Head(6, 3), "style": Head(6, 4)}, own=0.7)
    outputs = model(torch.randn(2, 3, 32, 32))
    sum(output.square().sum() for output in outputs.values()).backward()
    assert len(model.units) == 5 and all(unit.alpha.grad.abs().sum() > 0 for unit in model.units)
    with pytest.raises(ValueError, match=r"pictures: expected shape \(B, 3, 32, 32\), found \(2, 5\)"):
        model(torch.zeros(2, 5))


def test_a_trunk_without_stages_and_features_of_other_tasks_are_refused():
    with pytest.raises(TypeError, match="trunk: expected a Sequential of stages, found Linear"):
        CrossStitch(nn.Linear(5, 6), heads())
    with pytest.raises(ValueError, match="features: expected those of 3 tasks, found 2"):
        CrossStitchUnit(3)(torch.zeros(2, 4, 5))


# Gradients


def test_task_gradients_are_the_differences_of_the_loss_and_add_up_to_the_gradient_of_the_sum():
    x, targets = batch()
    model = HardSharing(trunk(), heads())
    losses = model.losses(model(x), targets)
    weights = list(model.trunk.parameters())
    g = task_gradients(losses, weights)
    assert g.shape == (3, parameter_count(model.trunk)) and all(p.grad is None for p in weights)
    sum(losses.values()).backward()  # the graph is still there
    assert torch.allclose(g.sum(0), torch.cat([p.grad.flatten() for p in weights]))
    direction, step = torch.randn(g.shape[1], dtype=torch.float64), 1e-6
    found = []
    for side in (1, -1):
        nn.utils.vector_to_parameters(flat(model.trunk) + side * step * direction, weights)
        found.append(torch.stack([*model.losses(model(x), targets).values()]))
        nn.utils.vector_to_parameters(flat(model.trunk) - side * step * direction, weights)
    assert torch.allclose((found[0] - found[1]) / (2 * step), g @ direction, rtol=1e-5)


def test_a_task_that_does_not_depend_on_a_weight_has_a_zero_there():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    assert task_gradients({"one": a.sum(), "two": 3 * b.sum()}, [a, b]).tolist() == [[1, 1, 0], [0, 0, 3]]


@pytest.mark.parametrize(
    ("losses", "parameters", "message"),
    [
        (
            {},
            [nn.Parameter(torch.ones(1))],
            "losses, parameters: expected at least one of each, found 0 and 1",
        ),
        ({"a": torch.ones(())}, [], "found 1 and 0"),
        (
            {"a": torch.ones(())},
            [nn.Parameter(torch.ones(1))],
            "a: expected a scalar loss that has a gradient",
        ),
        (
            {"a": torch.ones(2, requires_grad=True)},
            [nn.Parameter(torch.ones(1))],
            r"a: .* found shape \(2,\)",
        ),
    ],
)
def test_losses_without_gradients_are_named(losses, parameters, message):
    with pytest.raises(ValueError, match=message):
        task_gradients(losses, parameters)


def test_cosines_of_gradients_equal_pytorchs_and_a_task_without_gradient_agrees_with_none():
    g = torch.randn(4, 50, dtype=torch.float64)
    g[3] = 0
    cosines = gradient_cosines(g)
    assert torch.allclose(cosines[:3, :3], F.cosine_similarity(g[:3, None], g[None, :3], dim=2))
    assert not cosines[3].any() and not cosines[:, 3].any()


def test_a_negative_cosine_means_that_a_step_for_one_task_raises_the_loss_of_the_other():
    for far, conflict in ((1.0, False), (-1.0, True)):
        w = nn.Parameter(torch.tensor([0.5, 0.5], dtype=torch.float64))
        centres = torch.tensor([[1.0, 1.0], [far, 0.8]], dtype=torch.float64)

        def losses(w, centres=centres):
            return {str(t): (w - c).square().sum() for t, c in enumerate(centres)}

        g = task_gradients(losses(w), [w])
        assert (gradient_cosines(g)[0, 1] < 0) == conflict
        assert (losses(w - 1e-3 * g[0])["1"] > losses(w)["1"]) == conflict


@pytest.mark.parametrize("gradients", [torch.zeros(3), torch.full((2, 3), math.nan)])
def test_gradients_of_another_shape_or_not_finite_are_refused(gradients):
    with pytest.raises(ValueError, match="gradients: expected"):
        gradient_cosines(gradients)


# Gain over single tasks


def test_the_gain_is_the_mean_of_relative_improvements_with_errors_counted_down():
    baseline = {"group": 0.4, "style": 0.8, "valence": 2.0}
    scores = {"group": 0.5, "style": 0.6, "valence": 1.0}  # +25 %, -25 %, half the error
    assert multi_task_gain(scores, baseline, ["valence"]) == pytest.approx(0.5 / 3)
    assert multi_task_gain(scores, baseline) == pytest.approx(-0.5 / 3)
    assert multi_task_gain(baseline, baseline, ["valence"]) == 0


def test_the_gain_does_not_depend_on_the_units_of_a_task():
    baseline, scores = {"a": 0.4, "b": 3.0}, {"a": 0.5, "b": 2.0}
    in_other_units = [{"a": m["a"], "b": 100 * m["b"]} for m in (scores, baseline)]
    assert multi_task_gain(scores, baseline, {"b"}) == pytest.approx(multi_task_gain(*in_other_units, {"b"}))


@pytest.mark.parametrize(
    ("scores", "baseline", "lower", "message"),
    [
        ({"a": 1.0}, {"b": 1.0}, (), r"scores: expected the tasks \['b'\], found \['a'\]"),
        ({}, {}, (), r"scores: expected the tasks \[\], found \[\]"),
        ({"a": 1.0}, {"a": 1.0}, ("b",), r"lower_is_better: expected some of \['a'\], found \['b'\]"),
        ({"a": 1.0}, {"a": 0.0}, (), "a: expected finite figures and a baseline above 0, found 1.0 and 0.0"),
        ({"a": 1.0}, {"a": -0.5}, (), "a: expected finite figures and a baseline above 0"),
        ({"a": math.nan}, {"a": 1.0}, (), "a: expected finite figures and a baseline above 0, found nan"),
        ({"a": 1.0}, {"a": math.inf}, (), "a: expected finite figures and a baseline above 0"),
    ],
)  # fmt: skip
def test_figures_without_a_relative_gain_are_named(scores, baseline, lower, message):
    with pytest.raises(ValueError, match=message):
        multi_task_gain(scores, baseline, lower)


# Equal size


def test_parameters_are_counted_once_and_running_averages_not_at_all():
    layer = nn.Linear(3, 2)
    assert parameter_count(nn.Sequential(layer, layer, nn.BatchNorm1d(2))) == 8 + 4


def test_three_narrow_trunks_match_one_wide_trunk_in_parameters_and_no_random_number_is_drawn():
    state = torch.get_rng_state()
    wide = parameter_count(HardSharing(resnet_trunk(16, 12), {"a": Head(16, 2)}))

    def narrow(width):
        return SoftSharing(resnet_trunk(16, width), {task: Head(16, 2) for task in "abc"}, 1.0)

    torch.set_rng_state(state)
    width = matching_width(narrow, wide, range(4, 12))
    assert torch.equal(torch.get_rng_state(), state)
    counts = {k: parameter_count(narrow(k)) for k in (width - 1, width, width + 1)}
    assert min(counts, key=lambda k: abs(counts[k] - wide)) == width
    assert abs(counts[width] / wide - 1) < 0.1


@pytest.mark.parametrize("parameters", [10, 1000])
def test_a_size_that_no_width_reaches_is_refused(parameters):
    with pytest.raises(
        ValueError, match=f"parameters: expected 11 to 88 for these widths, found {parameters}"
    ):
        matching_width(lambda width: nn.Linear(10, width), parameters, range(1, 9))
