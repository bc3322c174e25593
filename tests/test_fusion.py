"""Fusion: each fuser against its equation, absent modalities, symmetry, limits, peers and bad input."""

import copy
import itertools
import math
from functools import partial
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

from mmtutor.fusion import (
    AttentionFusion,
    BilinearFusion,
    ConcatFusion,
    Fusion,
    GatedFusion,
    LateFusion,
    LowRankFusion,
    MaxFusion,
    MeanFusion,
    SumFusion,
    TransformerFusion,
    expected_calibration_error,
    gradient_modulation,
    logarithmic_pool,
    reliability_curve,
    shapley_values,
)

FUSERS = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "mean": MeanFusion,
    "max": MaxFusion,
    "gated": GatedFusion,
    "attention": AttentionFusion,
    "transformer": partial(TransformerFusion, heads=2, layers=2),
    "bilinear": BilinearFusion,
    "low rank": partial(LowRankFusion, rank=3),
    "late mean": LateFusion,
    "late learnt": partial(LateFusion, kind="learnt"),
    "late stacking": partial(LateFusion, kind="stacking"),
}
OF_TOKENS = ["sum", "mean", "max", "attention", "transformer"]
SHARES = ["mean", "max", "attention", "transformer", "late mean", "late learnt"]  # weights that sum to one
PRESENCE = ["concat", "sum", "bilinear", "low rank", "late stacking"]  # weights that are 1 where present
DIMS = {"image": 3, "text": 5, "sound": 2}
OUT = 4
MASKS = [[*mask] for mask in itertools.product([True, False], repeat=3)]  # every set of modalities once
VALID = torch.tensor(MASKS)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build(name: str, dims: dict[str, int] = DIMS, out_dim: int = OUT) -> Fusion:
    """A fuser in double precision none of whose weights is at a special value."""
    fuser = FUSERS[name](dims, out_dim).double()
    for p in fuser.parameters():
        nn.init.normal_(p, std=0.5)
    return fuser


def batch(size: int = len(MASKS), dims: dict[str, int] = DIMS) -> dict[str, Tensor]:
    return {m: torch.randn(size, width, dtype=torch.float64) for m, width in dims.items()}


def tie(modules: nn.ModuleDict) -> None:
    """Give all modalities the weights of the first."""
    first = next(iter(modules.values()))
    for module in modules.values():
        module.load_state_dict(first.state_dict())


# The equations, as loops over items and modalities


def linear(layer: nn.Linear, x: list[float]) -> list[float]:
    b = layer.bias.tolist() if layer.bias is not None else [0.0] * layer.out_features
    return [b_k + sum(w * x_i for w, x_i in zip(row, x, strict=True))
            for row, b_k in zip(layer.weight.tolist(), b, strict=True)]  # fmt: skip


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def log_softmax(scores: list[float]) -> list[float]:
    return [math.log(p) for p in softmax(scores)]


def combination(alpha: list[float], h: list[list[float]]) -> list[float]:
    return [sum(a * h_m[k] for a, h_m in zip(alpha, h, strict=True)) for k in range(OUT)]


def side_by_side(x: dict[str, list[float]], size: int | None = None) -> list[float]:
    return [value for m in DIMS for value in x.get(m, [0.0] * (size or DIMS[m]))]


def concat_by_loop(fuser: ConcatFusion, x: dict[str, list[float]]) -> list[float]:
    return linear(fuser.join, side_by_side(x))


def sum_by_loop(fuser: SumFusion, x: dict[str, list[float]]) -> list[float]:
    return combination([1.0] * len(x), [linear(fuser.projections[m], x_m) for m, x_m in x.items()])


def mean_by_loop(fuser: MeanFusion, x: dict[str, list[float]]) -> list[float]:
    return [value / max(len(x), 1) for value in sum_by_loop(fuser, x)]


def max_by_loop(fuser: MaxFusion, x: dict[str, list[float]]) -> list[float]:
    h = [linear(fuser.projections[m], x_m) for m, x_m in x.items()]
    return [max(h_m[k] for h_m in h) if h else 0.0 for k in range(OUT)]


def gated_by_loop(fuser: GatedFusion, x: dict[str, list[float]]) -> list[float]:
    gates, z = linear(fuser.gate, side_by_side(x)), [0.0] * OUT
    for i, m in enumerate(DIMS):
        for k in range(OUT if m in x else 0):
            g = 1 / (1 + math.exp(-gates[i * OUT + k]))
            z[k] += g * math.tanh(linear(fuser.projections[m], x[m])[k])
    return z


def attention_by_loop(fuser: AttentionFusion, x: dict[str, list[float]]) -> list[float]:
    h = [linear(fuser.projections[m], x_m) for m, x_m in x.items()]
    scores = [sum(q * v for q, v in zip(fuser.query.tolist(), h_m, strict=True)) for h_m in h]
    return combination(softmax([s / math.sqrt(OUT) for s in scores]), h)


def bilinear_by_loop(fuser: BilinearFusion, x: dict[str, list[float]]) -> list[float]:
    with_ones = [[*x.get(m, [0.0] * width), 1.0] for m, width in DIMS.items()]
    products = [math.prod(values) for values in itertools.product(*with_ones)]
    return linear(fuser.join, products)


def low_rank_by_loop(fuser: LowRankFusion, x: dict[str, list[float]]) -> list[float]:
    factors = [linear(fuser.factors[m], x.get(m, [0.0] * width)) for m, width in DIMS.items()]
    return [sum(math.prod(f[r * OUT + k] for f in factors) for r in range(3)) for k in range(OUT)]


def late_by_loop(fuser: LateFusion, x: dict[str, list[float]]) -> list[float]:
    log_p = {m: log_softmax(linear(fuser.heads[m], x_m)) for m, x_m in x.items()}
    if fuser.kind == "stacking":
        return log_softmax(linear(fuser.stack, side_by_side(log_p, OUT)))
    scores = dict(zip(DIMS, fuser.scores.tolist() if fuser.kind == "learnt" else [0.0] * 3, strict=True))
    return log_softmax(combination(softmax([scores[m] for m in x]), [*log_p.values()]))


LOOPS = {
    "concat": concat_by_loop, "sum": sum_by_loop, "mean": mean_by_loop, "max": max_by_loop,
    "gated": gated_by_loop, "attention": attention_by_loop, "bilinear": bilinear_by_loop,
    "low rank": low_rank_by_loop, "late mean": late_by_loop, "late learnt": late_by_loop,
    "late stacking": late_by_loop,
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_each_fuser_is_its_equation_for_every_set_of_modalities(name):
    fuser, features = build(name), batch()
    point, _ = fuser(features, VALID)
    for i, mask in enumerate(MASKS):
        x = {m: features[m][i].tolist() for m, present in zip(DIMS, mask, strict=True) if present}
        assert point[i].tolist() == pytest.approx(LOOPS[name](fuser, x), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", FUSERS)
def test_the_gradient_of_each_fuser_is_that_of_finite_differences(name):
    fuser, features = build(name), batch()
    weighted = "max" not in name  # its weights are counts
    arguments = [z.requires_grad_() for z in features.values()]

    def fused(*z: Tensor) -> tuple[Tensor, ...]:
        point, weights = fuser(dict(zip(DIMS, z, strict=True)), VALID)
        return (point, weights) if weighted and weights.requires_grad else (point,)

    assert gradcheck(fused, arguments)


# Peers


def test_attention_is_pytorchs_attention_of_one_query():
    fuser, features = build("attention"), batch()
    valid, some = VALID[:-1], {m: z[:-1] for m, z in features.items()}  # for the last it may return NaN
    h = fuser.tokens(*fuser.present(some, valid))
    query = fuser.query.expand(len(h), 1, OUT)
    peer = F.scaled_dot_product_attention(query, h, h, attn_mask=valid[:, None])
    assert torch.allclose(fuser(some, valid)[0], peer[:, 0])


def test_bilinear_fusion_of_two_is_pytorchs_bilinear_layer_and_the_linear_terms():
    dims = {"image": 3, "text": 5}
    fuser, features = build("bilinear", dims), batch(dims=dims)
    w = fuser.join.weight.detach().view(OUT, 4, 6)
    peer = nn.Bilinear(3, 5, OUT).double()
    peer.weight.data, peer.bias.data = w[:, :3, :5], w[:, 3, 5]
    linear_terms = features["image"] @ w[:, :3, 5].T + features["text"] @ w[:, 3, :5].T
    assert torch.allclose(fuser(features)[0], peer(*features.values()) + linear_terms)


@pytest.mark.parametrize("inference", [False, True])
def test_the_transformer_is_pytorchs_encoder_run_on_the_present_tokens_alone(inference):
    fuser, features = build("transformer").eval(), batch()
    with torch.inference_mode(inference):  # there PyTorch takes another path
        point, weights = fuser(features, VALID)
        for i, mask in enumerate(MASKS[:-1]):
            names = [m for m, present in zip(DIMS, mask, strict=True) if present]
            h = torch.stack([fuser.projections[m](features[m][i]) for m in names])
            h = fuser.encoder(h[None])[0]
            alpha = (h @ fuser.query / math.sqrt(OUT)).softmax(0)
            assert torch.allclose(weights[i][VALID[i]], alpha)
            assert torch.allclose(point[i], alpha @ h)


# Absent modalities


@pytest.mark.parametrize("stand_in", [math.nan, math.inf, 1e300])
@pytest.mark.parametrize("name", FUSERS)
def test_what_stands_in_place_of_an_absent_modality_has_exactly_no_influence(name, stand_in):
    fuser, features = build(name), batch()
    spoilt = {m: torch.where(VALID[:, i, None], features[m], stand_in) for i, m in enumerate(DIMS)}
    results = []
    for given in (features, spoilt):
        z = {m: given_m.clone().requires_grad_() for m, given_m in given.items()}
        fuser.zero_grad()
        point, weights = fuser(z, VALID)
        (point.square().sum() + weights.square().sum()).backward()
        for i, z_m in enumerate(z.values()):
            assert not z_m.grad[~VALID[:, i]].any() and z_m.grad[VALID[:, i]].any()
        weights_grad = [p.grad.clone() for p in fuser.parameters() if p.grad is not None]
        results.append([point, weights, *weights_grad, *(z_m.grad for z_m in z.values())])
    for one, other in zip(*results, strict=True):
        assert one.isfinite().all() and torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", FUSERS)
def test_an_item_without_any_modality_gets_a_constant_and_finite_gradients(name):
    fuser, nothing = build(name), torch.zeros(5, 3, dtype=torch.bool)
    point, weights = fuser({m: z * math.nan for m, z in batch(5).items()}, nothing)
    assert point.isfinite().all() and (point == point[0]).all() and not weights.any()
    if name in [*OF_TOKENS, "gated"]:
        assert not point.any()
    if name in ("late mean", "late learnt"):
        assert torch.allclose(point.exp(), torch.full_like(point, 1 / OUT))
    if point.requires_grad:
        with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
            (point.square().sum() + weights.sum()).backward()
    assert all(p.grad.isfinite().all() for p in fuser.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [*OF_TOKENS, "late mean", "late learnt"])
def test_an_absent_modality_counts_as_if_the_fuser_had_never_known_it(name):
    fuser, features = build(name), batch()
    fewer = copy.deepcopy(fuser)
    fewer.dims = {"image": 3, "sound": 2}
    if name == "late learnt":
        fewer.scores = nn.Parameter(fuser.scores[[0, 2]])
    point, weights = fuser(features, torch.tensor([[True, False, True]]).expand(len(MASKS), 3))
    expected, of_fewer = fewer({m: features[m] for m in fewer.dims})
    assert torch.allclose(point, expected) and torch.allclose(weights[:, [0, 2]], of_fewer)


@pytest.mark.parametrize("modality", DIMS)
def test_the_mean_of_one_modality_is_its_projection(modality):
    fuser, features = build("mean"), batch()
    only = torch.tensor([m == modality for m in DIMS]).expand(len(MASKS), 3)
    point, weights = fuser(features, only)
    assert torch.allclose(point, fuser.projections[modality](features[modality]), rtol=1e-15)
    assert torch.equal(weights, only.double())


@pytest.mark.parametrize("name", FUSERS)
def test_one_modality_alone_can_be_fused(name):
    fuser, features = build(name, {"text": 5}), batch(dims={"text": 5})
    point, weights = fuser(features)
    assert point.shape == (len(MASKS), OUT) and weights.shape == (len(MASKS), 1)
    assert (point != point[0])[1:].any(1).all()
    if name in SHARES + PRESENCE:
        assert torch.allclose(weights, torch.ones_like(weights))


# Weights, order, types


@pytest.mark.parametrize("name", FUSERS)
def test_weights_are_zero_where_absent_and_add_up_as_the_fuser_says(name):
    point, weights = build(name)(batch(), VALID)
    assert point.shape == (len(MASKS), OUT) and weights.shape == VALID.shape
    assert not weights[~VALID].any() and (weights[VALID] >= 0).all()
    if name in SHARES:
        assert torch.allclose(weights.sum(1), VALID.any(1).double())
    if name in PRESENCE:
        assert torch.equal(weights, VALID.double())


def test_the_weights_of_the_maximum_are_the_dimensions_that_each_modality_gives():
    fuser, features = build("max"), batch()
    point, weights = fuser(features, VALID)
    h = fuser.tokens(*fuser.present(features, VALID))
    for i, m in itertools.product(range(len(MASKS)), range(3)):
        won = [h[i, m, k] == point[i, k] for k in range(OUT)] if VALID[i, m] else [False]
        assert weights[i, m].item() == fmean(map(float, won))
    assert not weights.requires_grad


def test_modalities_that_tie_for_the_maximum_share_its_weight_and_its_gradient():
    fuser, z = build("max", {"a": 3, "b": 3}), torch.randn(2, 3, dtype=torch.float64)
    tie(fuser.projections)
    point, weights = fuser({"a": z, "b": z})
    assert torch.equal(weights, torch.full((2, 2), 0.5, dtype=torch.float64))
    point.sum().backward()
    assert torch.equal(*(projection.weight.grad for projection in fuser.projections.values()))


@pytest.mark.parametrize("name", FUSERS)
def test_the_order_of_the_dict_does_not_matter(name):
    fuser, features = build(name), batch()
    expected = fuser(features, VALID)
    backwards = fuser(dict(reversed(features.items())), VALID)
    assert all(torch.equal(a, b) for a, b in zip(expected, backwards, strict=True))


SAME = {"a": 3, "b": 3, "c": 3}
ORDER = [2, 0, 1]


def fused_in_two_orders(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What a fuser with equal weights for all modalities makes of them, and of them in another order."""
    fuser, features = build(name, SAME), batch(dims=SAME)
    for modules in fuser.children():
        if isinstance(modules, nn.ModuleDict):
            tie(modules)
    names = list(SAME)
    others = {m: features[names[j]] for m, j in zip(names, ORDER, strict=True)}
    return fuser(features, VALID), fuser(others, VALID[:, ORDER])


@pytest.mark.parametrize("name", [*OF_TOKENS, "low rank", "late mean"])
def test_symmetric_fusers_do_not_see_the_order_of_modalities_with_tied_projections(name):
    (point, weights), (other_point, other_weights) = fused_in_two_orders(name)
    assert torch.allclose(point, other_point)
    assert torch.allclose(weights[:, ORDER], other_weights)


@pytest.mark.parametrize("name", ["concat", "gated", "bilinear", "late learnt", "late stacking"])
def test_the_others_see_the_order(name):
    (point, _), (other_point, _) = fused_in_two_orders(name)
    assert not torch.allclose(point[0], other_point[0])


@pytest.mark.parametrize("name", FUSERS)
def test_every_weight_is_trained_and_the_type_is_kept(name):
    fuser = FUSERS[name](DIMS, OUT)
    point, weights = fuser({m: z.float() for m, z in batch().items()}, VALID)
    assert point.dtype == weights.dtype == torch.float32
    (point * torch.randn(OUT)).sum().backward()
    for parameter, p in fuser.named_parameters():
        # with a query of zero the keys of attention do not matter, but its values do
        assert p.grad is not None and (p.grad.any() or "self_attn" in parameter), parameter


# What fusers are at their limits


def test_concatenation_and_a_linear_map_is_a_sum_of_projections():
    concat, total, features = build("concat"), build("sum"), batch()
    parts = concat.join.weight.detach().split([*DIMS.values()], 1)
    for w, projection in zip(parts, total.projections.values(), strict=True):
        projection.weight.data, projection.bias.data = w, concat.join.bias.detach() / len(DIMS)
    assert torch.allclose(concat(features)[0], total(features)[0])


def test_attention_starts_as_the_mean():
    mean, attention, features = build("mean"), build("attention"), batch()
    attention.projections.load_state_dict(mean.projections.state_dict())
    nn.init.zeros_(attention.query)
    for ours, expected in zip(attention(features, VALID), mean(features, VALID), strict=True):
        assert torch.allclose(ours, expected)
    assert not AttentionFusion(DIMS, OUT).query.any()


def test_low_rank_fusion_is_bilinear_fusion_with_a_tensor_of_that_rank():
    low, full, features = build("low rank"), build("bilinear"), batch()
    with_bias = [
        torch.cat([f.weight, f.bias[:, None]], 1).unflatten(0, (3, OUT)) for f in low.factors.values()
    ]
    tensor = torch.einsum("rka,rkb,rkc->kabc", *with_bias)
    full.join.weight.data = tensor.detach().flatten(1)
    assert torch.allclose(low(features, VALID)[0], full(features, VALID)[0])


def test_an_absent_modality_is_neutral_at_the_start_of_low_rank_fusion():
    fuser = LowRankFusion({"a": 3, "b": 3}, OUT, rank=2).double()
    features = batch(1, {"a": 3, "b": 3})
    point, _ = fuser(features, torch.tensor([[True, False]]))
    assert torch.allclose(point, fuser.factors["a"](features["a"]).view(1, 2, OUT).sum(1))


def test_gates_are_kept_for_each_dimension_and_need_not_sum_to_one():
    fuser = build("gated")
    _, weights = fuser(batch(), VALID)
    assert fuser.gates.shape == (len(MASKS), 3, OUT) and not fuser.gates.requires_grad
    assert not fuser.gates[~VALID].any() and ((fuser.gates[VALID] > 0) & (fuser.gates[VALID] < 1)).all()
    assert torch.allclose(weights, fuser.gates.mean(2))
    assert (fuser.gates[0].sum(0) - 1).abs().min() > 1e-3
    copy.deepcopy(fuser)


# Can it represent that exactly one of two is true?

BITS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
TWO_BITS = {"a": BITS[:, :1], "b": BITS[:, 1:]}


@pytest.mark.parametrize("name", ["concat", "sum", "mean", "late mean", "late learnt", "late stacking"])
def test_additive_fusers_and_a_linear_head_cannot_represent_xor(name):
    """Their logit is f(a) + g(b): those of 00 and 11 sum to those of 01 and 10, so no sign fits all four."""
    for _ in range(20):
        point, _ = build(name, {"a": 1, "b": 1})(TWO_BITS)
        head = torch.randn(OUT, dtype=torch.float64)
        logit = point[:, 1] - point[:, 0] if "late" in name else point @ head  # late: the heads are inside
        assert logit.abs().max() > 1e-6
        assert (logit[0] + logit[3]).item() == pytest.approx((logit[1] + logit[2]).item(), abs=1e-9)


def test_bilinear_fusion_represents_xor():
    fuser = build("bilinear", {"a": 1, "b": 1}, 1)
    fuser.join.weight.data = torch.tensor([[-2.0, 1.0, 1.0, 0.0]], dtype=torch.float64)  # ab, a, b, 1
    assert fuser(TWO_BITS)[0].flatten().tolist() == [0, 1, 1, 0]


def test_low_rank_fusion_of_rank_one_represents_xor():
    fuser = LowRankFusion({"a": 1, "b": 1}, 1, rank=1).double()
    for factor in fuser.factors.values():
        nn.init.constant_(factor.weight, -2.0)  # (1 - 2a)(1 - 2b)
    assert fuser(TWO_BITS)[0].flatten().tolist() == [1, -1, -1, 1]


def test_the_maximum_represents_xor_by_or_and_and():
    fuser = build("max", {"a": 1, "b": 1}, 2)
    for projection in fuser.projections.values():
        projection.weight.data = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        nn.init.zeros_(projection.bias)
    point, _ = fuser(TWO_BITS)  # max(a, b) and -min(a, b)
    assert point.sum(1).tolist() == [0, 1, 1, 0]


# Model-level fusion


def test_the_pool_is_renormalised_and_the_plain_average_is_not_a_distribution():
    log_p = torch.randn(6, 3, OUT, dtype=torch.float64).log_softmax(2)
    weights = torch.full((6, 3), 1 / 3, dtype=torch.float64)
    pooled = logarithmic_pool(log_p, weights)
    assert torch.allclose(pooled.exp().sum(1), torch.ones(6, dtype=torch.float64))
    assert (log_p.mean(1).exp().sum(1) < 0.999).all()
    gap = pooled - log_p.mean(1)
    assert torch.allclose(gap, gap[:, :1])  # only the normalisation differs


def test_a_model_of_weight_zero_has_no_influence_on_the_pool_whatever_it_says():
    log_p = torch.randn(2, 2, OUT, dtype=torch.float64).log_softmax(2)
    log_p[:, 1] = math.nan
    weights = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(2, 1).requires_grad_()
    pooled = logarithmic_pool(log_p, weights)
    assert torch.allclose(pooled, log_p[:, 0])
    pooled[:, 0].sum().backward()
    assert weights.grad.isfinite().all()


def test_a_late_mean_has_the_softmax_of_the_mean_of_logits():
    late, mean, features = build("late mean"), build("mean"), batch()
    mean.projections.load_state_dict(late.heads.state_dict())
    assert torch.allclose(late(features, VALID)[0], mean(features, VALID)[0].log_softmax(1))


@pytest.mark.parametrize("kind", ["learnt", "stacking"])
def test_learnt_weights_and_stacking_start_at_the_mean(kind):
    mean, other, features = LateFusion(DIMS, OUT), LateFusion(DIMS, OUT, kind=kind), batch()
    other.heads.load_state_dict(mean.heads.state_dict())
    assert torch.allclose(other.double()(features)[0], mean.double()(features)[0])


@pytest.mark.parametrize("name", ["late mean", "late learnt", "late stacking"])
def test_late_fusion_returns_log_probabilities(name):
    log_p, _ = build(name)(batch(), VALID)
    assert torch.allclose(log_p.exp().sum(1), torch.ones(len(MASKS), dtype=torch.float64))


def test_each_modality_can_be_asked_alone_and_an_absent_one_leaves_no_nan():
    fuser, features = build("late mean"), batch()
    features["text"][~VALID[:, 1]] = math.nan
    logits = fuser.modality_logits(features, VALID)
    assert list(logits) == list(DIMS) and all(q.isfinite().all() for q in logits.values())
    assert torch.allclose(logits["image"][0], fuser.heads["image"](features["image"][0]))


# Bad input


@pytest.mark.parametrize("name", FUSERS)
@pytest.mark.parametrize(
    ("change", "valid", "message"),
    [
        ({"taste": (4, 3)}, None, r"the modalities \['image', 'sound', 'text'\], found .*'taste'"),
        ({"text": None}, None, r"the modalities \['image', 'sound', 'text'\], found \['image', 'sound'\]"),
        ({"text": (4, 6)}, None, r"text: expected shape \(B, 5\), found \(4, 6\)"),
        ({"text": (4, 2, 5)}, None, r"text: expected shape \(B, 5\), found \(4, 2, 5\)"),
        ({"sound": (1, 2)}, None, r"as many items of each modality, found .*'sound': 1"),
        ({}, torch.ones(4, 2).bool(), r"valid: expected bool of shape \(4, 3\), found torch.bool .*\(4, 2\)"),
        ({}, torch.ones(4, 3), r"valid: expected bool of shape \(4, 3\), found torch.float32"),
    ],
)
def test_features_and_masks_that_do_not_fit_are_named(name, change, valid, message):
    shapes = {m: (4, width) for m, width in DIMS.items()} | change
    features = {m: torch.zeros(shape) for m, shape in shapes.items() if shape}
    with pytest.raises(ValueError, match=message):
        FUSERS[name](DIMS, OUT)(features, valid)


def test_features_that_are_not_floats_are_refused():
    with pytest.raises(TypeError, match="text: expected floats, found torch.int64"):
        SumFusion({"text": 5}, OUT)({"text": torch.zeros(2, 5, dtype=torch.int64)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SumFusion({}, 4), "dims: expected at least one modality, found none"),
        (lambda: SumFusion({"image": 0}, 4), "image: expected a width of at least 1, found 0"),
        (lambda: SumFusion({"image": 3}, 0), "out_dim: expected a width of at least 1, found 0"),
        (lambda: TransformerFusion(DIMS, 4, heads=3), "heads: expected a divisor of out_dim 4, found 3"),
        (
            lambda: BilinearFusion(dict.fromkeys("abc", 300), 4),
            "found 27270901 products times 4; see LowRank",
        ),
        (lambda: LowRankFusion(DIMS, 4, rank=0), "rank: expected a positive number, found 0"),
        (lambda: LateFusion(DIMS, 1), "out_dim: expected at least 2 classes, found 1"),
        (lambda: LateFusion(DIMS, 4, kind="vote"), "kind: expected mean, learnt or stacking; found 'vote'"),
        (lambda: logarithmic_pool(torch.zeros(2, 3, 4), torch.zeros(2, 4)), r"\(B, M, C\) and \(B, M\)"),
    ],
)
def test_a_fuser_that_cannot_be_built_says_why(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Training with several modalities


def test_only_modalities_that_are_ahead_of_the_others_are_slowed_by_the_equation():
    k = gradient_modulation({"image": 0.9, "text": 0.3, "sound": 0.6}, strength=0.7)
    assert k == {"image": pytest.approx(1 - math.tanh(0.7 * 0.9 / 0.45)), "text": 1, "sound": 1}
    two = gradient_modulation({"image": 0.5, "text": 0.25})
    assert two["image"] == pytest.approx(1 - math.tanh(0.5 * 2))
    further = gradient_modulation({"image": 0.9, "text": 0.25})
    assert further["image"] < two["image"]


@pytest.mark.parametrize(
    ("confidence", "strength", "expected"),
    [
        ({"image": 0.9}, 0.5, [1]),  # nobody to starve
        ({"image": 0.4, "text": 0.4}, 0.5, [1, 1]),
        ({"image": 0.0, "text": 0.0}, 0.5, [1, 1]),
        ({"image": 0.9, "text": 0.1}, 0.0, [1, 1]),
        ({"image": 0.9, "text": 0.0}, 0.0, [1, 1]),
        ({"image": 0.9, "text": 0.0}, 0.5, [0, 1]),
    ],
)
def test_modulation_at_its_limits(confidence, strength, expected):
    assert [*gradient_modulation(confidence, strength).values()] == expected


@pytest.mark.parametrize(
    ("confidence", "strength", "message"),
    [
        ({}, 0.5, "confidence: expected at least one modality, found none"),
        ({"image": 1.2}, 0.5, "image: expected a mean probability from 0 to 1, found 1.2"),
        ({"image": math.nan}, 0.5, "image: expected a mean probability from 0 to 1, found nan"),
        ({"image": 0.5}, -1.0, "strength: expected 0 or more, found -1.0"),
    ],
)
def test_modulation_refuses_what_is_no_confidence(confidence, strength, message):
    with pytest.raises(ValueError, match=message):
        gradient_modulation(confidence, strength)


# Shapley values


def game(players: str, seed: int = 0) -> dict[frozenset, Tensor]:
    """A value for each set of players, and for two items at once."""
    generator = torch.Generator().manual_seed(seed)
    sets = [frozenset(s) for size in range(len(players) + 1) for s in itertools.combinations(players, size)]
    return {s: torch.randn(2, generator=generator, dtype=torch.float64) for s in sets}


@pytest.mark.parametrize("players", ["a", "ab", "abcd", "abcdef"])
def test_a_shapley_value_is_the_mean_gain_over_all_orders_and_they_sum_to_the_whole(players):
    v = game(players)
    phi = shapley_values(v.__getitem__, players)
    gains = {m: [] for m in players}
    for order in itertools.permutations(players):
        for place, m in enumerate(order):
            gains[m].append(v[frozenset(order[: place + 1])] - v[frozenset(order[:place])])
    for m in players:
        assert torch.allclose(phi[m], torch.stack(gains[m]).mean(0))
    assert torch.allclose(sum(phi.values()), v[frozenset(players)] - v[frozenset()])


def test_modalities_that_change_the_same_get_the_same_and_one_that_changes_nothing_gets_zero():
    def value(s: frozenset) -> float:  # a and b are interchangeable, c is ignored
        return [0.1, 0.4, 0.9][len(s & {"a", "b"})]

    assert shapley_values(value, ["a", "b", "c"]) == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.0})


def test_redundancy_and_synergy_are_both_split_equally():
    assert shapley_values(lambda s: float(len(s) > 0), "ab") == {"a": 0.5, "b": 0.5}
    assert shapley_values(lambda s: float(len(s) > 1), "ab") == {"a": 0.5, "b": 0.5}


def test_each_set_is_asked_about_once():
    asked = []
    shapley_values(lambda s: asked.append(s) or 0.0, "abcd")
    assert len(asked) == len(set(asked)) == 2**4


@pytest.mark.parametrize("modalities", ["", "abcdefg", "aba"])
def test_too_many_modalities_none_or_one_twice_are_refused(modalities):
    with pytest.raises(ValueError, match=f"expected 1 to 6, each once; found {len(modalities)}"):
        shapley_values(lambda s: 0.0, modalities)


# Calibration


def predictions(items: int = 400, classes: int = 5) -> tuple[Tensor, Tensor]:
    p = (2 * torch.randn(items, classes, dtype=torch.float64)).softmax(1)
    return p, torch.multinomial(p.sqrt(), 1)[:, 0]  # less certain than they say


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_torchmetrics(bins):
    from torchmetrics.functional.classification import multiclass_calibration_error

    p, labels = predictions()
    peer = multiclass_calibration_error(p, labels, num_classes=5, n_bins=bins).item()
    assert peer > 0.05
    assert expected_calibration_error(p, labels, bins) == pytest.approx(peer, rel=1e-6)


def test_the_reliability_curve_is_the_loop_over_bins_that_have_items():
    p, labels = predictions(30)
    points = []
    for b in range(1, 11):
        inside = [i for i in range(30) if (b - 1) / 10 < p[i].max() <= b / 10]
        if inside:
            confidence = fmean(p[i].max().item() for i in inside)
            accuracy = fmean(float(p[i].argmax() == labels[i]) for i in inside)
            points.append((confidence, accuracy, len(inside) / 30))
    assert len(points) < 10
    for ours, expected in zip(reliability_curve(p, labels, bins=10), zip(*points, strict=True), strict=True):
        assert ours.tolist() == pytest.approx(list(expected))


def test_a_model_that_is_right_as_often_as_it_says_has_no_calibration_error():
    p = torch.tensor([[0.75, 0.25]], dtype=torch.float64).repeat(4, 1)
    assert expected_calibration_error(p, torch.tensor([0, 0, 0, 1])) == 0
    assert expected_calibration_error(p, torch.ones(4, dtype=torch.int64)) == pytest.approx(0.75)


def test_complete_confidence_falls_in_the_last_bin():
    p = torch.tensor([[1.0, 0.0], [0.95, 0.05]])
    confidence, accuracy, share = reliability_curve(p, torch.tensor([0, 1]), bins=10)
    assert confidence.tolist() == pytest.approx([0.975])
    assert (accuracy.tolist(), share.tolist()) == ([0.5], [1.0])


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.ones(4), torch.zeros(4).long(), r"probabilities: expected shape \(B, C\), found \(4,\)"),
        (torch.ones(0, 2), torch.zeros(0).long(), r"probabilities: expected shape \(B, C\), found \(0, 2\)"),
        (torch.ones(4, 2), torch.zeros(4).long(), "that sum to 1, found sums from 2.0 to 2.0"),
        (torch.tensor([[1.5, -0.5]]), torch.zeros(1).long(), "rows of 0 or more"),
        (torch.full((1, 2), math.nan), torch.zeros(1).long(), "rows of 0 or more"),
        (
            torch.ones(4, 2) / 2,
            torch.zeros(4),
            r"labels: expected int64 of shape \(4,\), found torch.float32",
        ),
        (torch.ones(4, 2) / 2, torch.zeros(3).long(), r"found torch.int64 of shape \(3,\)"),
        (torch.ones(4, 2) / 2, torch.full((4,), 2), "labels: expected classes 0 to 1, found 2 to 2"),
    ],
)
def test_what_is_no_prediction_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probabilities, labels)


def test_less_than_one_bin_is_refused():
    with pytest.raises(ValueError, match="bins: expected a positive number, found 0"):
        reliability_curve(*predictions(), bins=0)
