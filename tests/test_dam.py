"""Dual-modality attention: each part against loops over its equation, padding, time, gates, limits."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from mmtutor.attention import AdditiveAttention, LocationAttention, MultiHeadAttention, ScaledDotAttention
from mmtutor.cross_modal import masked_mean
from mmtutor.dam import (
    DAM,
    PARTS,
    CompositionAttention,
    FeatureExchange,
    HierarchicalAttention,
    InterAttention,
    LongTermMemory,
    Pool,
    ShortTermMemory,
    last_real,
)
from tests.by_hand import Vector, add, dot, linear, norm, random_weights, scale, tanh, tensors

D, H, BETA = 4, 3, 5.0
PAIR, THREE = ["picture", "animation"], ["picture", "animation", "sound"]
LENGTHS = {"picture": 4, "animation": 5, "sound": 3}
SEGMENT = {"picture": 2, "animation": 3, "sound": 2}
SHORT_TABLE = {
    "additive": AdditiveAttention,
    "dot": ScaledDotAttention,
    "location": partial(LocationAttention, max_length=6),
}
MAKE = {
    "exchange": lambda: FeatureExchange({"picture": 3, "animation": 5}, D),
    "hard exchange": lambda: FeatureExchange({"picture": 3, "animation": 5}, D, hard=True, replaced=0.5),
    "inter": lambda: InterAttention(D, PAIR, heads=2),
    "inter of three": lambda: InterAttention(D, THREE, heads=1),
    "composition": lambda: CompositionAttention(D, PAIR, SHORT_TABLE),
    "composition of three": lambda: CompositionAttention(D, THREE, SHORT_TABLE),
    "hierarchical": lambda: HierarchicalAttention(D, THREE, SEGMENT),
    "short": lambda: ShortTermMemory(D, window=2, recency=0.5),
    "long": lambda: LongTermMemory(D, slots=3),
    "dam": lambda: DAM(D, PAIR, state_dim=H, heads=2, segment=2, window=2, slots=2),
}
MEMORIES = ["short", "long"]
CROSS_MODAL = [kind for kind in MAKE if kind not in MEMORIES]
SOFT = [kind for kind in MAKE if kind != "hard exchange"]
EXCHANGES = ["exchange", "hard exchange"]
Sequence = dict[int, Vector]  # the real tokens of one item, by their place


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make(kind: str) -> nn.Module:
    return random_weights(MAKE[kind]())


def names(kind: str) -> list[str]:
    return THREE if kind in ("inter of three", "composition of three", "hierarchical") else PAIR


def width(kind: str, m: str) -> int:
    return {"picture": 3, "animation": 5}[m] if kind in EXCHANGES else D


def inputs(kind: str, rubbish: float = math.nan) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Items: whole, with padding, without picture, without animation, with nothing; rubbish at padding."""
    tokens, valid = {}, {}
    for m in names(kind):
        shape = (5, LENGTHS[m])
        valid[m] = torch.rand(shape) < 0.7
        valid[m][:4, 0], valid[m][1:3, 1] = True, False
        valid[m][0], valid[m][4] = True, False
        tokens[m] = torch.randn(*shape, width(kind, m), dtype=torch.float64)
    valid["picture"][2], valid["animation"][3] = False, False
    tokens = {m: torch.where(valid[m][..., None], x, rubbish) for m, x in tokens.items()}
    return tokens, valid


def call(kind: str, model: nn.Module, tokens, valid=None):
    """A memory reads the animation; for DAM, some columns of the tokens stand for the states."""
    if kind in MEMORIES:
        return model(tokens["animation"], None if valid is None else valid["animation"])
    if kind == "dam":
        return model(tokens, valid, {m: x[..., :H] for m, x in tokens.items()})
    return model(tokens, valid)


def item(of_all: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    return {m: x[i] for m, x in of_all.items()}


# The equations, item by item, as loops over numbers


def minus(a: Vector, b: Vector) -> Vector:
    return add(a, scale(-1.0, b))


def softmax(scores: dict) -> dict:
    total = sum(math.exp(e) for e in scores.values())
    return {j: math.exp(e) / total for j, e in scores.items()}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cosine(a: Vector, b: Vector) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def combine(weights: dict, x: dict, dim: int = D) -> Vector:
    return add([0.0] * dim, *(scale(w, x[j]) for j, w in weights.items()))


def mean(x: Sequence, dim: int = D) -> Vector:
    return combine(dict.fromkeys(x, 1 / max(len(x), 1)), x, dim)


def real(x: dict[str, Tensor], valid: dict[str, Tensor]) -> dict[str, Sequence]:
    return {m: {j: x[m][j].tolist() for j, v in enumerate(valid[m].tolist()) if v} for m in x}


def assert_written(found: Tensor, expected: dict) -> None:
    """The numbers or vectors stand in their places, and zeros in all others."""
    everywhere = torch.zeros_like(found)
    for place, value in expected.items():
        everywhere[place] = torch.tensor(value, dtype=found.dtype)
    torch.testing.assert_close(found, everywhere, rtol=1e-9, atol=1e-12)


def importance_by_loop(beta: float, own: Sequence, other: Sequence) -> dict[int, float]:
    received = dict.fromkeys(own, 0.0)
    for asks in other.values():
        for j, w in softmax({j: beta * cosine(asks, x_j) for j, x_j in own.items()}).items():
            received[j] += w
    return {j: r * len(own) / len(other) for j, r in received.items()} if other else received


def counterpart_by_loop(beta: float, x: Vector, other: Sequence) -> Vector:
    return combine(softmax({i: beta * cosine(x, y) for i, y in other.items()}), other)


def projected_by_loop(model: FeatureExchange, x: dict[str, Sequence]) -> dict[str, Sequence]:
    return {
        m: {j: linear(W, x_j) for j, x_j in x[m].items()}
        for m, W in zip(model.modalities, model.project, strict=True)
    }


def exchange_by_loop(model: FeatureExchange, x: dict[str, Sequence]):
    beta, u, v = math.exp(model.log_sharpness.item()), model.u.item(), math.exp(model.log_v.item())
    x, exchanged, gates = projected_by_loop(model, x), {}, {}
    for m, n in itertools.permutations(x, 2):
        importance = importance_by_loop(beta, x[m], x[n])
        least = sorted(x[m], key=importance.get)[: round(model.replaced * len(x[m]))]
        gates[m] = {j: float(j in least) if model.hard else sigmoid(u - v * importance[j]) for j in x[m]}
        if not x[n]:
            gates[m] = dict.fromkeys(x[m], 0.0)
        exchanged[m] = {}
        for j, x_j in x[m].items():
            moved = minus(counterpart_by_loop(beta, x_j, x[n]), x_j)
            exchanged[m][j] = add(x_j, scale(gates[m][j], moved))
    return exchanged, gates


def heads_by_loop(attention: MultiHeadAttention, x: Vector, keys: Sequence) -> tuple[Vector, list[dict]]:
    """What one query reads, and its weights for each head."""
    size, W, b = D // attention.heads, attention.in_proj_weight.tolist(), attention.in_proj_bias.tolist()

    def project(part: int, h: int, y: Vector) -> Vector:
        start = part * D + h * size
        return [dot(W[start + k], y) + b[start + k] for k in range(size)]

    out, weights = [], []
    for h in range(attention.heads):
        q = project(0, h, x)
        alpha = softmax({j: dot(q, project(1, h, y)) / math.sqrt(size) for j, y in keys.items()})
        out += combine(alpha, {j: project(2, h, y) for j, y in keys.items()}, size)
        weights.append(alpha)
    return (linear(attention.out_proj, out) if keys else [0.0] * D), weights


def inter_by_loop(model: InterAttention, x: dict[str, Sequence]):
    normed = {
        m: {j: norm(N, y) for j, y in x[m].items()}
        for m, N in zip(model.modalities, model.norms, strict=True)
    }
    read, weights = {m: dict(x[m]) for m in x}, {}
    for a, b in itertools.permutations(model.modalities, 2):
        look, weights[a, b] = model.looks[model.pairs.index((a, b))], {}
        for i in x[a]:
            found, of_heads = heads_by_loop(look, normed[a][i], normed[b])
            read[a][i] = add(read[a][i], scale(1 / (len(x) - 1), found))
            weights[a, b] |= {(h, i, j): w for h, alpha in enumerate(of_heads) for j, w in alpha.items()}
    return read, weights


def look_by_loop(look: nn.Module, q: Vector, x: Sequence) -> dict[int, float]:
    if isinstance(look, AdditiveAttention):
        asked = linear(look.W_q, q)
        return softmax({j: linear(look.w, tanh(add(asked, linear(look.W_k, y))))[0] for j, y in x.items()})
    if isinstance(look, LocationAttention):
        return softmax({j: linear(look.W, q)[j] for j in x})
    return softmax({j: dot(q, y) / math.sqrt(D) for j, y in x.items()})


def composition_by_loop(model: CompositionAttention, x: dict[str, Sequence]):
    s, contexts, weights, mixes = {m: mean(x[m]) for m in x}, {}, {}, {}
    for n, a in enumerate(model.modalities):
        asks = mean({m: s_m for m, s_m in s.items() if m != a})
        q, scores = linear(model.queries[n], asks), linear(model.mixes[n], asks)
        mixes[a] = softmax(dict(enumerate(scores)))
        alphas = [look_by_loop(look, q, x[a]) for look in model.looks[n]]
        weights[a] = {j: sum(mixes[a][k] * alpha[j] for k, alpha in enumerate(alphas)) for j in x[a]}
        contexts[a] = combine(weights[a], x[a])
    return contexts, weights, mixes


def pool_by_loop(pool: Pool, x: dict) -> tuple[Vector, dict]:
    alpha = softmax({j: linear(pool.q, tanh(linear(pool.hidden, y)))[0] for j, y in x.items()})
    return combine(alpha, x), alpha


def hierarchy_by_loop(model: HierarchicalAttention, x: dict[str, Sequence]):
    vectors, alpha, beta = {}, {}, {}
    for n, m in enumerate(model.modalities):
        segments, alpha[m] = {}, {}
        for s in {j // model.segment[m] for j in x[m]}:
            inside = {j: y for j, y in x[m].items() if j // model.segment[m] == s}
            segments[s], weights = pool_by_loop(model.tokens[n], inside)
            alpha[m] |= weights
        vector, beta[m] = pool_by_loop(model.segments[n], segments)
        if segments:
            vectors[m] = vector
    z, gamma = pool_by_loop(model.choice, vectors)
    product = {m: {j: gamma[m] * beta[m][j // model.segment[m]] * w for j, w in alpha[m].items()} for m in x}
    return z, product, {"tokens": alpha, "segments": beta, "modalities": gamma}


def short_by_loop(model: ShortTermMemory, h: Sequence):
    recency, contexts, weights = math.exp(model.log_recency.item()), {}, {}
    for t in h:
        q = linear(model.W_q, h[t])
        scores = {
            j: dot(q, linear(model.W_k, h[j])) / math.sqrt(model.dim) - recency * (t - j)
            for j in h
            if t - model.window <= j < t
        }
        alpha = softmax(scores)
        contexts[t] = combine(alpha, h, model.dim)
        weights |= {(t, j): w for j, w in alpha.items()}
    return contexts, weights


def long_by_loop(model: LongTermMemory, h: Sequence):
    k, root = dict(enumerate(model.keys.tolist())), math.sqrt(model.dim)
    v = {n: [0.0] * model.dim for n in k}
    contexts, read, write = {}, {}, {}
    for t in h:
        r, w, new = (linear(W, h[t]) for W in (model.W_r, model.W_w, model.W_v))
        rho = softmax({n: dot(r, add(k[n], v[n])) / root for n in k})
        contexts[t] = combine(rho, v, model.dim)
        g, where = sigmoid(linear(model.gate, h[t])[0]), softmax({n: dot(w, k[n]) / root for n in k})
        v = {n: add(v[n], scale(g * where[n], minus(new, v[n]))) for n in k}
        read |= {(t, n): rho[n] for n in k}
        write |= {(t, n): g * where[n] for n in k}
    return contexts, read, write


def dam_by_loop(model: DAM, x: dict[str, Sequence], states: dict[str, Sequence]) -> Vector:
    found = [mean(x[m]) for m in model.modalities]
    parts = model.parts
    if "inter" in parts:
        x, _ = inter_by_loop(parts["inter"], x)
        found += [mean(x[m]) for m in model.modalities]
    if "composition" in parts:
        found += composition_by_loop(parts["composition"], x)[0].values()
    if "hierarchical" in parts:
        found.append(hierarchy_by_loop(parts["hierarchical"], x)[0])
    for part, loop in (("short", short_by_loop), ("long", long_by_loop)):
        for m in model.timed if part in parts else ():
            contexts = loop(parts[part], states[m])[0]
            found.append(contexts[max(contexts)] if contexts else [0.0] * H)
    return linear(model.join, [value for vector in found for value in vector])


@pytest.mark.parametrize("kind", EXCHANGES)
def test_the_exchange_equals_the_loop_over_its_equation(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    exchanged, gates = model(tokens, valid)
    for i in range(5):
        x, g = exchange_by_loop(model, real(item(tokens, i), item(valid, i)))
        for m in PAIR:
            assert_written(exchanged[m][i], x[m])
            assert_written(gates[m][i], g[m])


@pytest.mark.parametrize("kind", ["inter", "inter of three"])
def test_inter_attention_equals_the_loop_over_its_equation(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    read, weights = model(tokens, valid)
    assert set(weights) == set(itertools.permutations(names(kind), 2))
    for i in range(5):
        x, alpha = inter_by_loop(model, real(item(tokens, i), item(valid, i)))
        for m in names(kind):
            assert_written(read[m][i], x[m])
        for pair, w in weights.items():
            assert_written(w[i], alpha[pair])


@pytest.mark.parametrize("kind", ["composition", "composition of three"])
def test_composition_attention_equals_the_loop_over_its_equation(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    results = model(tokens, valid)
    for i in range(5):
        contexts, weights, mixes = composition_by_loop(model, real(item(tokens, i), item(valid, i)))
        for m in names(kind):
            assert results[0][m][i].tolist() == pytest.approx(contexts[m], rel=1e-9, abs=1e-12)
            assert_written(results[1][m][i], weights[m])
            assert_written(results[2][m][i], mixes[m])


def test_a_pool_equals_the_loop_over_its_equation():
    pool, x = random_weights(Pool(D)), torch.randn(2, 3, 5, D, dtype=torch.float64)
    valid = torch.rand(2, 3, 5) < 0.6
    valid[0, 0], valid[1, 2] = False, True
    z, weights = pool(torch.where(valid[..., None], x, math.nan), valid)
    for place in itertools.product(range(2), range(3)):
        expected, alpha = pool_by_loop(pool, real({"x": x[place]}, {"x": valid[place]})["x"])
        assert z[place].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert_written(weights[place], alpha)


def test_hierarchical_attention_equals_the_loop_over_its_equation():
    model, (tokens, valid) = make("hierarchical"), inputs("hierarchical")
    z, product = model(tokens, valid)
    same, levels = model.read(tokens, valid)
    assert torch.equal(z, same)
    assert [levels["segments"][m].shape for m in THREE] == [(5, 2), (5, 2), (5, 2)]
    for i in range(5):
        expected, weights, of_level = hierarchy_by_loop(model, real(item(tokens, i), item(valid, i)))
        assert z[i].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert_written(
            levels["modalities"][i], {THREE.index(m): w for m, w in of_level["modalities"].items()}
        )
        for m in THREE:
            assert_written(product[m][i], weights[m])
            for level in ("tokens", "segments"):
                assert_written(levels[level][m][i], of_level[level][m])


@pytest.mark.parametrize("window", [1, 2, 9])
def test_the_short_memory_equals_the_loop_over_its_equation(window):
    model = random_weights(ShortTermMemory(D, window=window))
    h, valid = torch.randn(5, 6, D, dtype=torch.float64), torch.rand(5, 6) < 0.7
    valid[0], valid[4] = True, False
    contexts, weights = model(torch.where(valid[..., None], h, math.nan), valid)
    for i in range(5):
        c, alpha = short_by_loop(model, real({"h": h[i]}, {"h": valid[i]})["h"])
        assert_written(contexts[i], c)
        assert_written(weights[i], alpha)


def test_the_long_memory_equals_the_loop_over_its_equation():
    model = random_weights(LongTermMemory(D, slots=3))
    h, valid = torch.randn(5, 6, D, dtype=torch.float64), torch.rand(5, 6) < 0.7
    valid[0], valid[4] = True, False
    contexts, weights = model(torch.where(valid[..., None], h, math.nan), valid)
    for i in range(5):
        c, read, write = long_by_loop(model, real({"h": h[i]}, {"h": valid[i]})["h"])
        assert_written(contexts[i], c)
        assert_written(weights["read"][i], read)
        assert_written(weights["write"][i], write)


@pytest.mark.parametrize("timed", [None, ["animation"]])
@pytest.mark.parametrize("parts", [PARTS, ("composition", "hierarchical"), ("inter", "long"), ()])
def test_dam_joins_what_the_loops_of_its_parts_find(parts, timed):
    model = DAM(D, PAIR, state_dim=H, parts=parts, heads=2, segment=2, window=2, timed=timed)
    model, (tokens, valid) = random_weights(model), inputs("dam")
    states = {m: torch.randn(*v.shape, H, dtype=torch.float64) for m, v in valid.items()}
    z, _ = model(tokens, valid, {m: states[m] for m in model.timed})
    for i in range(5):
        here = item(valid, i)
        expected = dam_by_loop(model, real(item(tokens, i), here), real(item(states, i), here))
        assert z[i].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_last_real_step_is_that_of_a_loop():
    x, valid = torch.randn(6, 4, 2), torch.rand(6, 4) < 0.5
    valid[0], valid[1], valid[2] = True, False, torch.tensor([False, True, False, False])
    found = last_real(torch.where(valid[..., None], x, math.nan).requires_grad_(), valid)
    for i in range(6):
        expected = [0.0, 0.0]
        for step, v in zip(x[i].tolist(), valid[i].tolist(), strict=True):
            expected = step if v else expected
        assert found[i].tolist() == expected
    assert torch.equal(last_real(x, torch.ones(6, 4, dtype=torch.bool)), x[:, -1])


# Padding


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("rubbish", [math.nan, math.inf])
def test_what_stands_at_padding_touches_neither_results_nor_gradients(kind, rubbish):
    model = make(kind)
    results, gradients = [], []
    for filler in (0.0, rubbish):
        torch.manual_seed(1)
        tokens, valid = inputs(kind, filler)
        read = {m: x.requires_grad_() for m, x in tokens.items() if kind not in MEMORIES or m == "animation"}
        found = tensors(call(kind, model, tokens, valid))
        total = sum((t * torch.randn_like(t)).sum() for t in found)
        results.append(found)
        gradients.append(torch.autograd.grad(total, [*read.values(), *model.parameters()]))
    for found, expected in zip(results[1], results[0], strict=True):
        assert torch.equal(found, expected) and found.isfinite().all()
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        assert torch.equal(found, expected) and found.isfinite().all() and (found != 0).any()
    for g, m in zip(gradients[1], read, strict=False):
        assert (g[~valid[m]] == 0).all()


def test_what_stands_at_padding_touches_neither_a_pool_nor_the_last_step():
    pool, valid = random_weights(Pool(D)), torch.tensor([[True, False, True], [False] * 3])
    x = torch.where(valid[..., None], torch.randn(2, 3, D, dtype=torch.float64), math.nan).requires_grad_()
    z, weights = pool(x, valid)
    (z.square().sum() + weights.square().sum() + last_real(x, valid).square().sum()).backward()
    for gradient in (x.grad, *(p.grad for p in pool.parameters())):
        assert gradient.isfinite().all() and (gradient != 0).any()
    assert (x.grad[~valid] == 0).all() and (z[1] == 0).all()


def longer(t: Tensor, like: Tensor) -> Tensor:
    """Write zeros behind what is there, along each axis that is longer elsewhere."""
    grown = torch.zeros_like(like)
    grown[tuple(slice(n) for n in t.shape)] = t
    return grown


@pytest.mark.parametrize("kind", MAKE)
def test_more_padding_at_the_end_gives_the_same_and_zeros_behind_it(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    more = {
        m: torch.cat([x, torch.full((5, 1, x.shape[2]), math.nan, dtype=x.dtype)], 1)
        for m, x in tokens.items()
    }
    valid_more = {m: torch.cat([v, torch.zeros(5, 1, dtype=torch.bool)], 1) for m, v in valid.items()}
    results = tensors(call(kind, model, tokens, valid))
    for found, expected in zip(tensors(call(kind, model, more, valid_more)), results, strict=True):
        torch.testing.assert_close(found, longer(expected, found), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [*MEMORIES, "exchange", "hard exchange", "inter"])
def test_padding_in_front_only_moves_what_is_found(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    expected = tensors(call(kind, model, tokens, valid))
    front = {m: torch.cat([torch.full_like(x[:, :2], math.nan), x], 1) for m, x in tokens.items()}
    valid_front = {m: torch.cat([torch.zeros_like(v[:, :2]), v], 1) for m, v in valid.items()}
    for f, e in zip(tensors(call(kind, model, front, valid_front)), expected, strict=True):
        rest = tuple(slice(n - m, None) for n, m in zip(f.shape, e.shape, strict=True))
        torch.testing.assert_close(f[rest], e, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("kind", MAKE)
def test_items_without_any_token_give_zeros_and_nothing_on_the_way_back_is_nan(kind):
    model, (tokens, _) = make(kind), inputs(kind)
    nothing = {m: torch.zeros(x.shape[:2], dtype=torch.bool) for m, x in tokens.items()}
    with torch.autograd.detect_anomaly():
        results = call(kind, model, {m: x.requires_grad_() for m, x in tokens.items()}, nothing)
        sum(t.sum() for t in tensors(results)).backward()
    assert all(x.grad is None or (x.grad == 0).all() for x in tokens.values())
    if kind.startswith("composition"):  # how the looks would be mixed is known from nothing
        *results, mixes = results
        torch.testing.assert_close(mixes["picture"], model.mixes[0].bias.softmax(0).expand(5, -1))
    if kind == "dam":  # only the constant of the last map
        z, weights = results
        assert torch.equal(z, model.join.bias.expand(5, D))
        results = [w for part, w in weights.items() if part != "mix"]
    assert all((t == 0).all() for t in tensors(results))


@pytest.mark.parametrize("kind", EXCHANGES)
def test_an_item_without_the_other_modality_keeps_its_tokens(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    exchanged, gates = model(tokens, valid)
    W = dict(zip(PAIR, model.project, strict=True))
    for i, present, absent in ((2, "animation", "picture"), (3, "picture", "animation")):
        here = valid[present][i]
        torch.testing.assert_close(exchanged[present][i, here], W[present](tokens[present][i, here]))
        assert (exchanged[absent][i] == 0).all() and (gates[present][i] == 0).all() and here.any()


def test_inter_attention_leaves_an_item_without_the_other_modality_as_it_was():
    model, (tokens, valid) = make("inter"), inputs("inter")
    read, weights = model(tokens, valid)
    for i, present, absent in ((2, "animation", "picture"), (3, "picture", "animation")):
        here = valid[present][i]
        assert torch.equal(read[present][i, here], tokens[present][i, here]) and here.any()
        assert (read[absent][i] == 0).all() and all((w[i] == 0).all() for w in weights.values())


def test_composition_without_the_other_modality_looks_by_its_constants():
    model, (tokens, valid) = make("composition"), inputs("composition")
    contexts, weights, mixes = model(tokens, valid)
    for i, present, absent in ((2, 1, 0), (3, 0, 1)):
        here, n = valid[PAIR[present]][i], PAIR[present]
        torch.testing.assert_close(mixes[n][i], model.mixes[present].bias.softmax(0))
        found = weights[n][i]
        assert found.sum().item() == pytest.approx(1) and torch.equal(found > 0, here)
        assert (contexts[PAIR[absent]][i] == 0).all() and (weights[PAIR[absent]][i] == 0).all()


def test_hierarchical_attention_gives_all_weight_to_the_modality_that_is_there():
    model, (tokens, valid) = make("hierarchical"), inputs("hierarchical")
    valid["sound"][2] = False
    _, levels = model.read(tokens, valid)
    assert levels["modalities"][2].tolist() == [0.0, 1.0, 0.0]
    assert levels["modalities"][4].tolist() == [0.0, 0.0, 0.0]
    assert (levels["modalities"][0] > 0).all()


@pytest.mark.parametrize("kind", CROSS_MODAL)
def test_a_sequence_of_length_zero_is_one_of_padding(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    valid["animation"][:] = False
    padded = tensors(call(kind, model, tokens, valid))
    tokens["animation"], valid["animation"] = tokens["animation"][:, :0], valid["animation"][:, :0]
    compared = 0
    for found, expected in zip(tensors(call(kind, model, tokens, valid)), padded, strict=True):
        if found.numel():
            torch.testing.assert_close(longer(found, expected), expected)
            compared += 1
        else:  # nothing is left of the tokens of the animation, nor of weights on them
            assert (expected == 0).all()
    assert 0 < compared < len(padded)


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("steps", [0, 1])
def test_a_memory_of_no_step_or_of_one_has_nothing_to_tell(kind, steps):
    contexts, weights = make(kind)(torch.randn(2, steps, D, dtype=torch.float64))
    assert contexts.shape == (2, steps, D) and (contexts == 0).all()
    assert all(w.shape[:2] == (2, steps) for w in tensors(weights))
    assert last_real(contexts, torch.ones(2, steps, dtype=torch.bool)).tolist() == [[0.0] * D] * 2


@pytest.mark.parametrize("kind", MAKE)
def test_one_token_a_modality_gives_finite_results_of_the_right_shape(kind):
    model, (tokens, valid) = make(kind), inputs(kind, 0.5)
    one = {m: x[:, :1] for m, x in tokens.items()}, {m: v[:, :1] for m, v in valid.items()}
    for f, e in zip(tensors(call(kind, model, *one)), tensors(call(kind, model, tokens, valid)), strict=True):
        assert f.isfinite().all() and f.ndim == e.ndim


@pytest.mark.parametrize("kind", MAKE)
def test_no_items_give_no_results(kind):
    tokens, valid = inputs(kind)
    none = {m: x[:0] for m, x in tokens.items()}, {m: v[:0] for m, v in valid.items()}
    found = tensors(call(kind, make(kind), *none))
    expected = tensors(call(kind, make(kind), tokens, valid))
    assert [f.shape for f in found] == [(0, *e.shape[1:]) for e in expected]
    assert last_real(torch.zeros(0, 3, 2), torch.zeros(0, 3, dtype=torch.bool)).shape == (0, 2)


@pytest.mark.parametrize("kind", MAKE)
def test_without_a_mask_all_is_real_and_the_order_of_the_names_does_not_matter(kind):
    model, (tokens, valid) = make(kind), inputs(kind, 0.5)
    expected = tensors(call(kind, model, tokens, {m: torch.ones_like(v) for m, v in valid.items()}))
    found = tensors(call(kind, model, dict(reversed(tokens.items()))))
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", MAKE)
def test_a_token_that_is_no_number_spoils_its_own_item_and_no_other(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    expected = tensors(call(kind, model, tokens, valid))
    tokens["animation"][0, 0] = math.nan
    found = tensors(call(kind, model, tokens, valid))
    assert any(f[0].isnan().any() for f in found)
    assert all(torch.equal(f[1:], e[1:]) for f, e in zip(found, expected, strict=True))


# Weights


def test_composition_weights_are_a_distribution_over_what_is_real():
    model, (tokens, valid) = make("composition"), inputs("composition")
    _, weights, mixes = model(tokens, valid)
    for m in PAIR:
        assert torch.equal(weights[m] > 0, valid[m]) and (weights[m] >= 0).all()
        torch.testing.assert_close(weights[m].sum(1), valid[m].any(1).double())
        assert (mixes[m] > 0).all()
        torch.testing.assert_close(mixes[m].sum(1), torch.ones(5).double())


@pytest.mark.parametrize("kind", ["inter", "inter of three"])
def test_inter_weights_of_each_head_and_real_token_are_a_distribution(kind):
    tokens, valid = inputs(kind)
    for (a, b), w in make(kind)(tokens, valid)[1].items():
        reads = (valid[a][:, :, None] & valid[b][:, None])[:, None].expand_as(w)
        assert torch.equal(w > 0, reads) and (w >= 0).all()
        torch.testing.assert_close(w.sum(3), reads.any(3).double())


def test_the_products_of_hierarchical_weights_sum_to_one_over_all_tokens():
    tokens, valid = inputs("hierarchical")
    z, weights = make("hierarchical")(tokens, valid)
    assert all(torch.equal(weights[m] > 0, valid[m]) and (weights[m] >= 0).all() for m in THREE)
    torch.testing.assert_close(
        sum(w.sum(1) for w in weights.values()), torch.tensor([1, 1, 1, 1, 0]).double()
    )
    clean = {m: tokens[m].nan_to_num() for m in THREE}
    torch.testing.assert_close(z, sum(torch.einsum("bl,bld->bd", weights[m], clean[m]) for m in THREE))


def test_short_weights_are_a_distribution_where_there_is_a_past():
    h, valid = torch.randn(5, 7, D, dtype=torch.float64), torch.rand(5, 7) < 0.6
    valid[0], valid[1] = True, torch.tensor([True, False, False, True, False, True, True])
    _, weights = random_weights(ShortTermMemory(D, window=2))(h, valid)
    past = torch.zeros(7, 7, dtype=torch.bool)
    for t in range(7):
        past[t, max(t - 2, 0) : t] = True
    seen = past & valid[:, None] & valid[:, :, None]
    assert torch.equal(weights > 0, seen) and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(2), seen.any(2).double())
    assert (weights[1, 3] == 0).all()  # a gap of the window has been forgotten


def test_long_reads_are_a_distribution_and_writes_are_what_the_gate_lets_through():
    model = random_weights(LongTermMemory(D, slots=3))
    h, valid = torch.randn(5, 6, D, dtype=torch.float64), torch.rand(5, 6) < 0.6
    _, weights = model(h, valid)
    real = valid[..., None].expand(5, 6, 3)
    for w in weights.values():
        assert torch.equal(w > 0, real) and (w >= 0).all()
    torch.testing.assert_close(weights["read"].sum(2), valid.double())
    gate = torch.sigmoid(model.gate(h))[..., 0]
    torch.testing.assert_close(weights["write"].sum(2), torch.where(valid, gate, 0))


# Order


@pytest.mark.parametrize("kind", [*EXCHANGES, "inter", "inter of three"])
def test_what_is_found_follows_the_tokens_when_these_change_places(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    (x, weights), order = model(tokens, valid), torch.tensor([2, 0, 4, 1, 3])
    tokens["animation"], valid["animation"] = tokens["animation"][:, order], valid["animation"][:, order]
    moved, moved_weights = model(tokens, valid)
    for m in names(kind):
        torch.testing.assert_close(moved[m], x[m][:, order] if m == "animation" else x[m])
    for key, w in weights.items():
        if key == "animation" or key[1] == "animation":
            w = w[..., order]
        elif key[0] == "animation":
            w = w[..., order, :]
        torch.testing.assert_close(moved_weights[key], w)


def test_a_pool_does_not_see_the_order():
    pool, x = random_weights(Pool(D)), torch.randn(3, 5, D, dtype=torch.float64)
    valid, order = torch.rand(3, 5) < 0.7, torch.tensor([2, 0, 4, 1, 3])
    (z, weights), (z_moved, moved) = pool(x, valid), pool(x[:, order], valid[:, order])
    torch.testing.assert_close(z_moved, z)
    torch.testing.assert_close(moved, weights[:, order])


@pytest.mark.parametrize("kinds", [("additive", "dot"), ("location",), tuple(SHORT_TABLE)])
def test_composition_follows_the_tokens_unless_one_kind_looks_at_places(kinds):
    model = random_weights(CompositionAttention(D, PAIR, {k: SHORT_TABLE[k] for k in kinds}))
    tokens, _ = inputs("composition", 0.5)
    order = torch.tensor([2, 0, 4, 1, 3])
    contexts, weights, _ = model(tokens)
    tokens["animation"] = tokens["animation"][:, order]
    moved, moved_weights, _ = model(tokens)
    follows = torch.allclose(moved_weights["animation"], weights["animation"][:, order])
    assert follows == torch.allclose(moved["animation"], contexts["animation"]) == ("location" not in kinds)
    if kinds == ("location",):  # the other modality asks as before, for the same places
        torch.testing.assert_close(moved_weights["animation"], weights["animation"])


# The exchange


def test_importance_is_one_on_average_over_the_real_tokens():
    model, cosines = make("exchange"), torch.rand(4, 5, 3, dtype=torch.float64) * 2 - 1
    own, other = torch.rand(4, 5) < 0.6, torch.rand(4, 3) < 0.6
    own[:3, 0], other[:3, 0], other[3] = True, True, False
    found = model.importance(model.look(cosines.mT, own), own, other)
    torch.testing.assert_close(found.sum(1)[:3], own[:3].sum(1).double())
    assert (found[~own] == 0).all() and (found[3] == 0).all() and (found[:3][own[:3]] > 0).all()


@pytest.mark.parametrize("replaced", [0.0, 0.2, 0.35, 0.5, 0.9, 1.0])
def test_a_hard_gate_replaces_the_share_of_least_importance_and_nothing_else(replaced):
    model = random_weights(FeatureExchange({"a": 3, "b": 2}, D, hard=True, replaced=replaced))
    tokens = {m: torch.randn(6, L, d, dtype=torch.float64) for m, L, d in (("a", 9, 3), ("b", 7, 2))}
    valid = {m: torch.rand(x.shape[:2]) < 0.7 for m, x in tokens.items()}
    for v in valid.values():
        v[:, 0] = True
    exchanged, gates = model(tokens, valid)
    beta = math.exp(model.log_sharpness.item())
    for i in range(6):
        x = projected_by_loop(model, real(item(tokens, i), item(valid, i)))
        for m, n in (("a", "b"), ("b", "a")):
            importance = importance_by_loop(beta, x[m], x[n])
            chosen = {j for j, g in enumerate(gates[m][i].tolist()) if g == 1}
            assert len(chosen) == round(replaced * len(x[m])) and chosen <= set(x[m])
            assert set(gates[m][i].tolist()) <= {0.0, 1.0}
            kept = [importance[j] for j in x[m] if j not in chosen]
            assert max([importance[j] for j in chosen], default=0) <= min(kept, default=math.inf)
            for j, x_j in x[m].items():
                expected = counterpart_by_loop(beta, x_j, x[n]) if j in chosen else x_j
                assert exchanged[m][i, j].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_nothing_is_replaced_with_a_share_of_zero():
    model = random_weights(FeatureExchange({"picture": 3, "animation": 5}, D, hard=True, replaced=0))
    tokens, valid = inputs("exchange", 0.5)
    exchanged, gates = model(tokens, valid)
    for m, W in zip(PAIR, model.project, strict=True):
        expected = torch.where(valid[m][..., None], W(tokens[m]), 0)
        torch.testing.assert_close(exchanged[m], expected, rtol=1e-12, atol=1e-12)
        assert (gates[m] == 0).all()


@pytest.mark.parametrize(("u", "hard", "replaced"), [(-60.0, True, 0.0), (60.0, True, 1.0)])
def test_a_soft_gate_that_is_shut_or_open_is_a_hard_one(u, hard, replaced):
    soft, (tokens, valid) = make("exchange"), inputs("exchange")
    with torch.no_grad():
        soft.u.fill_(u), soft.log_v.fill_(-2.0)
    limit = FeatureExchange(soft.dims, D, hard=True, replaced=replaced).double()
    limit.load_state_dict(soft.state_dict())
    for found, expected in zip(tensors(soft(tokens, valid)), tensors(limit(tokens, valid)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", EXCHANGES)
def test_both_modalities_read_the_original_features_in_either_order(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    turned = FeatureExchange(dict(reversed(model.dims.items())), D, hard=model.hard, replaced=0.5).double()
    turned.load_state_dict(model.state_dict() | {
        f"project.{1 - n}.{name}": p for n, W in enumerate(model.project) for name, p in W.named_parameters()
    })  # fmt: skip
    for found, expected in zip(turned(tokens, valid), model(tokens, valid), strict=True):
        assert list(found) == PAIR[::-1]
        for m in PAIR:
            torch.testing.assert_close(found[m], expected[m])


def test_a_token_whose_like_stands_in_the_other_modality_stays_as_it_is_when_it_is_replaced():
    model = FeatureExchange({"a": D, "b": D}, D, hard=True, replaced=1.0, sharpness=1e4).double()
    for W in model.project:
        nn.init.eye_(W.weight), nn.init.zeros_(W.bias)
    a = torch.randn(2, 6, D, dtype=torch.float64)
    exchanged, gates = model({"a": a, "b": a.flip(1)})
    torch.testing.assert_close(exchanged["a"], a)
    torch.testing.assert_close(exchanged["b"], a.flip(1))
    C = torch.einsum("bid,bjd->bij", *2 * [a / a.norm(dim=2, keepdim=True)])
    everything = torch.ones(2, 6, dtype=torch.bool)
    torch.testing.assert_close(
        model.importance(model.look(C.mT, everything), everything, everything), torch.ones(2, 6).double()
    )


def test_equal_tokens_are_replaced_by_number_all_the_same():
    model = FeatureExchange({"a": 2, "b": 2}, D, hard=True, replaced=0.5)
    valid = torch.tensor([[False, True, True, True, True], [True, True, False, False, False]])
    _, gates = model({"a": torch.ones(2, 5, 2), "b": torch.zeros(2, 3, 2)}, {"a": valid})
    assert gates["a"].sum(1).tolist() == [2, 1] and (gates["a"][~valid] == 0).all()
    assert gates["b"].sum(1).tolist() == [2, 2]


def soft_and_hard() -> tuple[list[FeatureExchange], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """A soft and a hard exchange of the same weights, inputs, and a random factor for each gate."""
    models, (tokens, valid) = [make(kind) for kind in EXCHANGES], inputs("exchange")
    models[1].load_state_dict(models[0].state_dict())
    return models, tokens, valid, {m: torch.randn(5, LENGTHS[m], dtype=torch.float64) for m in PAIR}


def weighted(gates: dict[str, Tensor], c: dict[str, Tensor]) -> Tensor:
    return sum((c[m] * gates[m]).sum() for m in PAIR)


def test_the_gradient_of_hard_gates_is_that_of_the_soft_ones():
    models, tokens, valid, c = soft_and_hard()
    losses, gradients = [], []
    for model in models:
        losses.append(weighted(model({m: x.requires_grad_() for m, x in tokens.items()}, valid)[1], c))
        gradients.append(torch.autograd.grad(losses[-1], [*tokens.values(), *model.parameters()]))
    assert losses[0].item() != pytest.approx(losses[1].item())
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)
        assert (expected != 0).any()


@pytest.mark.parametrize("seed", range(5))
def test_a_step_down_the_gradient_of_hard_gates_lowers_the_loss_of_soft_ones(seed):
    torch.manual_seed(seed)
    (soft, hard), tokens, valid, c = soft_and_hard()
    weighted(hard(tokens, valid)[1], c).backward()
    with torch.no_grad():
        before = weighted(soft(tokens, valid)[1], c)
        for p, of_hard in zip(soft.parameters(), hard.parameters(), strict=True):
            p -= 1e-3 * of_hard.grad
        assert weighted(soft(tokens, valid)[1], c) < before


def test_the_gradient_of_u_counts_what_a_hard_gate_would_move_and_the_slope_of_the_soft_one():
    (_, model), tokens, valid, _ = soft_and_hard()
    c = {m: torch.randn(5, LENGTHS[m], D, dtype=torch.float64) for m in PAIR}
    weighted(model(tokens, valid)[0], c).backward()
    u, v, beta = model.u.item(), math.exp(model.log_v.item()), math.exp(model.log_sharpness.item())
    expected = 0.0
    for i in range(5):
        x = projected_by_loop(model, real(item(tokens, i), item(valid, i)))
        for m, n in (PAIR, PAIR[::-1]):
            for j, importance in importance_by_loop(beta, x[m], x[n]).items() if x[n] else ():
                moved = minus(counterpart_by_loop(beta, x[m][j], x[n]), x[m][j])
                g = sigmoid(u - v * importance)
                expected += dot(c[m][i, j].tolist(), moved) * g * (1 - g)
    assert model.u.grad.item() == pytest.approx(expected, rel=1e-9)


def test_more_important_tokens_are_replaced_less():
    model = make("exchange")
    importance = torch.rand(3, 6, dtype=torch.float64).sort(1).values
    gates = model.gate(importance, torch.ones(3, 6, dtype=torch.bool))
    assert (gates.diff(dim=1) < 0).all() and ((gates > 0) & (gates < 1)).all()


# Limits


def test_inter_attention_is_the_identity_where_nothing_comes_out():
    model, (tokens, valid) = make("inter"), inputs("inter")
    for look in model.looks:
        nn.init.zeros_(look.out_proj.weight), nn.init.zeros_(look.out_proj.bias)
    read, _ = model(tokens, valid)
    for m in PAIR:
        assert torch.equal(read[m], torch.where(valid[m][..., None], tokens[m], 0))


@pytest.mark.parametrize("kind", SHORT_TABLE)
def test_composition_of_one_kind_is_that_kind(kind):
    model = random_weights(CompositionAttention(D, PAIR, {kind: SHORT_TABLE[kind]}))
    tokens, valid = inputs("composition")
    contexts, weights, mixes = model(tokens, valid)
    for n, (a, b) in enumerate((PAIR, PAIR[::-1])):
        q = model.queries[n](masked_mean(tokens[b], valid[b]))
        context, alpha = model.looks[n][0](q, tokens[a], valid=valid[a])
        torch.testing.assert_close(weights[a], alpha)
        torch.testing.assert_close(contexts[a], context)
        assert (mixes[a] == 1).all()


def test_the_mix_starts_equal_and_can_come_down_to_one_kind():
    tokens, valid = inputs("composition")
    model = CompositionAttention(D, PAIR, SHORT_TABLE).double()
    assert model.kinds == list(SHORT_TABLE)
    assert all((mix == 1 / 3).all() for mix in model(tokens, valid)[2].values())
    with torch.no_grad():
        model.mixes[0].bias[1] = 1000
    q = model.queries[0](masked_mean(tokens["animation"], valid["animation"]))
    _, alpha = model.looks[0][1](q, tokens["picture"], valid=valid["picture"])
    torch.testing.assert_close(model(tokens, valid)[1]["picture"], alpha)


def test_what_the_other_modality_holds_changes_the_mix_and_the_weights():
    model, (tokens, valid) = make("composition"), inputs("composition")
    _, weights, mixes = model(tokens, valid)
    _, new_weights, new_mixes = model({**tokens, "animation": 2 * tokens["animation"]}, valid)
    for old, new in ((weights, new_weights), (mixes, new_mixes)):
        assert not torch.allclose(old["picture"][0], new["picture"][0])
        assert torch.equal(old["picture"][3], new["picture"][3])  # it has no animation
    assert torch.equal(mixes["animation"], new_mixes["animation"])


def test_a_hierarchy_of_one_segment_and_one_present_modality_is_its_pool():
    model = random_weights(HierarchicalAttention(D, PAIR, {"picture": 2, "animation": 7}))
    tokens, valid = inputs("exchange")
    tokens = {m: torch.randn(*v.shape, D, dtype=torch.float64) for m, v in valid.items()}
    valid["picture"][:] = False
    (z, weights), (expected, alpha) = (
        model(tokens, valid),
        model.tokens[1](*(t["animation"] for t in (tokens, valid))),
    )
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(weights["animation"], alpha)
    assert (weights["picture"] == 0).all()


def test_segments_of_one_token_leave_the_choice_to_the_level_above():
    model, (tokens, valid) = random_weights(HierarchicalAttention(D, PAIR, 1)), inputs("inter")
    _, levels = model.read(tokens, valid)
    for n, m in enumerate(PAIR):
        assert torch.equal(levels["tokens"][m], valid[m].double())
        _, alpha = model.segments[n](tokens[m], valid[m])
        torch.testing.assert_close(levels["segments"][m], alpha)


def test_one_segment_is_one_segment_however_long_it_could_be():
    tokens, valid = inputs("inter")
    model, more = (HierarchicalAttention(D, PAIR, size).double() for size in (5, 100))
    more.load_state_dict(model.state_dict())
    for found, expected in zip(tensors(more(tokens, valid)), tensors(model(tokens, valid)), strict=True):
        torch.testing.assert_close(found, expected)


# Memory


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("step", range(5))
def test_a_later_state_never_changes_an_earlier_result(kind, step):
    model, (tokens, valid) = make(kind), inputs(kind, 0.5)
    h, here = tokens["animation"], valid["animation"]
    later = torch.cat([h[:, :step], 7 * torch.randn_like(h[:, step:])], 1)
    for found, expected in zip(tensors(model(later, here)), tensors(model(h, here)), strict=True):
        assert torch.equal(found[:, :step], expected[:, :step])
    absent = here.clone()
    absent[:, step:] ^= True
    for found, expected in zip(tensors(model(h, absent)), tensors(model(h, here)), strict=True):
        assert torch.equal(found[:, :step], expected[:, :step])


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("rubbish", [math.nan, math.inf])
def test_a_later_state_that_is_no_number_changes_no_earlier_result(kind, rubbish):
    model, h = make(kind), torch.randn(2, 5, D, dtype=torch.float64)
    later = torch.cat([h[:, :4], torch.full_like(h[:, 4:], rubbish)], 1)
    for found, expected in zip(tensors(model(later)), tensors(model(h)), strict=True):
        torch.testing.assert_close(found[:, :4], expected[:, :4])


@pytest.mark.parametrize("kind", MEMORIES)
def test_nothing_flows_back_from_an_earlier_result_into_its_own_step_or_a_later_one(kind):
    model, h = make(kind), torch.randn(2, 5, D, dtype=torch.float64)
    for t in range(5):
        x = h.clone().requires_grad_()
        contexts, _ = model(x)
        (gradient,) = torch.autograd.grad(contexts[:, t].square().sum(), x)
        assert (gradient[:, t + 1 :] == 0).all()
        remembered = (gradient[:, :t] != 0).any(2)
        expected = torch.ones_like(remembered)
        if kind == "short":
            expected[:, : max(t - 2, 0)] = False
        assert torch.equal(remembered, expected)


def test_what_was_before_the_window_is_forgotten():
    h = torch.randn(2, 7, D, dtype=torch.float64)
    for window in (1, 3):
        memory = random_weights(ShortTermMemory(D, window=window))
        (contexts, weights), other = memory(h), h.clone()
        other[:, 1] = 9
        found, found_weights = memory(other)
        assert torch.equal(found[:, 2 + window :], contexts[:, 2 + window :])
        assert torch.equal(found_weights[:, 2 + window :], weights[:, 2 + window :])
        assert all((found[:, t] != contexts[:, t]).any() for t in range(2, 2 + window))


@pytest.mark.parametrize("recency", [0.05, 1.0])
def test_of_equal_contents_the_later_weighs_more_by_the_exponential_of_the_recency(recency):
    memory = ShortTermMemory(D, window=4, recency=recency).double()
    _, weights = memory(torch.randn(1, 1, D).double().expand(1, 6, D))
    for t in range(2, 6):
        row = weights[0, t, max(t - 4, 0) : t]
        torch.testing.assert_close(row[1:] / row[:-1], torch.full_like(row[1:], math.exp(recency)))


def test_a_large_recency_looks_only_at_the_last_real_step_before():
    memory = random_weights(ShortTermMemory(D, window=3))
    nn.init.constant_(memory.log_recency, math.log(1e4))
    h = torch.randn(1, 5, D, dtype=torch.float64)
    contexts, weights = memory(h)
    torch.testing.assert_close(contexts[:, 1:], h[:, :-1], rtol=0, atol=1e-12)
    assert torch.equal(weights[0], torch.eye(5).roll(-1, 1).tril().double())
    contexts, _ = memory(h, torch.tensor([[True, True, False, True, True]]))
    torch.testing.assert_close(contexts[0, [3, 4]], h[0, [1, 3]], rtol=0, atol=1e-12)


def test_without_scores_and_recency_the_short_memory_is_the_mean_of_its_window():
    memory, h = (
        ShortTermMemory(D, window=3, recency=1e-12).double(),
        torch.randn(2, 6, D, dtype=torch.float64),
    )
    nn.init.zeros_(memory.W_q.weight)
    contexts, _ = memory(h)
    for t in range(1, 6):
        torch.testing.assert_close(contexts[:, t], h[:, max(t - 3, 0) : t].mean(1))


def addressed(slots: int = 2) -> LongTermMemory:
    """A state is (which slot, which slot, what, whether to write): sharp keys and a gate of 0 or 1."""
    memory = LongTermMemory(D, slots).double()
    with torch.no_grad():
        memory.keys.zero_()[:, :slots] = 1e4 * torch.eye(slots)
        for W in (memory.W_w, memory.W_r):
            W.weight.zero_()[:2, :2] = torch.eye(2)
        memory.W_v.weight.zero_()[2, 2] = 1
        memory.gate.weight.zero_()[0, 3] = 2000
        memory.gate.bias.fill_(-1000)
    return memory


def states(*steps: tuple[int, float, bool]) -> Tensor:
    """Make one sequence of (slot, what, whether to write)."""
    h = torch.zeros(1, len(steps), D, dtype=torch.float64)
    for t, (slot, what, write) in enumerate(steps):
        h[0, t, slot], h[0, t, 2], h[0, t, 3] = 1, what, write
    return h


def test_a_slot_that_is_written_fully_forgets_and_one_that_is_not_written_keeps():
    steps = [
        (0, 5.0, True),
        (1, 7.0, True),
        *[(1, 100.0 + t, t % 2 == 0) for t in range(40)],
        (0, 0.0, False),
    ]
    contexts, weights = addressed()(states(*steps))
    found = contexts[0, :, 2].tolist()
    assert found[0] == 0 and found[1] == 0  # it reads before it writes
    assert found[2] == 7.0 and found[3] == 100.0 and found[4] == 100.0 and found[5] == 102.0
    assert found[-1] == 5.0  # after forty steps of writing beside it
    assert weights["write"][0, 0].tolist() == [1.0, 0.0] and weights["write"][0, 3].tolist() == [0.0, 0.0]
    assert weights["read"][0, -1].tolist() == [1.0, 0.0]


def test_a_step_reads_before_it_writes():
    contexts, _ = addressed()(states((0, 5.0, True), (0, 6.0, True), (0, 7.0, True)))
    assert contexts[0, :, 2].tolist() == [0.0, 5.0, 6.0]


def test_a_slot_that_is_written_by_half_goes_half_of_the_way():
    memory = addressed()
    nn.init.zeros_(memory.gate.weight), nn.init.zeros_(memory.gate.bias)
    contexts, _ = memory(states((0, 8.0, True), (0, 8.0, True), (0, 8.0, True)))
    assert contexts[0, :, 2].tolist() == [0.0, 4.0, 6.0]


def test_padding_neither_reads_nor_writes():
    h = states((0, 5.0, True), (0, 6.0, True), (0, 7.0, False))
    contexts, weights = addressed()(h, torch.tensor([[True, False, True]]))
    assert contexts[0, :, 2].tolist() == [0.0, 0.0, 5.0]
    assert all((w[0, 1] == 0).all() for w in weights.values())


def test_what_is_read_stays_among_what_was_written_and_zero():
    memory, h = make("long"), 3 * torch.randn(20, 12, D, dtype=torch.float64)
    contexts, _ = memory(h)
    new = memory.W_v(h)
    assert (contexts <= new.amax(1, keepdim=True).clamp(min=0) + 1e-12).all()
    assert (contexts >= new.amin(1, keepdim=True).clamp(max=0) - 1e-12).all()


def test_the_long_memory_recalls_what_the_short_one_has_lost():
    h = torch.randn(4, 12, D, dtype=torch.float64).requires_grad_()
    reached = {}
    for kind in MEMORIES:
        (gradient,) = torch.autograd.grad(make(kind)(h)[0][:, -1].sum(), h)
        reached[kind] = (gradient[:, 0] != 0).any()
    assert reached == {"short": False, "long": True}


# DAM

SUBSETS = [s for n in range(6) for s in itertools.combinations(PARTS, n)]
BESIDE = {"composition": ["composition", "mix"]}


@pytest.mark.parametrize("parts", SUBSETS, ids="+".join)
def test_a_part_that_is_off_leaves_neither_parameters_nor_weights(parts):
    model, (tokens, valid) = (
        DAM(D, PAIR, state_dim=H, parts=parts, heads=2, segment=2).double(),
        inputs("dam"),
    )
    random_weights(model)
    h = {m: x[..., :H] for m, x in tokens.items()} if {"short", "long"} & {*parts} else None
    z, weights = model(tokens, valid, h)
    assert z.shape == (5, D) and z.isfinite().all()
    assert list(weights) == [name for part in parts for name in BESIDE.get(part, [part])]
    of_parts = {name.split(".")[1] for name, _ in model.named_parameters() if name.startswith("parts.")}
    assert of_parts == {*parts} == {*model.parts}
    width = {"inter": 2 * D, "composition": 2 * D, "hierarchical": D, "short": 2 * H, "long": 2 * H}
    assert model.join.in_features == 2 * D + sum(width[part] for part in parts)
    z.square().sum().backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in model.parameters())


def test_each_part_that_is_on_changes_the_result():
    tokens, valid = inputs("dam")
    model = make("dam")
    z, _ = call("dam", model, tokens, valid)
    for part in PARTS:
        for p in model.parts[part].parameters():
            before = p.detach().clone()
            nn.init.normal_(p)
            if not torch.allclose(call("dam", model, tokens, valid)[0][0], z[0]):
                break
            p.data.copy_(before)
        else:
            pytest.fail(f"{part} has no influence")
        p.data.copy_(before)


def test_only_timed_modalities_are_remembered_and_only_their_states_needed():
    model = random_weights(DAM(D, PAIR, state_dim=H, heads=2, timed=["animation"]))
    tokens, valid = inputs("dam")
    h = {"animation": torch.randn(5, 5, H, dtype=torch.float64)}
    z, weights = model(tokens, valid, h)
    assert list(weights["short"]) == list(weights["long"]) == ["animation"]
    changed, _ = model(tokens, valid, {"animation": -h["animation"]})
    assert not torch.allclose(z[0], changed[0]) and torch.equal(z[3:], changed[3:])  # no animation there


def test_composition_and_hierarchy_read_what_inter_attention_has_read():
    model, (tokens, valid) = make("dam"), inputs("dam")
    _, weights = call("dam", model, tokens, valid)
    read, _ = model.parts["inter"](tokens, valid)
    for part, where in (("composition", 1), ("hierarchical", 1)):
        expected = model.parts[part](read, valid)[where]
        assert all(torch.equal(weights[part][m], expected[m]) for m in PAIR)


def test_steps_after_the_last_real_one_and_before_the_window_are_not_remembered():
    model = random_weights(DAM(D, PAIR, state_dim=H, parts=["short"], window=2, timed=["animation"]))
    tokens, _ = inputs("dam", 0.5)
    valid = {"animation": torch.tensor([[True] * 4 + [False]]).expand(5, 5)}
    h = torch.randn(5, 5, H, dtype=torch.float64)
    z, _ = model(tokens, valid, {"animation": h})
    changes = {}
    for step in range(5):
        other = h.clone()
        other[:, step] += 1
        changes[step] = not torch.equal(model(tokens, valid, {"animation": other})[0], z)
    assert changes == {0: False, 1: True, 2: True, 3: True, 4: False}  # step 3 asks, 1 and 2 answer


# Gradients by differences, numbers of half precision


@pytest.mark.parametrize("kind", SOFT)
def test_gradients_are_those_of_differences(kind):
    model, (tokens, valid) = make(kind), inputs(kind, 0.5)
    names_of, parameters = zip(*((n, p.detach()) for n, p in model.named_parameters()), strict=True)
    chosen = slice(1, 4)  # with padding, without picture, without animation
    valid = {m: v[chosen] for m, v in valid.items()}
    tokens = {m: x[chosen] for m, x in tokens.items() if kind not in MEMORIES or m == "animation"}

    def f(*values: Tensor) -> tuple[Tensor, ...]:
        p = dict(zip(names_of, values[len(tokens) :], strict=True))
        x = dict(zip(tokens, values, strict=False))

        def with_parameters(*args):
            return functional_call(model, p, args)

        return tuple(t for t in tensors(call(kind, with_parameters, x, valid)) if t.requires_grad)

    values = [v.clone().requires_grad_() for v in (*tokens.values(), *parameters)]
    assert gradcheck(f, values, fast_mode=kind not in MEMORIES)


def test_the_gradient_of_a_pool_is_that_of_differences():
    pool, x = random_weights(Pool(3)), torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True, False, True, True], [False] * 4])
    assert gradcheck(lambda x, *_: pool(x, valid), (x, *pool.parameters()))


@pytest.mark.parametrize("kind", SOFT)
def test_half_precision_and_autocast_give_nearly_the_same(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    tokens = {m: x.bfloat16() for m, x in tokens.items()}
    exact = {m: x.double() for m, x in tokens.items()}
    expected = tensors(call(kind, model.bfloat16().double(), exact, valid))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        soft = tensors(call(kind, model.float(), {m: x.float() for m, x in tokens.items()}, valid))
    half = tensors(call(kind, model.bfloat16(), tokens, valid))
    for found in (soft, half):
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f.double(), e, rtol=0.1, atol=0.15)


# Bad input


def zeros(kind: str) -> dict[str, Tensor]:
    return {m: torch.zeros(2, 3, width(kind, m)) for m in names(kind)}


@pytest.mark.parametrize("kind", CROSS_MODAL)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"smell": torch.zeros(2, 3, D)}, ValueError, r"found .*; missing: \[\], unknown: \['smell'\]"),
        ({"picture": None}, ValueError, r"expected the modalities \['picture', .* missing: \['picture'\]"),
        ({"animation": torch.zeros(2, 3, 7)}, ValueError, r"animation: expected shape .*, found \(2, 3, 7\)"),
        ({"animation": torch.zeros(2, D)}, ValueError, r"animation: expected shape .*, found \(2, 4\)"),
        ({"animation": "more items"}, ValueError, r"as many items .*'picture': 2, 'animation': 3"),
        ({"animation": "integers"}, TypeError, "animation: expected floats, found torch.int64"),
    ],
)  # fmt: skip
def test_tokens_that_do_not_fit_are_refused(kind, wrong, error, message):
    d = width(kind, "animation")
    special = {"more items": torch.zeros(3, 3, d), "integers": torch.zeros(2, 3, d).long()}
    wrong = {m: special[x] if isinstance(x, str) else x for m, x in wrong.items()}
    tokens = {m: x for m, x in {**zeros(kind), **wrong}.items() if x is not None}
    with pytest.raises(error, match=message):
        MAKE[kind]()(tokens)


@pytest.mark.parametrize("kind", CROSS_MODAL)
@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ({"animation": torch.ones(2, 4, dtype=torch.bool)}, r"of animation: .* of shape \(2, 3\), found"),
        ({"animation": torch.ones(2, 3)}, "valid of animation: .* found torch.float32"),
        ({"smell": torch.ones(2, 3, dtype=torch.bool)}, r"unknown: \['smell'\]"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit_are_refused(kind, valid, message):
    with pytest.raises(ValueError, match=message):
        MAKE[kind]()(zeros(kind), valid)


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.zeros(2, 3, 5),), ValueError, r"states: expected shape \(B, L, 4\), found \(2, 3, 5\)"),
        ((torch.zeros(2, D),), ValueError, r"states: expected shape \(B, L, 4\), found \(2, 4\)"),
        ((torch.zeros(2, 3, D).long(),), TypeError, "states: expected floats, found torch.int64"),
        ((torch.zeros(2, 3, D), torch.ones(2, 3)), ValueError, "valid of states: .* found torch.float32"),
        ((torch.zeros(2, 3, D), torch.ones(2, 1) > 0), ValueError, r"expected bool of shape \(2, 3\), found"),
    ],
)  # fmt: skip
def test_states_that_do_not_fit_are_refused(kind, args, error, message):
    with pytest.raises(error, match=message):
        MAKE[kind]()(*args)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: FeatureExchange(dict(a=2, b=2, c=2), D), r"dims: expected exactly two .* \['a', 'b', 'c'\]"),
        (lambda: FeatureExchange(dict(a=2), D), r"expected two or more, all different; found \['a'\]"),
        (lambda: FeatureExchange(dict(a=2, b=2), 0), "dim: expected a positive number, found 0"),
        (lambda: FeatureExchange(dict(a=2, b=2), D, replaced=1.1), "share from 0 to 1, found 1.1"),
        (lambda: FeatureExchange(dict(a=2, b=2), D, replaced=-0.1), "share from 0 to 1, found -0.1"),
        (lambda: FeatureExchange(dict(a=2, b=2), D, replaced=math.nan), "share from 0 to 1, found nan"),
        (lambda: FeatureExchange(dict(a=2, b=2), D, sharpness=0), "sharpness: .* positive number, found 0"),
        (lambda: InterAttention(D, PAIR, heads=3), "heads: expected a divisor of dim 4, found 3"),
        (lambda: InterAttention(D, PAIR, heads=0), "heads: expected a positive number, found 0"),
        (lambda: InterAttention(D, ["a"]), r"expected two or more, all different; found \['a'\]"),
        (lambda: InterAttention(D, ["a", "a"]), r"expected two or more, all different; found \['a', 'a'\]"),
        (lambda: CompositionAttention(D, PAIR, {}), "kinds: expected one or more .*, found none"),
        (lambda: CompositionAttention(0, PAIR), "dim: expected a positive number, found 0"),
        (lambda: HierarchicalAttention(D, PAIR, 0), "segment of picture: expected a positive .*, found 0"),
        (lambda: HierarchicalAttention(D, PAIR, {"picture": 2}), r"segment: expected one for each .*found"),
        (lambda: HierarchicalAttention(D, PAIR, {**SEGMENT}), r"segment: expected one for each of .* found"),
        (lambda: ShortTermMemory(0), "dim: expected a positive number, found 0"),
        (lambda: ShortTermMemory(D, window=0), "window: expected a positive number, found 0"),
        (lambda: ShortTermMemory(D, recency=0.0), "recency: expected a positive number, found 0"),
        (lambda: LongTermMemory(0), "dim: expected a positive number, found 0"),
        (lambda: LongTermMemory(D, slots=0), "slots: expected a positive number, found 0"),
        (lambda: DAM(D, PAIR, state_dim=H, parts=["inner"]), r"inter, composition, .*; found \['inner'\]"),
        (lambda: DAM(D, PAIR, state_dim=H, timed=["sound"]), r"'animation'\], found \['sound'\]"),
        (lambda: DAM(D, PAIR, state_dim=H, heads=3), "heads: expected a divisor of dim 4, found 3"),
        (lambda: DAM(D, PAIR, state_dim=0), "dim: expected a positive number, found 0"),
        (lambda: DAM(D, PAIR, state_dim=H, slots=0), "slots: expected a positive number, found 0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        broken()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("broken", [0, -1])
def test_a_modality_without_any_width_is_refused(broken):
    with pytest.raises(ValueError, match=f"positive number, found {broken}"):
        FeatureExchange({"a": broken, "b": 2}, D)


@pytest.mark.parametrize("parts", [["short"], ["long"], PARTS])
@pytest.mark.parametrize(
    ("given", "found"), [(None, "None"), ({}, r"\[\]"), ({"picture": torch.zeros(2, 3, H)}, r"\['picture'\]")]
)
def test_memories_without_states_are_refused(parts, given, found):
    model = DAM(D, PAIR, state_dim=H, parts=parts, heads=2, timed=["animation"])
    with pytest.raises(ValueError, match=rf"states: expected those of \['animation'\], found {found}"):
        model(zeros("dam"), states=given)


def test_a_part_that_is_switched_off_in_a_call_adds_nothing_and_the_others_what_they_did():
    model = random_weights(DAM(D, PAIR, state_dim=H, heads=2))
    tokens = {m: torch.randn(2, 3, D, dtype=torch.float64) for m in PAIR}
    states = {m: torch.randn(2, 3, H, dtype=torch.float64) for m in PAIR}
    whole, weights = model(tokens, states=states)
    alone = {part: whole - model(tokens, states=states, off=[part])[0] for part in PARTS}
    without, found = model(tokens, states=states, off=PARTS)
    torch.testing.assert_close(without, whole - sum(alone.values()))
    means = torch.cat([tokens[m].mean(1) for m in PAIR], 1)
    torch.testing.assert_close(without, means @ model.join.weight[:, : 2 * D].T + model.join.bias)
    assert list(found) == list(weights)
    with pytest.raises(ValueError, match=r"off: expected some of \['inter'.*\], found \['luck'\]"):
        model(tokens, states=states, off=["luck"])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (torch.zeros(2, 3, D), ValueError, r"states: expected shape \(B, L, 3\), found \(2, 3, 4\)"),
        (torch.zeros(2, 4, H), ValueError, "states of picture: expected 3 steps, found 4"),
        (torch.zeros(2, 3, H).long(), TypeError, "states: expected floats, found torch.int64"),
    ],
)
def test_states_that_do_not_go_with_the_tokens_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        DAM(D, PAIR, state_dim=H, heads=2)(zeros("dam"), states=dict.fromkeys(PAIR, wrong))


def test_a_sequence_longer_than_the_table_of_places_is_refused():
    tokens = {"picture": torch.zeros(1, 129, D), "animation": torch.zeros(1, 3, D)}
    with pytest.raises(ValueError, match="at most 128 positions, as in the table; found 129"):
        CompositionAttention(D, PAIR)(tokens)
