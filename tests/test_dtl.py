"""The DTL network: bodies, tokens, both directions against loops; what is shared, absent or padded; loss."""

import itertools
import math
import urllib.error
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtutor.cross_modal import masked_mean
from mmtutor.dtl import (
    CELLS,
    AsPhotograph,
    BiRNN,
    DTLNetwork,
    DTLOutput,
    Extractor,
    Reading,
    dual_task_loss,
    pretrained_body,
    residual_body,
)
from tests.by_hand import Vector, add, dot, random_weights, tensors

PAIR, D, CLASSES = ["picture", "animation"], 8, 3
WIDTHS = {"picture": 3, "animation": 5}
LENGTHS = {"picture": 4, "animation": 5}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def affine(weight: Tensor, bias: Tensor, x: Vector) -> Vector:
    return add([dot(row, x) for row in weight.tolist()], bias.tolist())


# Bodies


def test_a_residual_body_makes_a_map_of_four_by_four_and_no_picture_touches_another():
    body, x = residual_body(width=4, channels=2), torch.randn(3, 2, 32, 32)
    maps = body(x)
    assert maps.shape == (3, 16, 4, 4)
    torch.testing.assert_close(maps[1:2], body(x[1:2]), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in body.modules())


def test_a_width_that_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="must be divisible by num_groups"):
        residual_body(width=3)


def test_a_photograph_is_twice_as_large_and_on_the_scale_of_torchvision():
    from torchvision.models import ResNet18_Weights  # after mmtutor, see its _torchvision

    x = torch.cat([torch.full((1, 1, 32, 32), v) for v in (-1.0, 0.0, 1.0, math.nan)], 1)
    found = AsPhotograph()(x)
    assert found.shape == (1, 3, 64, 64)
    weights = ResNet18_Weights.DEFAULT.transforms()
    for channel, grey in enumerate((0.0, 0.5, 1.0)):
        expected = (grey - weights.mean[channel]) / weights.std[channel]
        torch.testing.assert_close(found[0, channel], torch.full((64, 64), expected))


@pytest.fixture
def no_network(monkeypatch, tmp_path) -> Path:
    """Torch keeps its copies in an empty folder, and a try to load one fails; return the folder."""

    def refuse(url, *_, **__):
        raise urllib.error.URLError(f"no way to {url}")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path / "checkpoints"


def test_without_network_and_without_a_copy_the_error_names_the_folder(no_network):
    with pytest.raises(OSError, match="weights of resnet18: not in .*no way to https") as caught:
        pretrained_body()
    assert str(no_network) in str(caught.value)


def test_a_copy_is_read_without_network_and_only_its_first_stages_act_on_three_channels(no_network):
    from torchvision.models import ResNet18_Weights, resnet18

    weights = ResNet18_Weights.DEFAULT
    net = resnet18()
    for name, p in net.named_parameters():
        if "bn" in name and name.endswith("bias"):
            nn.init.normal_(p)
    no_network.mkdir()
    torch.save(net.state_dict(), no_network / Path(weights.url).name)
    body, net = pretrained_body("resnet18").eval(), net.eval()
    x = torch.rand(2, 6, 32, 32) * 2 - 1
    photograph = weights.transforms(crop_size=64, resize_size=64)((x[:, :3] + 1) / 2)
    expected = net.maxpool(net.relu(net.bn1(net.conv1(photograph))))
    expected = net.layer3(net.layer2(net.layer1(expected)))
    with torch.no_grad():
        found = body(x)
        assert found.shape == (2, 256, 4, 4)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert torch.equal(body(x[:, :3]), found)


@pytest.mark.parametrize("name", ["vgg11", "resnet7", "resnext50_32x4d", ""])
def test_a_body_of_another_name_is_refused(name):
    with pytest.raises(ValueError, match=rf"name: expected one of .*resnet18.*; found '{name}'"):
        pretrained_body(name)


# Extractor


class Spy(nn.Module):
    """Means of eight by eight pixels, and a memory of what came."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach())
        return F.avg_pool2d(x, 8)


def extractor(dim: int = 3, channels: int = 4) -> Extractor:
    return random_weights(Extractor(dim, Spy(), channels))


def pictures(*shape: int) -> Tensor:
    return torch.randn(*shape, 32, 32, dtype=torch.float64)


def mean_of_block(x: Tensor, row: int, column: int) -> Vector:
    """Return the mean of each channel over one of four by four blocks."""
    blocks = x[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].tolist()
    return [sum(sum(line) for line in channel) / 64 for channel in blocks]


PLACES = [*itertools.product(range(4), range(4))]


def test_tokens_of_a_picture_equal_the_loop_over_its_places():
    extract, x = extractor(), pictures(2, 4)
    tokens, valid = extract(x)
    assert tokens.shape == (2, 16, 3) and valid.shape == (2, 16) and valid.all()
    for i in range(2):
        for n, (row, column) in enumerate(PLACES):
            token = affine(extract.place.weight, extract.place.bias, mean_of_block(x[i], row, column))
            expected = add(token, extract.positions[n].tolist())
            assert tokens[i, n].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_tokens_of_an_animation_equal_the_loop_over_its_frames():
    extract, x = extractor(), pictures(2, 3, 4)
    valid = torch.tensor([[True, False, True], [False, True, True]])
    tokens, same = extract(x, valid)
    assert tokens.shape == (2, 3, 3) and torch.equal(same, valid)
    for i, t in itertools.product(range(2), range(3)):
        means = [mean_of_block(x[i, t], *place) for place in PLACES]
        whole = [m[channel] for channel in range(4) for m in means]
        expected = affine(extract.whole.weight, extract.whole.bias, whole) if valid[i, t] else [0.0] * 3
        assert tokens[i, t].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_only_what_is_real_passes_the_body(shape):
    extract, x = extractor(), pictures(*shape, 4)
    valid = torch.rand(shape) < 0.5
    valid.view(-1)[0], valid.view(-1)[-1] = True, False
    extract.body.seen.clear()
    tokens, here = extract(torch.where(valid[..., None, None, None], x, math.nan), valid)
    (seen,) = extract.body.seen
    assert torch.equal(seen, x[valid])
    expected = valid[:, None].expand(5, 16) if len(shape) == 1 else valid
    assert (tokens[~valid] == 0).all() and (tokens[valid] != 0).all() and torch.equal(here, expected)


@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_padding_changes_no_norm_over_the_batch_no_token_and_no_gradient(shape):
    valid = torch.rand(shape) < 0.5
    valid.view(-1)[:3], valid.view(-1)[-1] = True, False
    x, results = pictures(*shape, 4), []
    for filler in (0.0, math.nan, 1e30):
        torch.manual_seed(1)
        body = nn.Sequential(nn.AvgPool2d(8), nn.BatchNorm2d(4))
        extract = random_weights(Extractor(3, body, 4))
        read = torch.where(valid[..., None, None, None], x, filler).requires_grad_()
        tokens, _ = extract(read, valid)
        used = [p for name, p in extract.named_parameters() if name.split(".")[0] == "body"]
        gradients = torch.autograd.grad(tokens.square().sum(), [read, *used])
        assert (gradients[0][~valid] == 0).all() and (gradients[0][valid] != 0).any()
        results.append([tokens, *gradients, body[1].running_mean.clone(), body[1].running_var.clone()])
    for found in results[1:]:
        assert all(torch.equal(f, e) and f.isfinite().all() for f, e in zip(found, results[0], strict=True))
    means = F.avg_pool2d(x[valid], 8).mean((0, 2, 3))
    torch.testing.assert_close(results[0][-2], 0.1 * means)


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_three_channels_are_six_of_which_three_are_zero(shape):
    extract, x = Extractor(3, residual_body(4)), torch.randn(*shape, 3, 32, 32)
    filled = torch.cat([x, torch.zeros_like(x)], -3)
    for found, expected in zip(extract(x), extract(filled), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 0), (0,), (0, 3)])
def test_where_nothing_is_real_tokens_are_zero_and_the_body_is_not_asked(shape):
    extract, x = extractor(), torch.full((*shape, 4, 32, 32), math.nan).double().requires_grad_()
    extract.body.seen.clear()
    tokens, valid = extract(x, torch.zeros(shape, dtype=torch.bool))
    assert tokens.shape == (shape[0], 16 if len(shape) == 1 else shape[1], 3)
    assert (tokens == 0).all() and not valid.any() and extract.body.seen == []
    tokens.sum().backward()
    assert x.grad is None or (x.grad == 0).all()
    assert all(p.grad is None or (p.grad == 0).all() for p in extract.parameters())


class Half(nn.Module):
    """A map of four by two."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (4, 2))


def test_a_grid_may_have_more_rows_than_columns():
    extract = Extractor(3, Half(), 4)
    assert extract(torch.zeros(2, 4, 32, 32))[0].shape == (2, 8, 3)
    assert extract(torch.zeros(2, 5, 4, 32, 32))[0].shape == (2, 5, 3)


@pytest.mark.parametrize("shape", [(2,), (2, 5)])
def test_a_grid_with_more_rows_than_columns_gives_zeros_where_nothing_is_real(shape):
    tokens, _ = Extractor(3, Half(), 4)(torch.zeros(*shape, 4, 32, 32), torch.zeros(shape, dtype=torch.bool))
    assert (tokens == 0).all()


PICTURE = torch.zeros(2, 6, 32, 32)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((PICTURE[0, 0],), r"expected shape \(B, 6, 32, 32\) or \(B, L, 6, 32, 32\), found \(32, 32\)"),
        ((PICTURE[0],), r"picture or animation: expected shape .*, found \(6, 32, 32\)"),
        ((PICTURE[:, :2],), r"found \(2, 2, 32, 32\)"),
        ((PICTURE[..., :31],), r"found \(2, 6, 32, 31\)"),
        ((PICTURE[None, None],), r"found \(1, 1, 2, 6, 32, 32\)"),
        ((PICTURE, torch.ones(2)), r"valid: expected bool of shape \(2,\), found torch.float32 of \(2,\)"),
        ((PICTURE, torch.ones(3) > 0), r"valid: expected bool of shape \(2,\), found .* of \(3,\)"),
        ((PICTURE[None], torch.ones(1) > 0), r"valid: expected bool of shape \(1, 2\), found .* of \(1,\)"),
    ],
)  # fmt: skip
def test_pictures_and_masks_that_do_not_fit_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        Extractor(3, residual_body(4))(*args)


def test_a_picture_of_more_channels_than_the_body_reads_is_refused():
    with pytest.raises(ValueError, match=r"found \(2, 3, 32, 32\)"):
        extractor(channels=2)(pictures(2, 3))


def test_stored_bytes_are_refused():
    with pytest.raises(TypeError, match="expected floats, found torch.uint8"):
        Extractor(3, residual_body(4))(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


def test_an_extractor_without_width_is_refused():
    with pytest.raises(ValueError, match="dim: expected a positive number, found 0"):
        Extractor(0, residual_body(4))


def test_to_measure_a_body_changes_no_norm_of_its_batches():
    body = nn.Sequential(nn.AvgPool2d(8), nn.BatchNorm2d(6))
    nn.init.ones_(body[1].running_mean)
    Extractor(3, body)
    assert (body[1].running_mean == 1).all() and body[1].num_batches_tracked == 0 and body.training


# From both sides


CELL_NAMES = list(CELLS)


def sequences(batch: int = 5, length: int = 6, width: int = 3) -> tuple[Tensor, Tensor]:
    """Sequences: whole, with padding in the middle, in front, behind, and with nothing."""
    valid = torch.ones(batch, length, dtype=torch.bool)
    valid[1, 1], valid[1, 3:5], valid[2, :2], valid[3, 2:], valid[4] = False, False, False, False, False
    return torch.randn(batch, length, width, dtype=torch.float64), valid


def rnn_by_loop(rnn: nn.RNN, steps: list[Vector], suffix: str = "") -> list[Vector]:
    W, U, b, c = (
        getattr(rnn, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, states = [0.0] * len(c), []
    for x in steps:
        h = [math.tanh(v) for v in add(affine(W, b, x), affine(U, c, h))]
        states.append(h)
    return states


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_plain_cell_equals_the_loop_over_its_equation_in_both_directions(bidirectional):
    model, (x, valid) = random_weights(BiRNN(3, 4, "RNN", bidirectional)), sequences()
    found = model(torch.where(valid[..., None], x, math.nan), valid)
    for i in range(5):
        steps = x[i, valid[i]].tolist()
        expected = rnn_by_loop(model.rnn, steps)
        if bidirectional:
            backward = rnn_by_loop(model.rnn, steps[::-1], "_reverse")[::-1]
            expected = [f + b for f, b in zip(expected, backward, strict=True)]
        torch.testing.assert_close(found[i, valid[i]], torch.tensor(expected).double().view(-1, 4))
        assert (found[i, ~valid[i]] == 0).all()


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_without_padding_it_is_the_network_of_pytorch(cell, bidirectional):
    model, (x, valid) = BiRNN(3, 4, cell, bidirectional).double(), sequences()
    peer = CELLS[cell](3, model.hidden, batch_first=True, bidirectional=bidirectional).double()
    peer.load_state_dict(model.rnn.state_dict())
    expected, _ = peer(x)
    assert model.hidden == (2 if bidirectional else 4) and expected.shape == (5, 6, 4)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model(x, valid)[0], expected[0])  # beside others that have padding


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_padding_is_passed_over_wherever_it_stands(cell, bidirectional):
    model, (x, valid) = random_weights(BiRNN(3, 4, cell, bidirectional)), sequences()
    found = model(torch.where(valid[..., None], x, math.nan), valid)
    for i in range(4):
        torch.testing.assert_close(found[i, valid[i]], model(x[i : i + 1, valid[i]])[0])
    assert (found[~valid] == 0).all()
    more = torch.cat([torch.full((5, 2, 3), math.nan).double(), x], 1)
    here = torch.cat([torch.zeros(5, 2, dtype=torch.bool), valid], 1)
    torch.testing.assert_close(model(more, here), F.pad(found, (0, 0, 2, 0)))
    assert (model(x, torch.zeros_like(valid)) == 0).all()


def test_the_order_of_many_real_steps_is_kept():
    model, x = random_weights(BiRNN(3, 4)), torch.randn(2, 300, 3, dtype=torch.float64)
    valid = torch.rand(2, 300) < 0.5
    found = model(x, valid)
    for i in range(2):
        torch.testing.assert_close(found[i, valid[i]], model(x[i : i + 1, valid[i]])[0])


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("rubbish", [math.nan, math.inf])
def test_rubbish_at_padding_touches_neither_states_nor_gradients(cell, rubbish):
    model, (x, valid) = random_weights(BiRNN(3, 4, cell)), sequences()
    results = []
    for filler in (0.0, rubbish):
        read = torch.where(valid[..., None], x, filler).requires_grad_()
        found = model(read, valid)
        gradients = torch.autograd.grad(found.square().sum(), [read, *model.parameters()])
        assert (gradients[0][~valid] == 0).all() and all((g != 0).any() for g in gradients)
        results.append([found, *gradients])
    assert all(torch.equal(f, e) and f.isfinite().all() for f, e in zip(*results, strict=True))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("cell", CELL_NAMES)
def test_where_nothing_is_real_states_are_zero_and_nothing_flows_back(cell):
    model, (x, valid) = random_weights(BiRNN(3, 4, cell)), sequences()
    with torch.autograd.detect_anomaly():
        read = torch.where(valid[..., None], x, math.nan).requires_grad_()
        found = model(read, valid)
        (gradient,) = torch.autograd.grad(found[4].sum(), read)
    assert (gradient == 0).all()
    assert not model(read, torch.zeros_like(valid)).any()


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize("padded", [True, False])
def test_the_forward_half_ignores_what_comes_later_and_the_backward_half_what_came_before(cell, padded):
    model, (x, valid) = random_weights(BiRNN(3, 4, cell)), sequences()
    valid = valid if padded else torch.ones_like(valid)
    found = model(x, valid)
    for t in range(1, 6):
        other = torch.randn_like(x)
        later, earlier = torch.cat([x[:, :t], other[:, t:]], 1), torch.cat([other[:, :t], x[:, t:]], 1)
        changed_later, changed_earlier = model(later, valid), model(earlier, valid)
        assert torch.equal(changed_later[:, :t, :2], found[:, :t, :2])
        assert torch.equal(changed_earlier[:, t:, 2:], found[:, t:, 2:])
        assert (changed_later[0, :t, 2:] != found[0, :t, 2:]).all()
        assert (changed_earlier[0, t:, :2] != found[0, t:, :2]).all()


@pytest.mark.parametrize("cell", CELL_NAMES)
def test_a_reversed_sequence_swaps_the_halves_where_both_directions_are_alike(cell):
    model, (x, valid) = random_weights(BiRNN(3, 4, cell)), sequences()
    with torch.no_grad():
        for name, p in model.rnn.named_parameters():
            if name.endswith("_reverse"):
                p.copy_(getattr(model.rnn, name.removesuffix("_reverse")))
    forwards, backwards = model(x, valid), model(x.flip(1), valid.flip(1)).flip(1)
    torch.testing.assert_close(torch.cat([backwards[..., 2:], backwards[..., :2]], 2), forwards)
    assert not torch.allclose(forwards[..., :2], forwards[..., 2:])


@pytest.mark.parametrize("cell", CELL_NAMES)
@pytest.mark.parametrize(("batch", "length"), [(0, 3), (2, 0), (0, 0), (2, 1)])
def test_no_sequence_no_step_and_one_step_have_a_defined_result(cell, batch, length):
    found = BiRNN(3, 4, cell)(torch.randn(batch, length, 3))
    assert found.shape == (batch, length, 4) and found.isfinite().all()


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        (lambda: BiRNN(3, 4, "gru"), ValueError, "cell: expected one of RNN, GRU, LSTM; found 'gru'"),
        (lambda: BiRNN(3, 5), ValueError, "dim: expected an even number for two directions, found 5"),
        (lambda: BiRNN(3, 0), ValueError, "hidden_size must be greater than zero"),
        (lambda: BiRNN(0, 4), ValueError, "input_size must be greater than zero"),
        (lambda: BiRNN(3, 4)(torch.zeros(2, 5, 4)), ValueError, r"x: .* \(B, L, 3\), found \(2, 5, 4\)"),
        (lambda: BiRNN(3, 4)(torch.zeros(2, 3)), ValueError, r"x: .* \(B, L, 3\), found \(2, 3\)"),
        (lambda: BiRNN(3, 4)(torch.zeros(2, 5, 3).long()), TypeError, "expected floats, found torch.int64"),
        (lambda: BiRNN(3, 4)(torch.zeros(2, 5, 3), torch.ones(2, 5)), ValueError, "found torch.float32"),
        (lambda: BiRNN(3, 4)(torch.zeros(2, 5, 3), torch.ones(2, 4) > 0), ValueError, r"\(2, 5\), found"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_recurrent_network_is_refused(broken, error, message):
    with pytest.raises(error, match=message):
        broken()


def test_one_direction_may_have_an_odd_width():
    assert BiRNN(3, 5, bidirectional=False)(torch.zeros(2, 4, 3)).shape == (2, 4, 5)


def test_without_recurrence_each_token_is_read_by_itself():
    reading, (x, valid) = random_weights(Reading(3, 4)), sequences()
    found = reading(x, valid)
    for i, t in itertools.product(range(5), range(6)):
        expected = affine(reading.weight, reading.bias, x[i, t].tolist()) if valid[i, t] else [0.0] * 4
        assert found[i, t].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert reading.hidden == 4


def test_rubbish_at_padding_touches_no_gradient_of_a_reading():
    reading, (x, valid) = random_weights(Reading(3, 4)), sequences()
    reading(torch.where(valid[..., None], x, math.nan), valid).sum().backward()
    assert reading.weight.grad.isfinite().all() and reading.bias.grad.isfinite().all()


# The whole


class Given(nn.Module):
    """An extractor for tokens that are there already: a map of each, zero at padding."""

    def __init__(self, width: int):
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        valid = torch.ones(x.shape[:2], dtype=torch.bool) if valid is None else valid
        clean = self.map(torch.where(valid[..., None], x, 0))
        return torch.where(valid[..., None], clean, 0), valid


def network(widths: dict[str, int] = WIDTHS, **settings) -> DTLNetwork:
    settings = {"heads": 2, "segment": 2, "window": 2, "slots": 2} | settings
    return DTLNetwork({m: Given(n) for m, n in widths.items()}, widths, D, CLASSES, **settings)


def items(rubbish: float = math.nan) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Items: whole, shorter, without picture, without animation, with nothing, with nothing."""
    inputs, valid = {}, {}
    for m in PAIR:
        valid[m] = torch.ones(6, LENGTHS[m], dtype=torch.bool)
        valid[m][1, -2:], valid[m][4:] = False, False
    valid["picture"][2], valid["animation"][3] = False, False
    for m in PAIR:
        x = torch.randn(6, LENGTHS[m], WIDTHS[m], dtype=torch.float64)
        inputs[m] = torch.where(valid[m][..., None], x, rubbish)
    return inputs, valid


VARIANTS = {
    "soft": {},
    "hard": {"exchange": "hard"},
    "no exchange": {"exchange": None},
    "one direction": {"bidirectional": False},
    "LSTM": {"cell": "LSTM"},
    "no recurrence": {"cell": None},
    "no parts": {"parts": ()},
    "own predictors": {"share_predictor": False},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def variant_of(name: str) -> DTLNetwork:
    return random_weights(network(**VARIANTS[name]))


@each_variant
def test_shapes_of_all_that_is_said_of_a_batch(variant):
    inputs, valid = items()
    out = variant_of(variant)(inputs, valid)
    assert out.logits.shape == (6, CLASSES) and out.code.shape == (6, D)
    assert list(out.modality_logits) == list(out.codes) == list(out.here) == PAIR
    for m in PAIR:
        assert out.modality_logits[m].shape == (6, CLASSES) and out.codes[m].shape == (6, D)
    assert out.here["picture"].tolist() == [True, True, False, True, False, False]
    assert out.here["animation"].tolist() == [True, True, True, False, False, False]
    exchange = ["exchange"] if VARIANTS[variant].get("exchange", "soft") else []
    parts = ["inter", "composition", "mix", "hierarchical", "short", "long"]
    assert list(out.weights) == exchange + ([] if variant == "no parts" else parts)


@each_variant
def test_the_network_is_its_parts_one_after_another(variant):
    model, (inputs, valid) = variant_of(variant), items()
    out = model(inputs, valid)
    h, states, codes = {}, {}, {}
    for n, m in enumerate(PAIR):
        tokens, here = model.extractors[n](inputs[m], valid[m])
        h[m] = model.rnns[n](tokens, here)
        both = VARIANTS[variant].get("bidirectional", True) and VARIANTS[variant].get("cell", "GRU")
        states[m] = h[m][..., : D // 2] if both else h[m]
        codes[m] = model.own[n](masked_mean(h[m], here))
    mixed = model.exchange(h, valid)[0] if model.exchange else h
    code, _ = model.dam(mixed, valid, states)
    torch.testing.assert_close(out.code, code)
    torch.testing.assert_close(out.logits, model.predictors[0](code))
    for n, m in enumerate(PAIR):
        torch.testing.assert_close(out.codes[m], codes[m])
        torch.testing.assert_close(out.modality_logits[m], model.predictors[n + 1](codes[m]))


@each_variant
def test_the_order_of_the_inputs_does_not_matter(variant):
    model, (inputs, valid) = variant_of(variant), items()
    expected = model(inputs, valid)
    found = model(dict(reversed(inputs.items())), dict(reversed(valid.items())))
    assert list(found.codes) == PAIR
    assert all(torch.equal(f, e) for f, e in zip(tensors(found), tensors(expected), strict=True))


def test_a_modality_without_a_mask_is_all_real():
    model, (inputs, valid) = variant_of("soft"), items(0.5)
    everything = {m: torch.ones_like(v) for m, v in valid.items()}
    expected = tensors(model(inputs, everything))
    for masks in (None, {}, {"picture": everything["picture"]}):
        assert all(torch.equal(f, e) for f, e in zip(tensors(model(inputs, masks)), expected, strict=True))


@each_variant
def test_rubbish_at_padding_touches_neither_results_nor_gradients(variant):
    model, results, gradients = variant_of(variant), [], []
    for filler in (0.0, math.nan):
        torch.manual_seed(1)
        inputs, valid = items(filler)
        out = model({m: x.requires_grad_() for m, x in inputs.items()}, valid)
        loss = dual_task_loss(out, torch.tensor([0, 1, 2, 0, 1, 2]), align=0.5)
        results.append(tensors(out))
        sources = [*inputs.values(), *model.parameters()]
        gradients.append(torch.autograd.grad(loss, sources))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected) and found.isfinite().all()
    for found, expected in zip(*gradients, strict=True):
        assert torch.equal(found, expected) and found.isfinite().all() and (found != 0).any()
    for g, m in zip(gradients[1], PAIR, strict=False):
        assert (g[~valid[m]] == 0).all() and (g[:2].flatten(1) != 0).any(1).all()


@each_variant
def test_items_without_anything_get_the_same_finite_logits_whatever_stands_there(variant):
    model, (inputs, valid) = variant_of(variant), items()
    inputs["picture"][5], inputs["animation"][5] = 7.0, -1e30
    out = model(inputs, valid)
    for logits in (out.logits, *out.modality_logits.values()):
        torch.testing.assert_close(logits[4], logits[5], rtol=1e-12, atol=1e-12)
        assert logits.isfinite().all() and not torch.allclose(logits[0], logits[4])


@each_variant
def test_items_of_different_lengths_get_what_each_gets_alone_without_padding(variant):
    model, (inputs, valid) = variant_of(variant), items()
    out = model(inputs, valid)
    for i in range(6):
        alone = model({m: inputs[m][i : i + 1, valid[m][i]] for m in PAIR})
        torch.testing.assert_close(out.logits[i : i + 1], alone.logits, rtol=0, atol=1e-9)
        torch.testing.assert_close(out.code[i : i + 1], alone.code, rtol=0, atol=1e-9)
        for m in PAIR:
            torch.testing.assert_close(
                out.modality_logits[m][i : i + 1], alone.modality_logits[m], rtol=0, atol=1e-9
            )
            assert alone.here[m].item() == out.here[m][i].item()


@each_variant
def test_one_step_of_each_is_enough(variant):
    model, (inputs, _) = variant_of(variant), items(0.5)
    out = model({m: x[:, :1] for m, x in inputs.items()})
    assert all(t.isfinite().all() for t in tensors(out))


@each_variant
def test_no_items_give_no_logits(variant):
    model, (inputs, valid) = variant_of(variant), items()
    out = model({m: x[:0] for m, x in inputs.items()}, {m: v[:0] for m, v in valid.items()})
    assert out.logits.shape == (0, CLASSES)


@pytest.mark.parametrize("variant", ["soft", "hard", "one direction", "no recurrence", "LSTM"])
def test_a_later_frame_changes_nothing_of_what_was_remembered_before(variant):
    model, (inputs, _) = variant_of(variant), items(0.5)
    later = inputs["animation"].clone()
    later[:, 3:] += torch.randn_like(later[:, 3:])
    before, after = (model({**inputs, "animation": x}).weights for x in (inputs["animation"], later))
    for found, expected in (
        (after["short"]["animation"], before["short"]["animation"]),
        *((after["long"]["animation"][way], before["long"]["animation"][way]) for way in ("read", "write")),
    ):
        torch.testing.assert_close(found[:, :3], expected[:, :3], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(found[:, 3:], expected[:, 3:])


def test_the_gates_of_a_hard_exchange_are_0_or_1_and_those_of_a_soft_one_between():
    inputs, valid = items()
    for variant, hard in (("hard", True), ("soft", False)):
        gates = variant_of(variant)(inputs, valid).weights["exchange"]
        assert all((((g == 0) | (g == 1))[:2][valid[m][:2]]).all() == hard for m, g in gates.items())
        assert all((g != 0).any() for g in gates.values())


def test_the_whole_network_reads_pictures_and_animations():
    extractors = {m: Extractor(6, residual_body(4)) for m in PAIR}
    model = DTLNetwork(extractors, dict.fromkeys(PAIR, 6), D, CLASSES, timed=["animation"], segment=4)
    inputs = {"picture": torch.randn(3, 3, 32, 32), "animation": torch.randn(3, 4, 6, 32, 32)}
    valid = {"picture": torch.tensor([True, False, True]), "animation": torch.rand(3, 4) < 0.5}
    valid["animation"][0], valid["animation"][2] = torch.tensor([True, True, False, False]), False
    out = model(inputs, valid)
    assert out.here["picture"].tolist() == [True, False, True] and not out.here["animation"][2]
    assert list(out.weights["short"]) == ["animation"]
    alone = model({"picture": inputs["picture"][:1], "animation": inputs["animation"][:1, :2]})
    torch.testing.assert_close(out.logits[:1], alone.logits, rtol=0, atol=1e-5)
    dual_task_loss(out, torch.tensor([0, 1, 2])).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("absent", PAIR)
def test_nothing_is_learnt_from_a_modality_that_no_item_has(absent):
    model, (inputs, valid) = variant_of("soft"), items()
    valid[absent][:] = False
    out = model({m: x.requires_grad_() for m, x in inputs.items()}, valid)
    dual_task_loss(out, torch.zeros(6, dtype=torch.long), align=0.5).backward()
    n = PAIR.index(absent)
    for p in (*model.extractors[n].parameters(), *model.rnns[n].parameters()):
        assert p.grad is None or (p.grad == 0).all()
    assert inputs[absent].grad is None or (inputs[absent].grad == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all((p.grad != 0).any() for p in model.extractors[1 - n].parameters())


# What is shared


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_one_extractor_may_stand_for_both():
    shared, widths = Given(3), dict.fromkeys(PAIR, 3)
    make = partial(DTLNetwork, in_dims=widths, dim=D, classes=CLASSES, heads=2)
    model, separate = make(dict.fromkeys(PAIR, shared)), make({m: Given(3) for m in PAIR})
    assert model.extractors[0] is model.extractors[1] is shared
    assert count(separate) - count(model) == count(shared)
    out = model({m: torch.randn(2, 4, 3) for m in PAIR})
    of_each = [torch.autograd.grad(out.codes[m].sum(), shared.map.weight, retain_graph=True)[0] for m in PAIR]
    assert all((g != 0).any() for g in of_each)


@pytest.mark.parametrize("cell", ["GRU", None])
def test_one_recurrent_network_may_read_both(cell):
    widths = dict.fromkeys(PAIR, 3)
    model, separate = (network(widths, cell=cell, share_rnn=share) for share in (True, False))
    assert model.rnns[0] is model.rnns[1] and separate.rnns[0] is not separate.rnns[1]
    assert count(separate) - count(model) == count(model.rnns[0])
    x = torch.randn(2, 4, 3)
    model.extractors[1].load_state_dict(model.extractors[0].state_dict())
    tokens, _ = model.tokens({m: x for m in PAIR})
    torch.testing.assert_close(tokens["picture"], tokens["animation"])


def test_one_predictor_reads_all_three_codes_or_each_has_its_own():
    model, separate = network(), network(share_predictor=False)
    assert model.predictors[0] is model.predictors[1] is model.predictors[2]
    assert len({id(p) for p in separate.predictors}) == 3
    assert count(separate) - count(model) == 2 * count(model.predictors[0])
    inputs = {m: torch.randn(2, 4, n) for m, n in WIDTHS.items()}
    for net, reached in ((model, True), (separate, False)):
        of_fused = next(net.predictors[0].parameters())
        for logits in net(inputs).modality_logits.values():
            (g,) = torch.autograd.grad(logits[:, 0].sum(), of_fused, allow_unused=True, retain_graph=True)
            assert (g is not None) == reached


def test_own_predictors_start_alike():
    first, *others = network(share_predictor=False).predictors
    for p, *rest in zip(*(head.parameters() for head in (first, *others)), strict=True):
        assert all(torch.equal(p, q) for q in rest)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exchange": "medium"}, "exchange: expected soft, hard or None; found 'medium'"),
        ({"share_rnn": True}, "share_rnn: expected tokens of one width, found {'picture': 3, .*5}"),
        ({"parts": ["inner"]}, r"parts: expected some of .*; found \['inner'\]"),
        ({"timed": ["sound"]}, r"timed: expected some of .* found \['sound'\]"),
        ({"cell": "gru"}, "cell: expected one of RNN, GRU, LSTM; found 'gru'"),
        ({"heads": 3}, "heads: expected a divisor of dim 8, found 3"),
        ({"window": 0}, "window: expected a positive number, found 0"),
        ({"slots": 0}, "slots: expected a positive number, found 0"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        network(**settings)


@pytest.mark.parametrize(
    ("extractors", "in_dims"),
    [(["a"], ["a"]), (["a", "b", "c"], ["a", "b", "c"]), (["a", "b"], ["a", "c"]), (["a", "b"], ["a"])],
)
def test_modalities_that_are_not_two_or_not_the_same_are_refused(extractors, in_dims):
    with pytest.raises(ValueError, match=r"extractors: expected two, as in_dims .*; found \['a'"):
        DTLNetwork({m: Given(3) for m in extractors}, dict.fromkeys(in_dims, 3), D, CLASSES)


@pytest.mark.parametrize(
    ("names", "found"), [(["picture"], ""), ([*PAIR, "sound"], ".*sound"), (["picture", "sound"], ".*sound")]
)
def test_inputs_that_are_missing_or_unknown_are_refused(names, found):
    with pytest.raises(
        ValueError, match=rf"inputs: expected the modalities \['picture', .* found \['picture'{found}"
    ):
        network()({m: torch.zeros(2, 3, WIDTHS.get(m, 3)) for m in names})


@pytest.mark.parametrize("exchange", ["soft", None])
def test_different_numbers_of_items_are_refused(exchange):
    with pytest.raises(
        ValueError, match="as many items of each modality, found {'picture': 2, 'animation': 3}"
    ):
        network(exchange=exchange)({"picture": torch.zeros(2, 3, 3), "animation": torch.zeros(3, 3, 5)})


def test_a_mask_of_an_unknown_modality_is_refused():
    inputs, valid = items(0.5)
    with pytest.raises(ValueError, match="pictures"):
        variant_of("soft")(inputs, {"pictures": valid["picture"], "animation": valid["animation"]})


# Learning


def fitted(model: DTLNetwork, inputs, valid, y, steps: int) -> tuple[float, float]:
    """Loss before and after."""
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=0.02), []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = dual_task_loss(model(inputs, valid), y)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize(
    ("settings", "factor"),
    [({}, 4), ({"exchange": "hard", "cell": "LSTM"}, 4), ({"cell": None, "parts": ()}, 2)],
)
def test_a_network_learns_few_random_items_by_heart(settings, factor):
    model, y = network(**settings), torch.randint(CLASSES, (32,))
    inputs = {m: torch.randn(32, LENGTHS[m], n) for m, n in WIDTHS.items()}
    valid = {m: torch.rand(32, LENGTHS[m]) < 0.8 for m in PAIR}
    for m, start in (("picture", 0), ("animation", 16)):
        valid[m][:, 0] = True
        valid[m][start : start + 4] = False  # it is missing
    before, after = fitted(model, inputs, valid, y, steps=50)
    assert after < before / factor
    assert (model(inputs, valid).logits.argmax(1) == y).float().mean() > 0.85


def test_a_network_learns_few_random_pictures_and_animations_by_heart():
    extractors = {m: Extractor(D, residual_body(4)) for m in PAIR}
    model = DTLNetwork(extractors, dict.fromkeys(PAIR, D), D, CLASSES, heads=2, timed=["animation"])
    inputs = {"picture": torch.randn(8, 6, 32, 32), "animation": torch.randn(8, 2, 6, 32, 32)}
    before, after = fitted(model, inputs, None, torch.arange(8) % CLASSES, steps=25)
    assert after < before / 2


# The loss


def cross_entropy(logits: Vector, y: int) -> float:
    return math.log(sum(math.exp(v) for v in logits)) - logits[y]


def nce(a: list[Vector], b: list[Vector], temperature: float) -> float:
    def similar(x: Vector, y: Vector) -> float:
        return dot(x, y) / math.sqrt(dot(x, x) * dot(y, y)) / temperature

    S = [[similar(x, y) for y in b] for x in a]
    both = [S, [list(column) for column in zip(*S, strict=True)]]
    return sum(cross_entropy(row, i) for s in both for i, row in enumerate(s)) / (2 * len(a))


def said(here: dict[str, list[bool]]) -> DTLOutput:
    """Random logits and codes; NaN where an item does not have the modality."""
    here = {m: torch.tensor(h) for m, h in here.items()}
    n = len(next(iter(here.values())))

    def numbers(width: int, where: Tensor | None = None) -> Tensor:
        x = torch.randn(n, width, dtype=torch.float64)
        return x if where is None else torch.where(where[:, None], x, math.nan)

    logits = {m: numbers(CLASSES, h) for m, h in here.items()}
    codes = {m: numbers(4, h) for m, h in here.items()}
    return DTLOutput(numbers(CLASSES), logits, {}, numbers(4), codes, here)


HERE = {
    "everywhere": {"picture": [True] * 4, "animation": [True] * 4},
    "with gaps": {"picture": [True, True, False, True], "animation": [True, True, True, False]},
    "one pair": {"picture": [True, True, False, False], "animation": [False, True, True, False]},
    "no pair": {"picture": [True, True, False, False], "animation": [False, False, True, True]},
    "one modality": {"picture": [True] * 4, "animation": [False] * 4},
    "nothing": {"picture": [False] * 4, "animation": [False] * 4},
}


@pytest.mark.parametrize("here", HERE)
@pytest.mark.parametrize(("own", "align"), [(0.3, 0.0), (0.0, 0.0), (1.0, 0.5), (0.0, 2.0)])
def test_the_loss_equals_its_formula(here, own, align):
    out, y = said(HERE[here]), [2, 0, 1, 1]
    expected = sum(cross_entropy(out.logits[i].tolist(), y[i]) for i in range(4)) / 4
    for m in PAIR:
        mine = [i for i in range(4) if HERE[here][m][i]]
        of_m = [cross_entropy(out.modality_logits[m][i].tolist(), y[i]) for i in mine]
        expected += own * sum(of_m) / max(len(mine), 1)
    both = [i for i in range(4) if all(HERE[here][m][i] for m in PAIR)]
    if len(both) > 1:
        expected += align * nce(*(out.codes[m][both].tolist() for m in PAIR), temperature=0.2)
    found = dual_task_loss(out, torch.tensor(y), own=own, align=align, temperature=0.2)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_a_weight_of_zero_leaves_a_term_out():
    out, y = said(HERE["nothing"]), torch.tensor([2, 0, 1, 1])
    out.here = {m: torch.ones(4, dtype=torch.bool) for m in PAIR}  # so that NaN stands in what is asked for
    assert dual_task_loss(out, y, own=0.0).item() == pytest.approx(F.cross_entropy(out.logits, y).item())
    assert dual_task_loss(out, y, own=0.3).isnan()


def test_what_an_item_does_not_have_gets_no_gradient():
    out, y = said(HERE["with gaps"]), torch.tensor([2, 0, 1, 1])
    sources = [t.requires_grad_() for t in (*out.modality_logits.values(), *out.codes.values())]
    gradients = torch.autograd.grad(dual_task_loss(out, y, align=1.0), sources)
    for g, m in zip(gradients, [*PAIR, *PAIR], strict=True):
        assert g.isfinite().all() and (g[~out.here[m]] == 0).all() and (g[:2] != 0).any()
    assert (gradients[3][3] == 0).all() and (gradients[2][3] == 0).all()  # a code without its partner


def test_the_loss_pulls_the_codes_of_one_item_together():
    out, y = said(HERE["everywhere"]), torch.tensor([2, 0, 1, 1])
    apart = dual_task_loss(out, y, align=1.0)
    out.codes["animation"] = out.codes["picture"]
    assert dual_task_loss(out, y, align=1.0) < apart
