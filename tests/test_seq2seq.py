"""Sequence to sequence: steps against teacher forcing, padding, searches against slow ones, a task learnt."""

import math
import random
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmtutor import attention
from mmtutor.attention import Attention, DotAttention
from mmtutor.seq2seq import (
    END,
    PADDING,
    START,
    UNKNOWN,
    AttentionDecoder,
    Decoder,
    DecoderLayer,
    Generated,
    PictureTokens,
    Seq2Seq,
    TextTokens,
    TransformerDecoder,
    VanillaDecoder,
    Vocabulary,
    sinusoids,
)

V, D, L, T = 7, 8, 5, 6
KINDS = ["Additive", "Content", "Dot", "ScaledDot", "Location", "Local", "Hybrid"]
DECODERS = ["Vanilla", "Transformer", *KINDS]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def make(name: str) -> Decoder:
    """A decoder in double precision; the name of an attention kind gives a GRU with it."""
    if name == "Vanilla":
        return VanillaDecoder(V, D).double()
    if name == "Transformer":
        return TransformerDecoder(V, D, layers=2, heads=2).double()
    return AttentionDecoder(V, D, getattr(attention, f"{name}Attention")(D)).double()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Memory, valid and tokens; the first memory is whole, the second has a hole, the last is all padding."""
    valid = torch.tensor([[True] * 5, [True, False, True, True, False], [False] * 5])
    tokens = torch.cat([torch.full((3, 1), START), torch.randint(2, V, (3, T - 1))], 1)
    return torch.randn(3, L, D, dtype=torch.float64), valid, tokens


def translator(name: str = "Additive") -> Seq2Seq:
    """From characters to characters, untrained; what it writes and where it ends depend on what it reads."""
    model = Seq2Seq(TextTokens(V, D), make(name)).double().eval()
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n):
            parameter.mul_(3 if parameter is model.decoder.out.weight else 5)
        logits, _ = model(sources(24), torch.randint(4, V, (24, 5)))
        model.decoder.out.bias.sub_(logits.mean((0, 1)))  # no character is liked best everywhere
    return model


def sources(batch: int = 5) -> Tensor:
    """Ids of mixed lengths from 1 to 6."""
    lengths = torch.arange(batch)[:, None] % 6 + 1
    return torch.where(torch.arange(6) < lengths, torch.randint(4, V, (batch, 6)), PADDING)


# Characters


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=6), min_size=1, max_size=5))
def test_known_texts_of_any_script_come_back(texts):
    vocabulary = Vocabulary(texts)
    assert vocabulary.decode(vocabulary.encode(texts)) == texts


def test_the_order_of_the_texts_does_not_change_the_table():
    a, b = Vocabulary(["cat", "猫", "at"]), Vocabulary(["猫", "tac"])
    assert a.characters == b.characters == ["a", "c", "t", "猫"] and len(a) == 8
    assert torch.equal(a.encode(["cat猫"]), b.encode(["cat猫"]))


def test_a_text_is_its_characters_its_end_and_padding_and_a_stranger_is_unknown():
    ids = Vocabulary(["ba"]).encode(["ab", "", "axb"])
    expected = [[4, 5, END, PADDING], [END, PADDING, PADDING, PADDING], [4, UNKNOWN, 5, END]]
    assert ids.dtype == torch.int64 and ids.tolist() == expected


def test_what_stands_after_the_end_is_not_read_and_a_text_without_an_end_is_read_whole():
    assert Vocabulary(["ab"]).decode(torch.tensor([[4, END, 5, END], [4, 5, 4, 4]])) == ["a", "abaa"]


def test_no_texts_give_no_rows_and_no_rows_no_texts():
    vocabulary = Vocabulary([])
    assert len(vocabulary) == 4
    assert vocabulary.encode([]).shape == (0, 1) and vocabulary.decode(vocabulary.encode([])) == []


@pytest.mark.parametrize("texts", ["cat", [b"cat"], [None]])
def test_anything_but_a_list_of_strings_is_refused(texts):
    for call in (Vocabulary, Vocabulary([]).encode):
        with pytest.raises(TypeError, match="texts: expected a list of strings"):
            call(texts)


@pytest.mark.parametrize("bad", [-1, 6])
def test_ids_outside_of_the_table_are_refused(bad):
    with pytest.raises(ValueError, match=f"ids: expected ids from 0 to 5, found .*{bad}"):
        Vocabulary(["ab"]).decode(torch.tensor([[4, bad]]))


# Encoders


@pytest.mark.parametrize(("corner", "token"), [((0, 0), 0), ((0, 31), 3), ((31, 0), 12), ((31, 31), 15)])
def test_a_token_of_a_picture_sees_its_own_corner_and_not_the_others(corner, token):
    encoder = PictureTokens(D, width=4).eval()
    picture = torch.randn(1, 3, 32, 32)
    other = picture.clone()
    other[0, :, corner[0], corner[1]] += 5
    memory, valid = encoder(picture)
    changed = (encoder(other)[0] - memory).abs().amax(2)[0] > 0
    assert memory.shape == (1, 16, D) and valid.shape == (1, 16) and valid.all()
    assert changed[token] and not changed[[i for i in (0, 3, 12, 15) if i != token]].any()


def test_tokens_of_an_even_picture_differ_by_their_learnt_places():
    encoder = PictureTokens(D, width=4).eval()
    with_places = encoder(torch.zeros(1, 3, 32, 32))[0]
    places = encoder.positions.detach().clone()
    encoder.positions.data.zero_()
    torch.testing.assert_close(with_places - encoder(torch.zeros(1, 3, 32, 32))[0], places[None])


def test_a_text_is_read_both_ways_and_equals_two_networks_of_one_direction():
    encoder, ids = TextTokens(V, D), torch.tensor([[4, 5, 6, END]])
    memory, _ = encoder(ids)
    for reverse in (False, True):
        one_way = nn.GRU(D, D // 2, batch_first=True)
        names = {n: n + "_reverse" * reverse for n, _ in one_way.named_parameters()}
        one_way.load_state_dict({n: getattr(encoder.gru, name) for n, name in names.items()})
        x = encoder.embed(ids)
        states = one_way(x.flip(1))[0].flip(1) if reverse else one_way(x)[0]
        torch.testing.assert_close(memory[..., D // 2 :] if reverse else memory[..., : D // 2], states)


def test_texts_of_mixed_lengths_are_read_as_one_by_one_and_padding_gives_zeros():
    encoder, ids = TextTokens(V, D), sources(7)
    ids[3] = PADDING
    memory, valid = encoder(ids)
    assert torch.equal(valid, ids != PADDING) and (memory[~valid] == 0).all() and memory.shape == (7, 6, D)
    for row, found, here in zip(ids, memory, valid, strict=True):
        if here.any():
            torch.testing.assert_close(encoder(row[here][None])[0][0], found[here])
    memory.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_what_encoders_cannot_read_is_refused():
    with pytest.raises(
        ValueError, match=r"pictures: expected shape \(B, 3, 32, 32\), found \(2, 32, 32, 3\)"
    ):
        PictureTokens(D)(torch.zeros(2, 32, 32, 3))
    with pytest.raises(TypeError, match="pictures: expected floats, .*found torch.uint8"):
        PictureTokens(D)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="dim: expected an even number, found 5"):
        TextTokens(V, 5)
    encoder = TextTokens(V, D)
    with pytest.raises(ValueError, match="found a character after padding"):
        encoder(torch.tensor([[4, PADDING, 5]]))
    for ids in (torch.zeros(0, 3), torch.zeros(3), torch.zeros(2, 3), torch.zeros(2, 0)):
        with pytest.raises(ValueError, match=r"ids: expected int64 of shape \(B, T\)"):
            encoder(ids if ids.shape == (2, 3) else ids.long())
    with pytest.raises(ValueError, match="ids: expected ids from 0 to 6, found 4 to 7"):
        encoder(torch.tensor([[4, 7]]))


# Decoders


@pytest.mark.parametrize("name", DECODERS)
def test_one_step_after_another_gives_what_teacher_forcing_gives(name):
    decoder, (memory, valid, tokens) = make(name), inputs()
    logits, weights = decoder(memory, valid, tokens)
    assert logits.shape == (3, T, V)
    state = None
    for t in range(T):
        found, looked, state = decoder.step(memory, valid, tokens[:, t], state)
        torch.testing.assert_close(found, logits[:, t], rtol=0, atol=1e-12)
        assert all(len(x) == 3 for x in state)
        if name == "Vanilla":
            assert looked is weights is None
        else:
            torch.testing.assert_close(looked, weights[..., t, :], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_a_later_character_changes_nothing_earlier_and_something_later(name):
    decoder, (memory, valid, tokens) = make(name), inputs()
    other = tokens.clone()
    other[:, 3] = (tokens[:, 3] + 1) % V
    found, expected = decoder(memory, valid, other)[0], decoder(memory, valid, tokens)[0]
    torch.testing.assert_close(found[:, :3], expected[:, :3], rtol=0, atol=1e-12)
    assert ((found[:, 3:] - expected[:, 3:]).abs().amax(2) > 1e-9).all()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("rubbish", [math.nan, 1e300])
def test_what_stands_at_padding_of_the_memory_touches_neither_results_nor_gradients(name, rubbish):
    decoder, (memory, valid, tokens) = make(name), inputs()
    expected = decoder(memory, valid, tokens)
    spoilt = torch.where(valid[..., None], memory, rubbish).requires_grad_()
    found = decoder(spoilt, valid, tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    found[0].square().sum().backward()
    assert spoilt.grad.isfinite().all() and (spoilt.grad[~valid] == 0).all()
    assert all(p.grad.isfinite().all() for p in decoder.parameters())


@pytest.mark.parametrize("name", DECODERS)
def test_more_padding_at_the_end_of_the_memory_changes_nothing(name):
    decoder, (memory, valid, tokens) = make(name), inputs()
    logits, weights = decoder(memory, valid, tokens)
    found = decoder(F.pad(memory, (0, 0, 0, 3)), F.pad(valid, (0, 3)), tokens)
    torch.testing.assert_close(found[0], logits, rtol=0, atol=1e-12)
    if weights is not None:
        torch.testing.assert_close(found[1], F.pad(weights, (0, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_a_memory_of_padding_or_of_no_length_is_one_of_zeros(name):
    decoder, (memory, valid, tokens) = make(name), inputs()
    logits, weights = decoder(memory, torch.zeros_like(valid), tokens)
    assert logits.isfinite().all() and (weights is None or (weights == 0).all())
    torch.testing.assert_close(decoder(memory[:, :0], valid[:, :0], tokens)[0], logits)
    if name not in ("Vanilla", "Transformer"):  # a Transformer adds a bias where there is something to read
        torch.testing.assert_close(decoder(0 * memory, torch.ones_like(valid), tokens)[0], logits)


@pytest.mark.parametrize("name", DECODERS[1:])
def test_weights_are_a_distribution_over_what_is_real_at_each_step(name):
    memory, valid, tokens = inputs()
    weights = make(name)(memory, valid, tokens)[1]
    assert weights.shape == ((3, 2, 2, T, L) if name == "Transformer" else (3, T, L))
    assert (weights >= 0).all() and (weights.movedim(0, -2)[..., ~valid] == 0).all()
    total = weights.sum(-1).flatten(1)
    torch.testing.assert_close(total, valid.any(1).double()[:, None].expand_as(total))


@pytest.mark.parametrize("name", [n for n in DECODERS if n != "Location"])
def test_all_parameters_learn(name):
    decoder, (memory, valid, tokens) = make(name), inputs()
    decoder(memory, valid, tokens)[0].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in decoder.parameters())


def gru(cell: nn.GRU, x: Tensor, h: Tensor) -> Tensor:
    """One step of a GRU, gate by gate."""
    Wr, Wz, Wn = cell.weight_ih_l0.chunk(3)
    Ur, Uz, Un = cell.weight_hh_l0.chunk(3)
    (br, bz, bn), (cr, cz, cn) = cell.bias_ih_l0.chunk(3), cell.bias_hh_l0.chunk(3)
    r, z = (Wr @ x + br + Ur @ h + cr).sigmoid(), (Wz @ x + bz + Uz @ h + cz).sigmoid()
    return (1 - z) * (Wn @ x + bn + r * (Un @ h + cn)).tanh() + z * h


@pytest.mark.parametrize("name", ["Vanilla", "Dot"])
def test_the_recurrent_decoders_equal_a_loop_over_their_equations(name):
    decoder, (memory, valid, tokens) = make(name), inputs()
    logits, _ = decoder(memory, valid, tokens)
    for b in range(2):
        real = memory[b][valid[b]]
        s = torch.tanh(decoder.first.weight @ real.mean(0) + decoder.first.bias)
        for t in range(T):
            s = feature = gru(decoder.gru, decoder.embed.weight[tokens[b, t]], s)
            if name == "Dot":
                context = sum(a * h for a, h in zip((real @ s).softmax(0), real, strict=True))
                feature = torch.tanh(decoder.join.weight @ torch.cat([context, s]) + decoder.join.bias)
            expected = decoder.out.weight @ feature + decoder.out.bias
            torch.testing.assert_close(logits[b, t], expected, rtol=0, atol=1e-12)


def test_attention_with_a_past_gets_the_weights_of_the_step_before():
    class Recorder(DotAttention):
        def forward(self, query, keys, values=None, valid=None, state=None):
            seen.append(state)
            return super().forward(query, keys, values, valid, state)

    seen: list[Tensor | None] = []
    memory, valid, tokens = inputs()
    _, weights = AttentionDecoder(V, D, Recorder(D)).double()(memory, valid, tokens)
    assert seen[0] is None and torch.equal(torch.stack(seen[1:], 1), weights[:, :-1])


def test_vanilla_does_not_know_the_order_of_its_memory():
    decoder, (memory, valid, tokens) = make("Vanilla"), inputs()
    found = decoder(memory.flip(1), valid.flip(1), tokens)[0]
    torch.testing.assert_close(found, decoder(memory, valid, tokens)[0], rtol=0, atol=1e-12)


def test_a_layer_of_the_transformer_equals_that_of_pytorch():
    layer, (memory, valid, _) = DecoderLayer(D, heads=2).double(), inputs()
    peer = nn.TransformerDecoderLayer(D, 2, 4 * D, 0.0, batch_first=True, norm_first=True).double()
    names = {"multihead_attn": "cross_attention", "self_attn": "self_attention", "linear1": "mlp.0"}
    names |= {"linear2": "mlp.2"} | {f"norm{i + 1}": f"norms.{i}" for i in range(3)}
    own = layer.state_dict()
    peer.load_state_dict(
        {n: own[f"{names[n.split('.')[0]]}.{n.split('.', 1)[1]}"] for n in peer.state_dict()}
    )
    x, causal = torch.randn(2, T, D).double(), ~torch.ones(T, T, dtype=torch.bool).tril()
    expected = peer(x, memory[:2], tgt_mask=causal, memory_key_padding_mask=~valid[:2])
    torch.testing.assert_close(layer(x, None, memory[:2], valid[:2])[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [6, 7])
def test_positions_are_sines_and_cosines_of_growing_wavelengths(dim):
    for t, row in enumerate(sinusoids(30, dim).tolist()):
        for i, found in enumerate(row):
            wave = math.sin if i % 2 == 0 else math.cos
            assert found == pytest.approx(wave(t / 10000 ** (2 * (i // 2) / dim)), abs=1e-5)


def test_a_transformer_knows_the_place_of_a_character_and_goes_on_counting_from_step_to_step():
    decoder, (memory, valid, _) = make("Transformer"), inputs()
    same = torch.full((3, 3), 4)
    logits, _ = decoder(memory, valid, same)  # alike but for their places
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-3
    assert (logits[:, 1] - logits[:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["Vanilla", "Additive", "Transformer"])
def test_what_decoders_cannot_read_is_refused(name):
    decoder, (memory, valid, tokens) = make(name), inputs()
    for bad in (memory[0], memory[:2], memory[..., :4]):
        with pytest.raises(ValueError, match=r"memory: expected shape \(3, L, 8\), found"):
            decoder(bad, valid, tokens)
    with pytest.raises(TypeError, match="memory: expected floats, found torch.int64"):
        decoder(memory.long(), valid, tokens)
    for bad in (valid[:, :4], valid.long()):
        with pytest.raises(ValueError, match=r"valid: expected bool of shape \(3, 5\), found"):
            decoder(memory, bad, tokens)
    for bad in (tokens[0], tokens.float(), tokens[:, :0], tokens[:0]):
        with pytest.raises(ValueError, match=r"tokens: expected int64 of shape \(B, T\)"):
            decoder(memory, valid, bad)
    for bad in (tokens, tokens[0, 0]):  # a step takes one token of each item
        with pytest.raises(ValueError, match=r"tokens: expected int64 of shape \(B, T\)"):
            decoder.step(memory, valid, bad)
    with pytest.raises(ValueError, match="tokens: expected ids from 0 to 6, found -1 to"):
        decoder(memory, valid, torch.where(tokens == START, -1, tokens))


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="attention: expected a kind of width 8, found 4"):
        AttentionDecoder(V, 8, Attention(4))
    with pytest.raises(ValueError, match="layers: expected a positive number, found 0"):
        TransformerDecoder(V, 8, layers=0)
    with pytest.raises(ValueError, match="dim: expected a positive number, found 0"):
        VanillaDecoder(V, 0)


# Loss


@pytest.mark.parametrize("name", ["Vanilla", "Hybrid", "Transformer"])
def test_loss_and_log_probabilities_equal_a_slow_loop_and_padding_does_not_count(name):
    model, x = translator(name), sources()
    y = torch.tensor([[4, 5, END, 0], [END, 0, 0, 0], [6, 6, 4, 5], [4, END, 0, 0], [UNKNOWN, END, 0, 0]])
    memory, valid = model.encoder(x)
    sums = []
    for b in range(5):
        sums.append(0.0)
        for t, character in enumerate(y[b].tolist()):
            if character != PADDING:
                written = torch.tensor([[START, *y[b, :t].tolist()]])
                logits = model.decoder(memory[b : b + 1], valid[b : b + 1], written)[0][0, -1].tolist()
                sums[b] += logits[character] - math.log(sum(map(math.exp, logits)))
    assert model.log_probability(x, y).tolist() == pytest.approx(sums, rel=1e-9)
    assert model.loss(x, y).item() == pytest.approx(-sum(sums) / 12, rel=1e-9)  # 12 real characters
    padded = model.loss(F.pad(x, (0, 4)), F.pad(y, (0, 3)))
    torch.testing.assert_close(padded, model.loss(x, y), rtol=0, atol=1e-12)
    alone = torch.cat([model.log_probability(x[b : b + 1], y[b : b + 1]) for b in range(5)])
    torch.testing.assert_close(alone, model.log_probability(x, y), rtol=0, atol=1e-12)


def test_a_mean_over_nothing_is_refused():
    with pytest.raises(ValueError, match=r"tokens: expected a real character, found none in \(5, 3\)"):
        translator().loss(sources(), torch.zeros(5, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="found none in"):
        translator().loss(sources(), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"memory: expected shape \(2, L, 8\), found \(5, 6, 8\)"):
        translator().loss(sources(), torch.full((2, 3), 4))


# Writing


def slow_greedy(model: Seq2Seq, x: Tensor, max_length: int) -> tuple[list[int], float]:
    """The likeliest of the end and the characters, again and again, by the whole decoder each time."""
    memory, valid = model.encoder(x[None])
    ids, log_probability = [START], 0.0
    while len(ids) <= max_length and ids[-1] != END:
        log_p = model.decoder(memory, valid, torch.tensor([ids]))[0][0, -1].log_softmax(0)
        ids.append(max([END, *range(4, len(log_p))], key=log_p.__getitem__))
        log_probability += log_p[ids[-1]].item()
    return ids[1:], log_probability


def test_a_beam_of_one_is_greedy_and_a_batch_of_mixed_lengths_is_as_one_by_one():
    ended, lengths = [], []
    for name in DECODERS:
        model, x = translator(name), sources(12)
        written = model.generate(x, max_length=9)
        for b in range(12):
            ids, log_probability = slow_greedy(model, x[b], 9)
            assert written.ids[b].tolist() == ids + [PADDING] * (written.ids.shape[1] - len(ids))
            assert written.log_probability[b].item() == pytest.approx(log_probability, rel=1e-9)
            assert written.ended[b].item() == (ids[-1] == END)
            ended.append(ids[-1] == END)
            lengths.append(len(ids))
    assert 10 < sum(ended) < 98 and len({*lengths}) > 4  # all of it happens


def slow_beam(model: Seq2Seq, x: Tensor, beam: int, penalty: float) -> tuple[list[int], float]:
    """Keep the best few of all continuations, those that have ended among them, as a list of lists."""
    memory, valid = model.encoder(x[None])
    kept = [([START], 0.0)]

    def score(text):
        return text[1] / (len(text[0]) - 1) ** penalty

    for _ in range(6):
        candidates = [text for text in kept if text[0][-1] == END]
        for ids, log_p in [text for text in kept if text[0][-1] != END]:
            more = model.decoder(memory, valid, torch.tensor([ids]))[0][0, -1].log_softmax(0)
            candidates += [([*ids, c], log_p + more[c].item()) for c in (END, *range(4, V))]
        kept = sorted(candidates, key=score, reverse=True)[:beam]
    return max([text for text in kept if text[0][-1] == END] or kept, key=score)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beam", [2, 3, 50])
def test_a_beam_search_equals_a_slow_one(beam, penalty):
    model, x = translator("ScaledDot"), sources(12)
    written = model.generate(x, max_length=6, beam=beam, length_penalty=penalty)
    for b in range(12):
        ids, log_probability = slow_beam(model, x[b], beam, penalty)
        assert [i for i in written.ids[b].tolist() if i != PADDING] == ids[1:]
        assert written.log_probability[b].item() == pytest.approx(log_probability, rel=1e-9)


@pytest.mark.parametrize("name", ["Vanilla", "Hybrid", "Transformer"])
def test_a_beam_search_over_a_batch_is_as_one_by_one_and_says_what_its_texts_are_worth(name):
    model, x = translator(name), sources(8)
    written = model.generate(x, max_length=6, beam=3)
    torch.testing.assert_close(written.log_probability, model.log_probability(x, written.ids))
    for b in range(8):
        alone = model.generate(x[b : b + 1, : (x[b] != PADDING).sum()], max_length=6, beam=3)
        length = alone.ids.shape[1]
        assert torch.equal(written.ids[b, :length], alone.ids[0]) and (written.ids[b, length:] == 0).all()
        torch.testing.assert_close(written.log_probability[b], alone.log_probability[0])
        assert written.ended[b] == alone.ended[0]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("name", ["Vanilla", "Hybrid", "Transformer"])
def test_a_beam_that_holds_everything_finds_the_best_text_there_is(name, penalty):
    model, x = translator(name), sources(6)
    bodies = [body for n in range(3) for body in product([4, 5, 6], repeat=n)]
    texts = torch.zeros(len(bodies), 3, dtype=torch.int64)
    for row, body in zip(texts, bodies, strict=True):
        row[: len(body) + 1] = torch.tensor([*body, END])
    written = model.generate(x, max_length=3, beam=40, length_penalty=penalty)
    for b in range(6):
        log_p = model.log_probability(x[b : b + 1].expand(len(texts), -1), texts)
        best = (log_p / (texts != PADDING).sum(1) ** penalty).argmax()
        assert written.ids[b].tolist() == texts[best, : written.ids.shape[1]].tolist()
        torch.testing.assert_close(written.log_probability[b], log_p[best])
    assert written.ended.all()


@pytest.mark.parametrize("name", ["Vanilla", "Additive", "Transformer"])
def test_a_beam_finds_what_is_as_likely_as_what_greed_finds_or_likelier(name):
    model, x = translator(name), sources(24)
    greedy, beam = (model.generate(x, max_length=5, beam=k, length_penalty=0) for k in (1, 8))
    both = greedy.ended & beam.ended
    gain = (beam.log_probability - greedy.log_probability)[both]
    assert both.sum() > 4 and (gain > -1e-9).all() and (gain > 1e-3).any()


@pytest.mark.parametrize("beam", [1, 3, 40])
def test_a_text_that_never_ends_is_cut_and_says_so(beam):
    model = translator()
    model.decoder.out.bias.data[END] = -math.inf
    written = model.generate(sources(), max_length=2, beam=beam)
    assert not written.ended.any() and written.ids.shape == (5, 2) and (written.ids >= 4).all()
    assert written.log_probability.isfinite().all()
    model.decoder.out.bias.data[END] = 1e4
    written = model.generate(sources(), max_length=4, beam=beam)
    assert written.ended.all() and written.ids.tolist() == [[END]] * 5


def test_a_text_that_has_ended_is_preferred_to_a_likelier_beginning():
    model = translator()
    model.decoder.out.weight.data.zero_()
    model.decoder.out.bias.data.copy_(torch.tensor([0, 0, 1.0, 0, 5, 0, 0]))
    written = model.generate(sources(), max_length=3, beam=2)
    assert written.ended.all()  # in greedy search none is: character 4 is always likelier
    assert not model.generate(sources(), max_length=3).ended.any()


def test_padding_start_and_unknown_are_never_written():
    model = translator()
    model.decoder.out.bias.data[[PADDING, START, UNKNOWN]] = 50
    for beam in (1, 4):
        ids = model.generate(sources(), max_length=5, beam=beam).ids
        after = (ids == END).cumsum(1) - (ids == END).long() > 0
        assert torch.equal(ids == PADDING, after) and not ((ids == START) | (ids == UNKNOWN)).any()


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("name", DECODERS)
def test_weights_are_those_of_the_text_that_was_written(name, beam):
    model, x = translator(name), sources(12)
    written = model.generate(x, max_length=6, beam=beam)
    expected = model(x, written.ids)[1]
    if name == "Vanilla":
        assert written.weights is expected is None
        return
    here = written.ids != PADDING
    assert not here.all()
    found, expected = written.weights.movedim(-2, 1), expected.movedim(-2, 1)
    torch.testing.assert_close(found[here], expected[here])
    assert (found[~here] == 0).all()


def test_a_memory_of_nothing_but_padding_still_gives_a_text():
    model, x = translator(), sources()
    x[2] = PADDING
    written = model.generate(x, max_length=4)
    assert isinstance(written, Generated) and written.log_probability.isfinite().all()
    assert (written.weights[2] == 0).all() and (written.weights[1] != 0).any()


def test_bad_wishes_are_refused():
    model, x = translator(), sources()
    with pytest.raises(ValueError, match="max_length: expected a positive number, found 0"):
        model.generate(x, max_length=0)
    with pytest.raises(ValueError, match="beam: expected a positive number, found 0"):
        model.generate(x, beam=0)
    with pytest.raises(ValueError, match="length_penalty: expected at least 0, found -1"):
        model.generate(x, length_penalty=-1)
    with pytest.raises(ValueError, match=r"ids: expected int64 of shape \(B, T\), neither of them 0"):
        model.generate(x[:0])
    pictures = Seq2Seq(PictureTokens(D, width=4), VanillaDecoder(V, D)).eval()
    with pytest.raises(ValueError, match=r"tokens: expected int64 of shape \(B, T\), neither of them 0"):
        pictures.generate(torch.zeros(0, 3, 32, 32))
    with pytest.raises(ValueError, match="logits: expected numbers, found NaN"):
        pictures.generate(torch.full((1, 3, 32, 32), math.nan), beam=2)


# Learning


def strings(n: int) -> list[str]:
    return ["".join(random.choices("abcdefgh", k=random.randint(3, 6))) for _ in range(n)]


def test_copying_is_learnt_with_attention():
    random.seed(0)
    held_out, vocabulary = sorted(set(strings(200))), Vocabulary(["abcdefgh"])
    model = Seq2Seq(TextTokens(len(vocabulary), 32), AttentionDecoder(len(vocabulary), 32))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.1, total_iters=120)
    for _ in range(120):
        x = vocabulary.encode([s for s in strings(48) if s not in held_out])
        optimiser.zero_grad()
        model.loss(x, x).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.eval()
    for beam in (1, 3):
        written = model.generate(vocabulary.encode(held_out), max_length=10, beam=beam)
        right = [a == b for a, b in zip(vocabulary.decode(written.ids), held_out, strict=True)]
        assert sum(right) / len(right) > 0.9 and written.ended.float().mean() > 0.95
