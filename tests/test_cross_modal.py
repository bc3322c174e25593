"""Attention across modalities: each kind against loops over its equations, padding, gates, learning."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor.attention import MultiHeadAttention
from mmtutor.cross_modal import (
    CoAttention,
    CrossModal,
    CrossModalLayer,
    CrossModalTransformer,
    GatedCrossAttention,
    InteractiveAttention,
    JointAttention,
    TemporalAttention,
    masked_mean,
)
from tests.by_hand import Vector, add, dot, linear, norm, random_weights, scale, tanh, tensors

KINDS = {
    "interactive": InteractiveAttention,
    "joint": JointAttention,
    "co": CoAttention,
    "temporal": TemporalAttention,
    "transformer": partial(CrossModalTransformer, layers=2, heads=2),
}
UNORDERED = ["interactive", "joint", "co", "transformer"]
PARTS = [CrossModalLayer, GatedCrossAttention]
D, LENGTHS = 4, {"image": 3, "text": 4, "sound": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def names(kind: str) -> list[str]:
    return ["image", "text"] if kind == "co" else ["image", "text", "sound"]


def make(kind: str) -> CrossModal:
    return random_weights(KINDS[kind](D, names(kind)))


def inputs(kind: str, rubbish: float = math.nan) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Items: whole, with padding, without image, without text, with nothing; rubbish stands at padding."""
    tokens, valid = {}, {}
    for m in names(kind):
        shape = (5, 3 if kind == "temporal" else LENGTHS[m])
        valid[m] = torch.rand(shape) < 0.7
        valid[m][0], valid[m][4] = True, False
        tokens[m] = torch.randn(*shape, D, dtype=torch.float64)
    valid["text"][1, 0], valid["text"][1, 1] = True, False
    valid["image"][1, 0], valid["image"][2] = True, False
    valid["text"][2, 0], valid["text"][3] = True, False
    valid["image"][3, 0] = True
    tokens = {m: torch.where(valid[m][..., None], x, rubbish) for m, x in tokens.items()}
    return tokens, valid


def call(model: CrossModal, tokens, valid=None):
    if isinstance(model, CrossModalTransformer):
        return model(tokens, valid, need_weights=True)
    return model(tokens, valid)


# The equations, item by item, as loops over numbers


def softmax(scores: Vector) -> Vector:
    total = sum(math.exp(e) for e in scores)
    return [math.exp(e) / total for e in scores]


def mean(x: list[Vector]) -> Vector:
    return scale(1 / len(x), add(*x)) if x else [0.0] * D


def combine(weights: Vector, x: list[Vector]) -> Vector:
    return add([0.0] * D, *(scale(w, x_j) for w, x_j in zip(weights, x, strict=True)))


def real(x: Tensor, valid: Tensor) -> list[Vector]:
    return x[valid].tolist()


def spread(weights: Vector, valid: Tensor) -> Vector:
    """Write the weights of real tokens where these stand, and zeros elsewhere."""
    rest = iter(weights)
    return [next(rest, 0.0) if v else 0.0 for v in valid.tolist()]


def interactive_by_loop(model, x, valid):
    s = {m: mean(x[m]) for m in x}
    contexts, weights = {}, {}
    for a in x:
        for b in x:
            if a == b:
                continue
            alpha = []
            if x[a] and x[b]:
                q = linear(model.queries[model.pairs.index((a, b))], s[a])
                alpha = softmax([dot(q, x_j) / math.sqrt(D) for x_j in x[b]])
            contexts[a, b] = combine(alpha, x[b] if alpha else [])
            weights[a, b] = spread(alpha, valid[b])
    side_by_side = [v for part in (*s.values(), *contexts.values()) for v in part]
    return linear(model.join, side_by_side), weights


def joint_by_loop(model, x, valid):
    q, e = model.query.tolist(), dict(zip(x, model.embeddings.tolist(), strict=True))
    everything = [(m, x_j) for m in x for x_j in x[m]]
    alpha = softmax([dot(q, add(x_j, e[m])) / math.sqrt(D) for m, x_j in everything])
    weights = {m: spread([w for w, (n, _) in zip(alpha, everything, strict=True) if n == m], valid[m])
               for m in x}  # fmt: skip
    return combine(alpha, [x_j for _, x_j in everything]), weights


def co_by_loop(model, x, valid):
    a, b = x
    C = [[math.tanh(dot(x_i, linear(model.W, x_j))) for x_j in x[b]] for x_i in x[a]]
    C_turned = [[C[i][j] for i in range(len(x[a]))] for j in range(len(x[b]))]
    alphas = {}
    for m, n, W_m, W_n, w_m, affinity in (
        (a, b, model.W_a, model.W_b, model.w_a, C),
        (b, a, model.W_b, model.W_a, model.w_b, C_turned),
    ):
        scores = []
        for x_i, row in zip(x[m], affinity, strict=True):
            others = [scale(c, linear(W_n, x_j)) for c, x_j in zip(row, x[n], strict=True)]
            scores += linear(w_m, tanh(add(linear(W_m, x_i), *others)))
        alphas[m] = softmax(scores)
    contexts = [v for m in x for v in combine(alphas[m], x[m])]
    return linear(model.join, contexts), {m: spread(alphas[m], valid[m]) for m in x}


def gru(cell: nn.GRUCell, x: Vector, s: Vector) -> Vector:
    W, U = cell.weight_ih.tolist(), cell.weight_hh.tolist()
    from_x = add([dot(row, x) for row in W], cell.bias_ih.tolist())
    from_s = add([dot(row, s) for row in U], cell.bias_hh.tolist())
    new = []
    for k in range(D):
        reset, update = (1 / (1 + math.exp(-from_x[i + k] - from_s[i + k])) for i in (0, D))
        candidate = math.tanh(from_x[2 * D + k] + reset * from_s[2 * D + k])
        new.append((1 - update) * candidate + update * s[k])
    return new


def temporal_by_loop(model, tokens, valid):
    s, states, weights, e = [0.0] * D, [], [], model.embeddings.tolist()
    for t in range(3):
        here = [i for i, m in enumerate(tokens) if valid[m][t]]
        x = [tokens[m][t].tolist() for m in tokens]
        q = linear(model.query, s)
        alpha = softmax([dot(q, add(x[i], e[i])) / math.sqrt(D) for i in here])
        if here:
            s = gru(model.gru, combine(alpha, [x[i] for i in here]), s)
        states.append(s)
        weights.append([alpha[here.index(i)] if i in here else 0.0 for i in range(len(x))])
    return states, weights


def heads(attention: MultiHeadAttention, queries: list[Vector], keys: list[Vector]):
    """Results by query, and weights by head and query."""
    size, W, b = D // attention.heads, attention.in_proj_weight.tolist(), attention.in_proj_bias.tolist()

    def project(part: int, h: int, x: Vector) -> Vector:
        start = part * D + h * size
        return [dot(W[start + k], x) + b[start + k] for k in range(size)]

    out, weights = [[] for _ in queries], []
    for h in range(attention.heads):
        weights.append([])
        for i, x in enumerate(queries):
            q = project(0, h, x)
            alpha = softmax([dot(q, project(1, h, y)) / math.sqrt(size) for y in keys])
            values = [scale(w, project(2, h, y)) for w, y in zip(alpha, keys, strict=True)]
            out[i] += add([0.0] * size, *values)
            weights[h].append(alpha)
    if not keys:
        return [[0.0] * D for _ in queries], weights
    return [linear(attention.out_proj, o) for o in out], weights


def mlp(layers: nn.Sequential, x: Vector) -> Vector:
    return linear(layers[2], [max(v, 0.0) for v in linear(layers[0], x)])


def layer_by_loop(layer: CrossModalLayer, x: list[Vector], y: list[Vector]):
    N = [partial(norm, N_i) for N_i in layer.norms]
    own = [N[0](x_i) for x_i in x]
    x = [add(x_i, o) for x_i, o in zip(x, heads(layer.self_attention, own, own)[0], strict=True)]
    found, weights = heads(layer.cross_attention, [N[1](x_i) for x_i in x], [N[1](y_j) for y_j in y])
    x = [add(x_i, o) for x_i, o in zip(x, found, strict=True)]
    return [add(x_i, mlp(layer.mlp, N[2](x_i))) for x_i in x], weights


def gated_by_loop(layer: GatedCrossAttention, x: list[Vector], y: list[Vector]):
    a, b, N = math.tanh(layer.a.item()), math.tanh(layer.b.item()), layer.norms
    found, weights = heads(layer.cross_attention, [norm(N[0], x_i) for x_i in x], y)
    x = [add(x_i, scale(a, o)) for x_i, o in zip(x, found, strict=True)]
    return [add(x_i, scale(b, mlp(layer.mlp, norm(N[1], x_i)))) for x_i in x], weights


def transformer_by_loop(model, x):
    weights = {pair: [] for pair in model.pairs}
    for layer in model.layers:
        now = {}
        for a in x:
            read = []
            for b in x:
                if a != b:
                    part = layer[model.pairs.index((a, b))]
                    x_a, looked = layer_by_loop(part, x[a], x[b])
                    read.append(x_a)
                    weights[a, b].append(looked)
            now[a] = [scale(1 / len(read), add(*versions)) for versions in zip(*read, strict=True)]
        x = now
    return {m: [norm(N, x_i) for x_i in x[m]] for m, N in zip(x, model.norms, strict=True)}, weights


LOOPS = {"interactive": interactive_by_loop, "joint": joint_by_loop, "co": co_by_loop}


@pytest.mark.parametrize("kind", LOOPS)
def test_a_kind_equals_the_loop_over_its_equation(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    fused, weights = model(tokens, valid)
    for i in range(5):
        here = {m: v[i] for m, v in valid.items()}
        z, alpha = LOOPS[kind](model, {m: real(tokens[m][i], here[m]) for m in tokens}, here)
        assert fused[i].tolist() == pytest.approx(z, rel=1e-9, abs=1e-12)
        assert set(weights) == set(alpha)
        for key, expected in alpha.items():
            assert weights[key][i].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_attention_in_time_equals_the_loop_over_its_equation():
    model, (tokens, valid) = make("temporal"), inputs("temporal")
    states, weights = model(tokens, valid)
    for i in range(5):
        item, here = ({m: x[i] for m, x in of_all.items()} for of_all in (tokens, valid))
        expected = temporal_by_loop(model, item, here)
        for found, loop in zip((states[i], weights[i]), expected, strict=True):
            torch.testing.assert_close(found, torch.tensor(loop).double())


def everywhere(weights: list, asks: Tensor, asked: Tensor) -> Tensor:
    """Write weights ``[..., real queries, real keys]`` into a tensor of all queries and keys, else zeros."""
    found = torch.tensor(weights).double()
    shape = found.shape[: found.ndim - 2] if asks.any() else found.shape[: found.ndim - 1]
    written = torch.zeros(*shape, len(asks), len(asked), dtype=torch.float64)
    written[..., asks[:, None] & asked] = found.flatten(len(shape))
    return written


@pytest.mark.parametrize("part", PARTS)
def test_a_part_equals_the_loop_over_its_equation(part):
    layer, (tokens, valid) = random_weights(part(D, heads=2)), inputs("transformer")
    x, y, valid_x, valid_y = tokens["image"], tokens["text"], valid["image"], valid["text"]
    out, weights = layer(x, y, valid_x, valid_y, need_weights=True)
    loop = layer_by_loop if part is CrossModalLayer else gated_by_loop
    for i in range(5):
        expected, looked = loop(layer, real(x[i], valid_x[i]), real(y[i], valid_y[i]))
        torch.testing.assert_close(out[i, valid_x[i]], torch.tensor(expected).double().view(-1, D))
        assert (out[i, ~valid_x[i]] == 0).all()
        torch.testing.assert_close(weights[i], everywhere(looked, valid_x[i], valid_y[i]))


def test_the_transformer_equals_the_loop_over_its_layers():
    model, (tokens, valid) = make("transformer"), inputs("transformer")
    out, weights = call(model, tokens, valid)
    for i in range(5):
        item = {m: real(tokens[m][i], valid[m][i]) for m in tokens}
        expected, looked = transformer_by_loop(model, item)
        for m in tokens:
            found = out[m][i, valid[m][i]]
            torch.testing.assert_close(found, torch.tensor(expected[m]).double().view(-1, D))
            assert (out[m][i, ~valid[m][i]] == 0).all()
        for (a, b), w in weights.items():
            torch.testing.assert_close(w[i], everywhere(looked[a, b], valid[a][i], valid[b][i]))


# Weights, padding, absent modalities


def rows_of_weights(kind: str, weights, valid: dict[str, Tensor]):
    """Weights, which places of theirs are real, and whether each row has something to weigh."""
    some = {m: v.any(1) for m, v in valid.items()}
    if kind == "interactive":
        return [(w, valid[b], some[a] & some[b]) for (a, b), w in weights.items()]
    if kind == "joint":
        together = torch.cat([*valid.values()], 1)
        return [(torch.cat([*weights.values()], 1), together, together.any(1))]
    if kind == "co":
        return [(w, valid[m], some[m]) for m, w in weights.items()]
    if kind == "temporal":
        here = torch.stack([*valid.values()], 2)
        return [(weights, here, here.any(2))]
    rows = []
    for (a, b), w in weights.items():
        real = (valid[a][:, :, None] & valid[b][:, None])[:, None, None]
        rows.append((w, real.expand_as(w), real.any(4).expand(w.shape[:-1])))
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_not_negative_sum_to_one_over_what_is_real_and_are_zero_elsewhere(kind):
    tokens, valid = inputs(kind)
    rows = rows_of_weights(kind, call(make(kind), tokens, valid)[1], valid)
    for w, real, something in rows:
        assert (w >= 0).all() and (w[~real] == 0).all() and (w[real & something[..., None]] > 0).all()
        torch.testing.assert_close(w.sum(-1), something.double())
        assert something.any() and not something.all()
    assert len(rows) == {"interactive": 6, "joint": 1, "co": 2, "temporal": 1, "transformer": 6}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rubbish", [math.nan, math.inf])
def test_what_stands_at_padding_touches_neither_results_nor_gradients(kind, rubbish):
    model = make(kind)
    results, gradients = [], []
    for filler in (0.0, rubbish):
        torch.manual_seed(1)
        tokens, valid = inputs(kind, filler)
        for x in tokens.values():
            x.requires_grad_()
        found = tensors(call(model, tokens, valid))
        sources = [*tokens.values(), *model.parameters()]
        total = sum((t * torch.randn_like(t)).sum() for t in found)
        results.append(found)
        gradients.append(torch.autograd.grad(total, sources))
    for found, expected in zip(results[1], results[0], strict=True):
        assert torch.equal(found, expected) and found.isfinite().all()
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        assert torch.equal(found, expected) and found.isfinite().all() and (found != 0).any()
    assert all((g[~valid[m]] == 0).all() for g, m in zip(gradients[1], tokens, strict=False))


@pytest.mark.parametrize("part", PARTS)
def test_what_stands_at_padding_touches_no_part(part):
    layer, results = random_weights(part(D, heads=2)), []
    for filler in (0.0, math.nan):
        torch.manual_seed(1)
        tokens, valid = inputs("co", filler)
        x, y = (t.requires_grad_() for t in tokens.values())
        out, weights = layer(x, y, *valid.values(), need_weights=True)
        loss = (out * torch.randn_like(out)).sum()
        results.append([out, weights, *torch.autograd.grad(loss, [x, y, *layer.parameters()])])
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected) and found.isfinite().all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_on_the_way_back_from_items_without_any_token_is_nan(kind):
    model, (tokens, _) = make(kind), inputs(kind)
    nothing = {m: torch.zeros(x.shape[:2], dtype=torch.bool) for m, x in tokens.items()}
    with torch.autograd.detect_anomaly():
        results, weights = call(model, {m: x.requires_grad_() for m, x in tokens.items()}, nothing)
        sum(t.sum() for t in tensors(results)).backward()
    assert all((w == 0).all() for w in tensors(weights))
    assert all(x.grad is None or (x.grad == 0).all() for x in tokens.values())
    results = tensors(results)
    if kind in ("interactive", "co"):
        assert torch.equal(results[0], model.join.bias.expand(5, D))
    else:
        assert all((t == 0).all() for t in results)


@pytest.mark.parametrize("kind", UNORDERED)
def test_a_sequence_of_length_zero_is_one_of_padding(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    valid["text"][:] = False
    padded = tensors(call(model, tokens, valid))
    tokens["text"], valid["text"] = tokens["text"][:, :0], valid["text"][:, :0]
    results = [*zip(tensors(call(model, tokens, valid)), padded, strict=True)]
    for found, expected in results:
        if found.numel():
            torch.testing.assert_close(found, expected)
        else:  # nothing is left of the tokens of the text, nor of weights on them
            assert (expected == 0).all()
    assert {found.numel() > 0 for found, _ in results} == {True, False}


@pytest.mark.parametrize("kind", KINDS)
def test_a_modality_without_a_mask_is_all_real_and_the_order_of_the_names_does_not_matter(kind):
    model, (tokens, valid) = make(kind), inputs(kind, 0.5)
    everything = {m: torch.ones_like(v) for m, v in valid.items()}
    expected = tensors(call(model, tokens, everything))
    turned = dict(reversed(tokens.items()))
    for masks in (None, {}, {"text": everything["text"]}):
        for found, e in zip(tensors(call(model, turned, masks)), expected, strict=True):
            assert torch.equal(found, e)


def reordered(results, order: Tensor):
    """Put what belongs to the tokens of the text into another order."""
    if isinstance(results, Tensor):
        return results
    moved = dict(results)
    for key, t in results.items():
        if key == "text":
            moved[key] = t[:, order]
        elif key[1] == "text":
            moved[key] = t[..., order]
        elif key[0] == "text" and t.ndim == 5:
            moved[key] = t[..., order, :]
    return moved


@pytest.mark.parametrize("kind", UNORDERED)
def test_weights_follow_the_tokens_and_one_answer_does_not_see_their_order(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    order, results = torch.tensor([2, 0, 3, 1]), call(model, tokens, valid)
    tokens["text"], valid["text"] = tokens["text"][:, order], valid["text"][:, order]
    for new, old in zip(call(model, tokens, valid), results, strict=True):
        for found, expected in zip(tensors(new), tensors(reordered(old, order)), strict=True):
            torch.testing.assert_close(found, expected)
    unmoved = zip(tensors(results), tensors([reordered(r, order) for r in results]), strict=True)
    assert not all(torch.equal(t, moved) for t, moved in unmoved)


def test_an_absent_modality_neither_asks_nor_is_asked():
    model, (tokens, valid) = make("interactive"), inputs("interactive")
    summaries, contexts, weights = model.read(tokens, valid)
    assert (summaries["image"][2] == 0).all()
    for pair in [("image", "text"), ("text", "image")]:
        assert (contexts[pair][2] == 0).all() and (weights[pair][2] == 0).all()
        assert (contexts[pair][0] != 0).all()
    found = torch.einsum("bl,bld->bd", weights["image", "text"], tokens["text"].nan_to_num())
    torch.testing.assert_close(contexts["image", "text"], found)


def test_the_mean_of_nothing_is_zero_and_of_one_token_itself():
    x = torch.tensor([[[1.0, 2.0], [math.nan, 4.0]], [[1.0, 2.0], [3.0, 4.0]]])
    valid = torch.tensor([[True, False], [False, False]])
    assert masked_mean(x, valid).tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert torch.equal(masked_mean(x[1:]), x[1:].mean(1))
    assert masked_mean(torch.zeros(2, 0, 3)).tolist() == [[0.0] * 3] * 2


# Each kind by itself


def test_joint_weights_of_all_modalities_sum_to_one_and_the_share_is_of_each():
    model, (tokens, valid) = make("joint"), inputs("joint")
    z, weights = model(tokens, valid)
    share = model.share(weights)
    torch.testing.assert_close(share.sum(1), torch.tensor([1, 1, 1, 1, 0]).double())
    assert share[2, 0] == 0 and share[3, 1] == 0 and (share[0] > 0).all()
    with torch.no_grad():
        model.embeddings[1] += 50 * model.query / model.query.norm()
    preferred = model.share(model(tokens, valid)[1])
    assert (preferred[:3, 1] > 0.99).all() and preferred[3, 1] == 0


def test_joint_attention_starts_as_the_mean_of_all_tokens():
    tokens, valid = inputs("joint")
    z, _ = JointAttention(D, names("joint")).double()(tokens, valid)
    together = torch.cat([*tokens.values()], 1), torch.cat([*valid.values()], 1)
    torch.testing.assert_close(z, masked_mean(*together))


def test_the_affinity_is_between_minus_one_and_one_and_zero_at_padding():
    model, (tokens, valid) = make("co"), inputs("co")
    C = model.affinity(tokens, valid)
    real = valid["image"][:, :, None] & valid["text"][:, None]
    assert C.shape == (5, 3, 4) and (C.abs() < 1).all()
    assert torch.equal(C != 0, real)


def test_co_attention_of_one_modality_depends_on_the_other():
    model, (tokens, valid) = make("co"), inputs("co")
    before = model(tokens, valid)[1]["image"]
    after = model({**tokens, "text": 2 * tokens["text"]}, valid)[1]["image"]
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[3], after[3])  # it has no text


def test_a_step_without_anything_leaves_the_state_as_it_was():
    model, (tokens, valid) = make("temporal"), inputs("temporal")
    for v in valid.values():
        v[0] = torch.tensor([True, False, True])
    states, weights = model(tokens, valid)
    assert torch.equal(states[0, 1], states[0, 0]) and (weights[0, 1] == 0).all()
    short, _ = model({m: x[:1, [0, 2]] for m, x in tokens.items()})
    torch.testing.assert_close(states[0, 2], short[0, 1])


def test_no_step_sees_a_later_one_and_weights_change_from_step_to_step():
    model, (tokens, _) = make("temporal"), inputs("temporal", 0.5)
    states, weights = model(tokens)
    later = {m: torch.cat([x[:, :2], torch.randn(5, 1, D).double()], 1) for m, x in tokens.items()}
    for found, expected in zip(model(later), (states, weights), strict=True):
        assert torch.equal(found[:, :2], expected[:, :2])
    assert not torch.allclose(model(later)[0][:, 2], states[:, 2])
    same = {m: x[:, :1].expand(-1, 3, -1) for m, x in tokens.items()}  # the same tokens at each step
    weights = model(same)[1]
    assert not torch.allclose(weights[0, 0], weights[0, 1])


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_not_asked_for_change_no_part(part):
    layer, (tokens, valid) = random_weights(part(D, heads=2)), inputs("co")
    expected, _ = layer(*tokens.values(), *valid.values(), need_weights=True)
    found, weights = layer(*tokens.values(), *valid.values())
    torch.testing.assert_close(found, expected)
    assert weights is None


def test_weights_that_are_not_asked_for_change_no_transformer():
    model, (tokens, valid) = make("transformer"), inputs("transformer")
    found, weights = model(tokens, valid)
    for m, expected in call(model, tokens, valid)[0].items():
        torch.testing.assert_close(found[m], expected)
    assert weights is None


def test_what_one_modality_read_comes_back_through_the_other_in_the_second_layer_only():
    tokens = {m: torch.randn(1, 2, D, dtype=torch.float64) for m in ("a", "b")}
    for layers, answered in ((1, False), (2, True)):
        model = random_weights(CrossModalTransformer(D, ["a", "b"], layers=layers, heads=2))
        x = tokens["a"].clone().requires_grad_()
        for layer in model.layers:  # a reads b only, so what comes back of a came through b
            nn.init.zeros_(layer[0].self_attention.out_proj.weight)
        out, _ = model({"a": x, "b": tokens["b"]})
        reached = torch.autograd.grad(out["a"][0, 0].square().sum(), x)[0][0, 1]
        assert (reached != 0).any().item() == answered


# The gate


def test_a_gated_layer_starts_as_the_identity_and_zero_at_padding():
    tokens, valid = inputs("co")
    x, y = tokens.values()
    out, weights = GatedCrossAttention(D, heads=2).double()(x, y, *valid.values(), need_weights=True)
    assert torch.equal(out, torch.where(valid["image"][..., None], x, 0))
    real = (valid["image"][:, :, None] & valid["text"][:, None])[:, None].expand_as(weights)
    assert torch.equal(weights > 0, real)


def test_at_the_start_only_the_gates_learn_and_what_is_behind_them_later():
    layer = GatedCrossAttention(D, heads=2).double()
    x, y, goal = (torch.randn(3, n, D, dtype=torch.float64) for n in (5, 6, 5))
    behind = {name: p for name, p in layer.named_parameters() if name not in ("a", "b")}
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)

    def gradients() -> dict[str, Tensor]:
        layer.zero_grad()
        y.requires_grad_().grad = None
        F.mse_loss(layer(x, y)[0], goal).backward()
        return {name: p.grad for name, p in [*layer.named_parameters(), ("y", y)]}

    first = gradients()
    found = layer.cross_attention(layer.norms[0](x), y)[0]
    assert first["a"].item() == pytest.approx((2 * (x - goal) / x.numel() * found).sum().item())
    assert first["a"] != 0 and first["b"] != 0
    assert all((first[name] == 0).all() for name in (*behind, "y"))
    optimiser.step()
    assert (layer.gate != 0).all() and torch.equal(layer.gate, torch.stack([layer.a, layer.b]).tanh())
    second = gradients()
    assert all((second[name] != 0).any() for name in (*behind, "y"))


def test_without_anything_to_read_only_the_network_of_a_gated_layer_acts():
    layer, x = random_weights(GatedCrossAttention(D, heads=2)), torch.randn(2, 3, D).double()
    y = torch.full((2, 4, D), math.nan).double()
    out, weights = layer(x, y, valid_y=torch.zeros(2, 4, dtype=torch.bool), need_weights=True)
    torch.testing.assert_close(out, x + layer.gate[1] * layer.mlp(layer.norms[1](x)))
    assert (weights == 0).all()


# Types, devices, bad input


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_autocast_give_nearly_the_same(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    tokens = {m: x.bfloat16() for m, x in tokens.items()}
    expected = tensors(call(model.bfloat16().double(), {m: x.double() for m, x in tokens.items()}, valid))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        soft = tensors(call(model.float(), {m: x.float() for m, x in tokens.items()}, valid))
    half = tensors(call(model.bfloat16(), tokens, valid))
    for found in (soft, half):
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f.double(), e, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_no_items_give_no_results(kind):
    tokens, valid = inputs(kind)
    none = {m: x[:0] for m, x in tokens.items()}, {m: v[:0] for m, v in valid.items()}
    found, expected = tensors(call(make(kind), *none)), tensors(call(make(kind), tokens, valid))
    assert [f.shape[1:] for f in found] == [e.shape[1:] for e in expected]
    assert all(len(f) == 0 for f in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_is_no_number_spoils_its_own_item_and_no_other(kind):
    model, (tokens, valid) = make(kind), inputs(kind)
    expected = tensors(call(model, tokens, valid))
    tokens["text"][0, 0] = math.nan
    found = tensors(call(model, tokens, valid))
    assert any(f[0].isnan().any() for f in found)
    assert all(torch.equal(f[1:], e[1:]) for f, e in zip(found, expected, strict=True))


ONE = {"image": torch.zeros(2, 3, D), "text": torch.zeros(2, 3, D)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"sound": torch.zeros(2, 3, D)}, ValueError, r"found .*; missing: \[\], unknown: \['sound'\]"),
        ({"image": None}, ValueError, r"modalities \['image', 'text'\], .* missing: \['image'\]"),
        ({"text": torch.zeros(2, 3, 5)}, ValueError, r"text: expected shape \(B, L, 4\), found \(2, 3, 5\)"),
        ({"text": torch.zeros(2, D)}, ValueError, r"text: expected shape \(B, L, 4\), found \(2, 4\)"),
        ({"text": torch.zeros(3, 3, D)}, ValueError, r"as many items .* {'image': 2, 'text': 3}"),
        ({"text": torch.zeros(2, 3, D).long()}, TypeError, "text: expected floats, found torch.int64"),
    ],
)  # fmt: skip
def test_tokens_that_do_not_fit_are_refused(kind, wrong, error, message):
    tokens = {m: x for m, x in {**ONE, **wrong}.items() if x is not None}
    with pytest.raises(error, match=message):
        KINDS[kind](D, ["image", "text"])(tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("valid", "message"),
    [
        ({"text": torch.ones(2, 4, dtype=torch.bool)}, r"valid of text: .* bool of shape \(2, 3\), found"),
        ({"text": torch.ones(2, 3)}, "valid of text: .* found torch.float32"),
        ({"sound": torch.ones(2, 3, dtype=torch.bool)}, r"unknown: \['sound'\]"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit_are_refused(kind, valid, message):
    with pytest.raises(ValueError, match=message):
        KINDS[kind](D, ["image", "text"])(ONE, valid)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"x": torch.zeros(2, 3, 5)}, ValueError, r"x: expected shape \(B, L, 4\), found \(2, 3, 5\)"),
        ({"y": torch.zeros(2, D)}, ValueError, r"y: expected shape \(B, L, 4\), found \(2, 4\)"),
        ({"y": torch.zeros(3, 3, D)}, ValueError, "expected as many items of both, found 2 and 3"),
        ({"x": torch.zeros(2, 3, D).long()}, TypeError, "x: expected floats, found torch.int64"),
        ({"valid_x": torch.ones(2, 4, dtype=torch.bool)}, ValueError, r"valid of x: .* \(2, 3\), found"),
        ({"valid_y": torch.ones(2, 3)}, ValueError, "valid of y: .* found torch.float32"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_a_part_are_refused(part, wrong, error, message):
    with pytest.raises(error, match=message):
        part(D, heads=2)(**{"x": ONE["image"], "y": ONE["text"], **wrong})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dim", "modalities", "message"),
    [
        (0, ["a", "b"], "dim: expected a positive number, found 0"),
        (D, ["a"], r"modalities: expected two or more, all different; found \['a'\]"),
        (D, ["a", "a"], r"modalities: expected two or more, all different; found \['a', 'a'\]"),
        (D, "ab", r"modalities: expected two or more, all different; found \['ab'\]"),
    ],
)
def test_modalities_that_cannot_be_are_refused(kind, dim, modalities, message):
    with pytest.raises(ValueError, match=message):
        KINDS[kind](dim, modalities)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"expected exactly two, found \['a', 'b', 'c'\]"):
        CoAttention(D, ["a", "b", "c"])
    with pytest.raises(ValueError, match="layers: expected a positive number, found 0"):
        CrossModalTransformer(D, ["a", "b"], layers=0)
    for broken in (partial(CrossModalTransformer, D, ["a", "b"]), *(partial(part, D) for part in PARTS)):
        with pytest.raises(ValueError, match="heads: expected a divisor of dim 4, found 3"):
            broken(heads=3)
    with pytest.raises(ValueError, match=r"x: expected shape \(B, L, D\), found \(2, 3\)"):
        masked_mean(torch.zeros(2, 3))
    temporal = TemporalAttention(D, ["image", "text"])
    for lengths in ((3, 2), (0, 0)):
        tokens = {m: torch.zeros(2, n, D) for m, n in zip(temporal.modalities, lengths, strict=True)}
        with pytest.raises(ValueError, match="expected as many steps of each modality, at least 1; found"):
            temporal(tokens)


# Learning what takes both modalities


STEPS = 60


def named_place(batch: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Make four places, each with a name and a sign, and a text that names one of them: what is its sign?

    Two signs are plus and two minus. An item's twin has all signs turned: all means are the same, all
    answers different. The text is a word that says nothing, one that names, and padding.
    """
    signs = torch.tensor(sorted(set(itertools.permutations([1.0, 1.0, -1.0, -1.0]))))
    sign = signs[torch.randint(len(signs), (batch // 2,))]
    sign, place = torch.cat([sign, -sign]), torch.randint(4, (batch // 2,)).repeat(2)
    order = torch.rand(batch, 4).argsort(1)
    image = torch.cat(
        [F.one_hot(order, 4).float(), sign.gather(1, order)[..., None], torch.zeros(batch, 4, 5)], 2
    )
    text = torch.zeros(batch, 3, 10)
    text[:, 0, 9], text[:, 1, 5:9], text[:, 2] = 1, F.one_hot(place, 4).float(), math.nan
    valid = {"text": torch.tensor([True, True, False]).expand(batch, 3)}
    answer = (sign.gather(1, place[:, None])[:, 0] > 0).long()
    return {"image": image, "text": text}, valid, answer


class Answer(nn.Module):
    """A way to make one vector of two modalities, and a head that answers by it."""

    def __init__(self, fuse: nn.Module, head: nn.Module):
        super().__init__()
        self.fuse, self.head = fuse, head

    def forward(self, tokens: dict[str, Tensor], valid: dict[str, Tensor]) -> Tensor:
        z, _ = self.fuse(tokens, valid)
        if isinstance(z, dict):
            z = torch.cat([masked_mean(z[m], valid.get(m)) for m in z], 1)
        return self.head(z)


class Same(CrossModal):
    """Tokens as they are: nothing reads anything."""

    def forward(self, tokens, valid=None):
        return self.present(tokens, valid)


def accuracy_after(model: nn.Module, steps: int) -> float:
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        tokens, valid, answer = named_place(64)
        optimiser.zero_grad()
        F.cross_entropy(model(tokens, valid), answer).backward()
        optimiser.step()
    tokens, valid, answer = named_place(1000)
    return (model(tokens, valid).argmax(1) == answer).float().mean().item()


@pytest.mark.parametrize(
    ("fuse", "width"),
    [(InteractiveAttention, 10), (CoAttention, 10), (partial(CrossModalTransformer, layers=1, heads=1), 20)],
)
def test_tokens_that_read_each_other_find_what_a_text_names(fuse, width):
    model = Answer(fuse(10, ["image", "text"]), nn.Linear(width, 2))
    assert accuracy_after(model, steps=STEPS) > 0.95


def test_means_of_tokens_cannot_tell_what_a_text_names():
    tokens, valid, answer = named_place(1000)
    for m, x in tokens.items():
        means = masked_mean(x, valid.get(m))
        torch.testing.assert_close(means[:500], means[500:], rtol=0, atol=1e-6)
    assert (answer[:500] != answer[500:]).all()  # so any function of the means is right for half of them
    head = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))
    found = accuracy_after(Answer(Same(10, ["image", "text"]), head), steps=STEPS)
    assert found == pytest.approx(0.5, abs=0.02)


def named_of(tokens: dict[str, Tensor]) -> Tensor:
    """Number of the image's token that the text names, for each item."""
    return torch.einsum("bld,bd->bl", tokens["image"][..., :4], tokens["text"][:, 1, 5:9]).argmax(1)


def test_interactive_attention_learns_to_bring_back_the_token_that_the_text_names():
    attention, item = InteractiveAttention(10, ["image", "text"]), torch.arange(64)
    optimiser = torch.optim.Adam(attention.parameters(), lr=0.5)  # sharp is far from the start
    for _ in range(STEPS):
        tokens, valid, _ = named_place(64)
        optimiser.zero_grad()
        context = attention.read(tokens, valid)[1]["text", "image"]
        F.mse_loss(context, tokens["image"][item, named_of(tokens)]).backward()
        optimiser.step()
    tokens, valid, _ = named_place(64)
    weights = attention(tokens, valid)[1]["text", "image"]
    assert weights[item, named_of(tokens)].mean() > 0.9


def test_right_answers_do_not_take_most_of_the_weight_on_the_token_that_counts():
    attention = InteractiveAttention(10, ["image", "text"])
    assert accuracy_after(Answer(attention, nn.Linear(10, 2)), steps=STEPS) > 0.95
    tokens, valid, _ = named_place(1000)
    weights = attention(tokens, valid)[1]["text", "image"]
    # a little more or less than the quarter of all others is enough, and less is as good as more
    assert weights[torch.arange(1000), named_of(tokens)].mean() < 0.45


def test_joint_attention_learns_which_modality_has_the_token_that_counts():
    def marked(batch: int = 64) -> tuple[dict[str, Tensor], Tensor]:
        """Make eight tokens, four a modality, of which one has the mark."""
        x, place = torch.randn(batch, 8, D), torch.randint(8, (batch,))
        x[..., 0] = F.one_hot(place, 8)
        return dict(zip(("image", "text"), x.chunk(2, 1), strict=True)), place

    attention = JointAttention(D, ["image", "text"])
    optimiser = torch.optim.Adam(attention.parameters(), lr=0.1)
    for _ in range(STEPS):
        tokens, place = marked()
        goal = torch.cat([*tokens.values()], 1)[torch.arange(len(place)), place]
        optimiser.zero_grad()
        F.mse_loss(attention(tokens)[0], goal).backward()
        optimiser.step()
    tokens, place = marked()
    share = attention.share(attention(tokens)[1])
    assert share[torch.arange(len(place)), place // 4].mean() > 0.8


def test_attention_in_time_learns_to_trust_the_modality_that_an_earlier_step_named():
    def two_steps(batch: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Make a first step that names a modality, and a second in which both say yes or no at random."""
        named, said = torch.randint(2, (batch,)), torch.randint(2, (batch, 2))
        tokens = {}
        for i, m in enumerate(("image", "sound")):
            first = torch.cat([F.one_hot(named, 2), torch.zeros(batch, 2)], 1)
            second = torch.cat([torch.zeros(batch, 2), F.one_hot(said[:, i], 2)], 1)
            tokens[m] = torch.stack([first, second], 1)
        return tokens, named, said[torch.arange(batch), named]

    attention, head = TemporalAttention(D, ["image", "sound"]), nn.Linear(D, 2)
    optimiser = torch.optim.Adam([*attention.parameters(), *head.parameters()], lr=0.05)
    for _ in range(2 * STEPS):
        tokens, _, answer = two_steps(64)
        optimiser.zero_grad()
        F.cross_entropy(head(attention(tokens)[0][:, -1]), answer).backward()
        optimiser.step()
    tokens, named, answer = two_steps(400)
    states, weights = attention(tokens)
    assert (head(states[:, -1]).argmax(1) == answer).float().mean() > 0.95
    torch.testing.assert_close(weights[:, 0], weights[:1, 0].expand(400, 2))  # nothing is known yet
    assert weights[torch.arange(400), 1, named].mean() > 0.8
