r"""The DTL GAN: an encoder of several modalities, a generator of all at once, a discriminator of codes.

A discriminator :math:`d` says of a thing's code how real it is, by a *logit* :math:`\ell(x)=d(E(x))`; its
probability is :math:`D=\sigma(\ell)`. Real things are drawn from :math:`p_r`, what the generator made from
:math:`p_g`; :math:`\mathbb E_r` and :math:`\mathbb E_g` are means over them.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from tqdm.auto import tqdm

from .augment import mask_present
from .contrastive import check_positive
from .fusion import ConcatFusion, Fusion

Scalar = Float[Tensor, ""]
Views = dict[str, Tensor]
FORMS = ("non-saturating", "minimax", "least squares")
PENALISED_EVERY = 4  # steps, and then four times as much: the penalty is costly and slow to change
TOO_LARGE = 1e4  # a loss above it has diverged


# Losses


def weighted_cross_entropy(
    logits: Float[Tensor, "batch"], labels: Tensor, weights: tuple[float, float] = (1.0, 1.0)
) -> Scalar:
    r"""Weighted average of the cross-entropies of real and of generated things.

    .. math:: L_D=\frac{w_r\,\mathbb E_r[-\log D]+w_g\,\mathbb E_g[-\log(1-D)]}{w_r+w_g}

    Each expectation is a mean over its own class, so how many there are of each changes nothing.

    Args:
        logits: what the discriminator says, ``(B,)``.
        labels: 1 for real, 0 for generated, ``(B,)``.
        weights: :math:`w_r` and :math:`w_g`, both positive.

    Raises:
        ValueError: for other labels, one class alone, shapes that differ, weights that are not positive.

    Example:
        >>> round(weighted_cross_entropy(torch.zeros(3), torch.tensor([1, 0, 0])).item(), 4)
        0.6931
    """
    if logits.ndim != 1 or labels.shape != logits.shape:
        raise ValueError(
            f"labels: expected one for each logit of (B,), "
            f"found {tuple(labels.shape)} for {tuple(logits.shape)}"
        )
    if not ((labels == 0) | (labels == 1)).all():
        odd = labels[(labels != 0) & (labels != 1)][0].item()
        raise ValueError(f"labels: expected 1 for real and 0 for generated, found {odd:g}")
    return dtl_losses(logits[labels == 1], logits[labels == 0], weights)["discriminator"]


def dtl_losses(
    real_logits: Float[Tensor, "real"],
    fake_logits: Float[Tensor, "fake"],
    weights: tuple[float, float] = (1.0, 1.0),
    *,
    form: str = "non-saturating",
) -> dict[str, Scalar]:
    r"""The three losses of the DTL GAN, of what the discriminator says of real and of generated codes.

    .. math::
        \text{discriminator}&=\frac{-w_r\,\mathbb E_r\log D-w_g\,\mathbb E_g\log(1-D)}{w_r+w_g}\\
        \text{generator}&=-\mathbb E_g\log D\\
        \text{matching}&=\mathbb E_g[-\ell]+\log\frac{w_r}{w_g}

    The discriminator is best at :math:`\ell^*=\log(p_r/p_g)+\log(w_r/w_g)`, and there *matching* is
    :math:`\mathrm{KL}(p_g\Vert p_r)`. The last two are for the generator; who is trained is not decided
    here, but by whose optimiser steps.

    Args:
        real_logits, fake_logits: of real and of generated codes, ``(n,)`` and ``(m,)``.
        weights: :math:`w_r` and :math:`w_g`, both positive.
        form: ``"minimax"`` lets the generator minimise :math:`\mathbb E_g\log(1-D)`; ``"least squares"``
            scores :math:`\ell` itself, 1 for real and 0 for generated, and has no *matching*.

    Raises:
        ValueError: for no logits on one side, weights that are not positive, an unknown form.

    Source:
        Goodfellow et al. (2014); Mao et al. (2017) for least squares; Sugiyama, Suzuki and Kanamori
        (2012) for the ratio of densities.

    Example:
        >>> undecided = torch.zeros(4)
        >>> {name: round(loss.item(), 2) for name, loss in dtl_losses(undecided, undecided).items()}
        {'discriminator': 0.69, 'generator': 0.69, 'matching': 0.0}
    """
    for name, logits in (("real_logits", real_logits), ("fake_logits", fake_logits)):
        if logits.ndim != 1 or not len(logits):
            raise ValueError(f"{name}: expected at least one logit, (n,); found {tuple(logits.shape)}")
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}; found {form!r}")
    w_r, w_g = weights
    check_positive("w_r", w_r)
    check_positive("w_g", w_g)
    if form == "least squares":
        misses = w_r * (real_logits - 1).square().mean() + w_g * fake_logits.square().mean()
        return {
            "discriminator": misses / (w_r + w_g),
            "generator": (fake_logits - 1).square().mean(),
        }
    said = w_r * F.softplus(-real_logits).mean() + w_g * F.softplus(fake_logits).mean()
    fools = F.softplus(-fake_logits) if form == "non-saturating" else -F.softplus(fake_logits)
    return {
        "discriminator": said / (w_r + w_g),
        "generator": fools.mean(),
        "matching": -fake_logits.mean() + math.log(w_r / w_g),
    }


def gradient_penalty(logits: Float[Tensor, "batch"], seen: Iterable[Tensor]) -> Scalar:
    r"""Half the mean squared slope of the logits by what was seen.

    .. math:: R_1=\tfrac12\,\mathbb E_r\lVert\nabla_x\ell(x)\rVert^2

    Taken on real things: where the generator is right, a discriminator must be flat.

    Args:
        logits: ``(B,)``, computed from ``seen``.
        seen: tensors ``(B, ...)`` that require gradients; their slopes count together.

    Source:
        Mescheder, Geiger and Nowozin (2018).

    Example:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> gradient_penalty((2 * x).sum(1), [x]).item()
        6.0
    """
    slopes = torch.autograd.grad(logits.sum(), list(seen), create_graph=True)
    return sum(slope.square().flatten(1).sum(1).mean() for slope in slopes) / 2


# Networks


class DTLEncoder(nn.Module):
    r"""A branch for each modality, then one code, :math:`z=E(x)=\phi(f_1(x_1),\dots,f_M(x_M))`.

    Args:
        branches: :math:`f_m` by modality, each into ``dim`` numbers.
        dim: width of what the branches find.
        code: ``D``, width of the code.
        fuser: :math:`\phi`; by default one linear map of all features side by side.

    Shapes: views by modality, ``(B, ...)`` each, and ``valid``, bool ``(B, M)`` -> ``(B, D)``. What stands
    in place of an absent modality has no influence; a modality that no item has may be left out.

    Raises:
        ValueError: for an unknown modality, none at all, views of different numbers of items.

    Example:
        >>> encoder = DTLEncoder({"a": nn.Linear(3, 8), "b": nn.Linear(5, 8)}, dim=8, code=4)
        >>> encoder({"b": torch.zeros(2, 5)}).shape
        torch.Size([2, 4])
    """

    def __init__(self, branches: dict[str, nn.Module], dim: int, code: int, fuser: Fusion | None = None):
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.fuser = fuser or ConcatFusion(dict.fromkeys(branches, dim), code)

    def features(self, x: Views) -> Views:
        """Return what each branch finds in its view, ``(B, dim)``."""
        check_views(x, self.branches)
        return {m: self.branches[m](view) for m, view in x.items()}

    def fuse(self, found: Views, valid: Bool[Tensor, "batch modalities"] | None = None) -> Tensor:
        """Return the codes ``(B, D)`` of features."""
        first = next(iter(found.values()))
        here = torch.tensor([m in found for m in self.branches], device=first.device).expand(len(first), -1)
        features = {m: found.get(m, torch.zeros_like(first)) for m in self.branches}
        return self.fuser(features, here if valid is None else here & valid)[0]

    def forward(
        self, x: Views, valid: Bool[Tensor, "batch modalities"] | None = None
    ) -> Float[Tensor, "batch code"]:
        return self.fuse(self.features(x), valid)


class DTLGenerator(nn.Module):
    r"""From noise to all modalities at once, :math:`(\hat x_1,\dots,\hat x_M)=G(\epsilon)`.

    Args:
        network: from ``(B, noise)`` to as many numbers an item as all views together have.
        shapes: of each view, in the order in which the network gives them: two colour pictures, each of
            ``(3, 32, 32)``, are six channels.
        noise: length of :math:`\epsilon\sim\mathcal N(0,I)`.

    Shapes: ``(B, noise)`` -> views by modality, ``(B, *shape)``.

    Raises:
        ValueError: for noise of another length, or a network that gives another number of numbers.

    Example:
        >>> generator = DTLGenerator(nn.Linear(4, 8), {"a": (3,), "b": (5,)}, noise=4)
        >>> {m: tuple(view.shape) for m, view in generator(torch.randn(2, 4)).items()}
        {'a': (2, 3), 'b': (2, 5)}
    """

    def __init__(self, network: nn.Module, shapes: dict[str, tuple[int, ...]], noise: int):
        super().__init__()
        self.network, self.shapes, self.noise = network, dict(shapes), noise

    def forward(self, noise: Float[Tensor, "batch noise"]) -> Views:
        if noise.ndim != 2 or noise.shape[1] != self.noise:
            raise ValueError(f"noise: expected (B, {self.noise}), found {tuple(noise.shape)}")
        made, sizes = self.network(noise).flatten(1), [math.prod(shape) for shape in self.shapes.values()]
        if made.shape[1] != sum(sizes):
            raise ValueError(f"network: expected {sum(sizes)} numbers an item, found {made.shape[1]}")
        parts = zip(self.shapes.items(), made.split(sizes, 1), strict=True)
        return {m: part.unflatten(1, shape) for (m, shape), part in parts}


class DTLDiscriminator(nn.Sequential):
    r"""How real is a code? One hidden layer, :math:`\ell=v^\top\rho(U\rho(z))`, and biases.

    Args:
        code: ``D``, width of a code.
        hidden: units between the two linear maps.
        spectral: divide each map by its largest singular value, so that it stretches no direction.

    Shapes: ``(B, D)`` -> logits ``(B,)``.

    Source:
        Miyato et al. (2018) for the spectral norm.

    Example:
        >>> DTLDiscriminator(code=4)(torch.zeros(2, 4)).shape
        torch.Size([2])

    Raises:
        ValueError: for codes of another shape; features of maps, say, would give a logit for each place.
    """

    def __init__(self, code: int, hidden: int = 128, spectral: bool = False):
        bounded = spectral_norm if spectral else nn.Identity()
        first, last = bounded(nn.Linear(code, hidden)), bounded(nn.Linear(hidden, 1))
        super().__init__(nn.LeakyReLU(0.2), first, nn.LeakyReLU(0.2), last, nn.Flatten(0))
        self.code = code

    def forward(self, z: Float[Tensor, "batch code"]) -> Float[Tensor, "batch"]:
        if z.ndim != 2 or z.shape[1] != self.code:
            raise ValueError(f"codes: expected shape (B, {self.code}), found {tuple(z.shape)}")
        return super().forward(z)


class DTLGAN(nn.Module):
    r"""Encoder, decoders, generator and discriminator; a thing's logit is :math:`\ell=d(E(x))`.

    Args:
        encoder: :math:`E`, views to a code.
        decoders: :math:`h_m`, for each modality a network from a code to its view.
        generator: :math:`G`, noise to views.
        discriminator: :math:`d`, codes ``(B, D)`` to logits ``(B,)``.

    Attributes:
        averaged: a generator whose weights are a running mean of the trained one's; it draws what is shown.

    Raises:
        ValueError: if encoder, decoders and generator do not have the same modalities.

    Example:
        >>> views = {"a": (3,), "b": (5,)}
        >>> encoder = DTLEncoder({"a": nn.Linear(3, 8), "b": nn.Linear(5, 8)}, dim=8, code=4)
        >>> decoders = {"a": nn.Linear(4, 3), "b": nn.Linear(4, 5)}
        >>> gan = DTLGAN(encoder, decoders, DTLGenerator(nn.Linear(2, 8), views, 2), DTLDiscriminator(4))
        >>> gan.judge(gan.generate(6)).shape
        torch.Size([6])
    """

    def __init__(
        self,
        encoder: DTLEncoder,
        decoders: dict[str, nn.Module],
        generator: DTLGenerator,
        discriminator: nn.Module,
    ):
        super().__init__()
        has = {"encoder": encoder.branches, "decoders": decoders, "generator": generator.shapes}
        if len({frozenset(names) for names in has.values()}) > 1:
            raise ValueError(f"expected the same modalities, found { ({k: [*v] for k, v in has.items()}) }")
        self.encoder, self.decoders = encoder, nn.ModuleDict(decoders)
        self.generator, self.discriminator = generator, discriminator
        self.averaged = copy.deepcopy(generator).requires_grad_(False)

    def judge(self, x: Views, valid: Tensor | None = None) -> Float[Tensor, "batch"]:
        """Return how real things look, logits ``(B,)``."""
        return self.discriminator(self.encoder(x, valid))

    def decode(self, code: Float[Tensor, "batch code"]) -> Views:
        """Return every modality as the decoders read it off a code."""
        return {m: decoder(code) for m, decoder in self.decoders.items()}

    def fill_in(self, x: Views, valid: Tensor | None = None) -> Views:
        """Return every modality of things of which only some are known."""
        return self.decode(self.encoder(x, valid))

    def noise(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "batch noise"]:
        """Return noise for ``n`` things."""
        where = next(self.parameters()).device
        return torch.randn(n, self.generator.noise, generator=generator).to(where)

    @torch.no_grad()
    def generate(self, n: int, generator: torch.Generator | None = None) -> Views:
        """Return ``n`` new things in every modality, drawn by the averaged generator."""
        return self.averaged(self.noise(n, generator))


def check_views(x: Views, known: Iterable[str]) -> None:
    """Raise unless there is at least one view, all are known, and all have as many items."""
    if not x or not set(x) <= set(known):
        raise ValueError(f"views: expected some of {', '.join(known)}; found {', '.join(x) or 'none'}")
    sizes = {m: len(view) for m, view in x.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"views: expected as many items of each modality, found {sizes}")


def picture_branch(dim: int, width: int = 16, channels: int = 3) -> nn.Sequential:
    """Return three strided convolutions and a linear map, ``(B, channels, 32, 32)`` to ``(B, dim)``.

    No batch normalisation: it would tell batches of real and of generated pictures apart by their averages.

    Example:
        >>> picture_branch(dim=8, width=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 8])
    """
    widths = (channels, width, 2 * width, 4 * width)
    layers = [
        layer
        for n_in, n_out in zip(widths, widths[1:], strict=False)
        for layer in (nn.Conv2d(n_in, n_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 4 * 4, dim), nn.LeakyReLU(0.2))


def picture_maker(dim: int, width: int = 16, channels: int = 6) -> nn.Sequential:
    """Return a network from ``(B, dim)`` to pictures ``(B, channels, 32, 32)`` in -1..1.

    Each block repeats every pixel in both directions, then convolves; a transposed convolution with a stride
    would leave a chequerboard.

    Args:
        dim: width of what it draws from.
        width: channels of the last block; earlier ones have twice and four times as many. A multiple of 4.
        channels: three for each picture.

    Example:
        >>> picture_maker(dim=8, width=4)(torch.zeros(2, 8)).shape
        torch.Size([2, 6, 32, 32])
    """

    def block(n_in: int, n_out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(n_in, n_out, 3, padding=1)
        return [nn.Upsample(scale_factor=2), convolution, nn.GroupNorm(4, n_out), nn.LeakyReLU(0.2)]

    wide = 4 * width
    start = [nn.Linear(dim, wide * 4 * 4), nn.Unflatten(1, (wide, 4, 4)), nn.GroupNorm(4, wide)]
    blocks = [*block(wide, wide), *block(wide, 2 * width), *block(2 * width, width)]
    last = nn.Conv2d(width, channels, 3, padding=1)
    return nn.Sequential(*start, nn.LeakyReLU(0.2), *blocks, last, nn.Tanh())


# Training


@dataclass(frozen=True)
class Rule:
    """How a DTL GAN is trained: which losses, who receives them, at what rate.

    Attributes:
        form: of the adversarial losses, see `dtl_losses`.
        weights: of real and generated things in the discriminator's loss.
        generator: how much of its own loss the generator minimises, and
        matching: how much of the matching loss.
        judged: whether the discriminator's loss trains the encoder too.
        reconstruction: how much of the decoders' squared error trains them and the encoder.
        hidden: how often a modality is hidden from the code that the decoders read.
        penalty: how much of `gradient_penalty`: by the real views if the encoder is judged, else by codes.
        optimiser: ``"Adam"`` or ``"SGD"``, at ``rate``.
        momentum: of the gradient, in either.
        average: share of the averaged generator that is kept at each step.
    """

    form: str = "non-saturating"
    weights: tuple[float, float] = (1.0, 1.0)
    generator: float = 1.0
    matching: float = 0.0
    judged: bool = True
    reconstruction: float = 1.0
    hidden: float = 0.25
    penalty: float = 1.0
    optimiser: str = "Adam"
    rate: float = 1e-3
    momentum: float = 0.0
    average: float = 0.995

    def __post_init__(self):
        if self.optimiser not in ("Adam", "SGD"):
            raise ValueError(f"optimiser: expected Adam or SGD, found {self.optimiser!r}")
        if self.matching and self.form == "least squares":
            raise ValueError("matching: expected 0 for least squares, whose scores are no logits")

    def optimise(self, *networks: nn.Module) -> torch.optim.Optimizer:
        """Return an optimiser of these networks' weights."""
        weights = [p for network in networks for p in network.parameters()]
        if self.optimiser == "SGD":
            return torch.optim.SGD(weights, lr=self.rate, momentum=self.momentum)
        return torch.optim.Adam(weights, lr=self.rate, betas=(self.momentum, 0.99))


@dataclass
class GANHistory:
    """What happened in a training run.

    Attributes:
        losses: by name, one value a step (``"penalty"`` for the steps that have one); ``"real"`` and
            ``"made"`` are how real both looked, mean D.
        scores: ``{step: score}``; larger is better.
        best_step: the step whose weights the model has now.
        seconds: time spent.
        stopped: ``"finished"`` or ``"interrupted"``.
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    best_step: int = 0
    seconds: float = 0.0
    stopped: str = "finished"


def reconstruction_loss(
    model: DTLGAN, x: Views, found: Views, hidden: float, generator: torch.Generator | None = None
) -> Scalar:
    r"""Mean squared error of the decoders, with modalities hidden from the code at random, never all.

    .. math:: \frac1M\sum_m\mathbb E\lVert h_m(E(x_{\mathcal P}))-x_m\rVert^2/d_m
    """
    first = next(iter(found.values()))
    valid = mask_present(torch.ones(len(first), len(found)).bool(), rate=hidden, generator=generator)
    told = model.decode(model.encoder.fuse(found, valid.to(first.device)))
    return sum((told[m] - view).square().mean() for m, view in x.items()) / len(x)


def judge_losses(
    model: DTLGAN,
    real: Views,
    made: Views,
    rule: Rule,
    *,
    penalise: float = 1.0,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return what discriminator, encoder and decoders minimise, ``"loss"``, and its parts.

    Args:
        model: a DTL GAN.
        real, made: views of real and of generated things; no gradient reaches the generator.
        rule: which losses, and how much of each.
        penalise: how many times the rule's penalty counts; 0 does not compute it.
        generator: for the modalities that are hidden from the decoders.
    """
    real = {m: view.detach().requires_grad_(penalise > 0) for m, view in real.items()}
    made = {m: view.detach() for m, view in made.items()}  # no way back to the generator
    found = model.encoder.features(real)
    code, made_code = model.encoder.fuse(found), model.encoder(made)
    if not rule.judged:  # ... nor to the encoder
        code, made_code = code.detach().requires_grad_(penalise > 0), made_code.detach()
    real_logits, made_logits = model.discriminator(code), model.discriminator(made_code)
    parts = dtl_losses(real_logits, made_logits, rule.weights, form=rule.form)
    parts = {"discriminator": parts["discriminator"]}
    loss = parts["discriminator"]
    if penalise and rule.penalty:
        parts["penalty"] = gradient_penalty(real_logits, real.values() if rule.judged else [code])
        loss = loss + penalise * rule.penalty * parts["penalty"]
    if rule.reconstruction:
        parts["reconstruction"] = reconstruction_loss(model, real, found, rule.hidden, generator)
        loss = loss + rule.reconstruction * parts["reconstruction"]
    shown = {"real": real_logits.sigmoid().mean(), "made": made_logits.sigmoid().mean()}
    return parts | shown | {"loss": loss}


def generator_losses(model: DTLGAN, made: Views, rule: Rule) -> dict[str, Tensor]:
    """Return what the generator minimises, ``"loss"``, and its parts; nothing of the judge changes."""
    training = model.discriminator.training
    model.discriminator.eval()  # or a spectral norm would go on estimating its singular values
    logits = model.judge(made)
    model.discriminator.train(training)
    parts = dtl_losses(logits, logits, rule.weights, form=rule.form)  # the real ones do not matter here
    del parts["discriminator"]
    loss = rule.generator * parts["generator"]
    if rule.matching:
        loss = loss + rule.matching * parts["matching"]
    return parts | {"loss": loss}


def train_gan(
    model: DTLGAN,
    batch: Callable[[], Views],
    steps: int,
    rule: Rule | None = None,
    *,
    change: Callable[[Views], Views] = lambda x: x,
    score: Callable[[], float] | None = None,
    watch: Callable[[int], None] | None = None,
    every: int = 100,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> GANHistory:
    """Train a DTL GAN: discriminator, encoder and decoders step, then the generator steps.

    Args:
        model: trained in place; in evaluation mode after.
        batch: called without arguments, returns real views.
        steps: of each side.
        rule: which losses; the default `Rule` if left out.
        change: an augmentation of views, for real and generated ones alike.
        score: figure of the model, larger is better, asked for after every ``every`` steps.
        watch: called with the number of steps done, as often, first with 0.
        progress: show how real both sides look, and the time left.
        generator: for noise and hidden modalities.

    Returns:
        The :class:`GANHistory`. With ``score`` the model has the weights that scored best, else the last.

    Raises:
        FloatingPointError: if a loss is NaN or above ten thousand, or a score is no finite number; names the
            step. The model has its best weights then, or without ``score`` the last that were looked at.
        ValueError: for fewer than one step, real views of different numbers of items, a missing modality.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, found {steps}")
    rule, history, start = rule or Rule(), GANHistory(), time.perf_counter()
    where = next(model.parameters()).device
    judges = rule.optimise(model.discriminator, model.encoder, model.decoders)
    makes = rule.optimise(model.generator)
    kept = copy.deepcopy(model.state_dict())
    bar = tqdm(range(1, steps + 1), disable=not progress, unit="step", leave=False)
    if watch is not None:
        watch(0)
    try:
        for step in bar:
            model.train()
            real = {m: view.to(where) for m, view in change(batch()).items()}
            check_views(real, model.encoder.branches)
            missing = sorted(set(model.encoder.branches) - set(real))
            if missing:  # generated things have all of them and would be told apart
                raise ValueError(f"batch: expected every modality, found no {', '.join(missing)}")
            n = len(next(iter(real.values())))
            penalise = 0.0 if step % PENALISED_EVERY else float(PENALISED_EVERY)
            made = change(model.generator(model.noise(n, generator)))
            said = judge_losses(model, real, made, rule, penalise=penalise, generator=generator)
            _step(judges, said["loss"], "discriminator's", step, history)
            made = change(model.generator(model.noise(n, generator)))
            felt = generator_losses(model, made, rule)
            _step(makes, felt["loss"], "generator's", step, history)
            _average(model, min(rule.average, step / (step + 9)))
            for name, value in ((said | felt) | {"loss": said["loss"]}).items():
                history.losses.setdefault(name, []).append(value.item())
            bar.set_postfix({m: f"{history.losses[m][-1]:.2f}" for m in ("real", "made")}, refresh=False)
            if step % every == 0 or step == steps:
                model.eval()
                if score is not None:
                    with torch.no_grad():
                        history.scores[step] = value = score()
                    if not math.isfinite(value):
                        raise FloatingPointError(f"step {step}: the score is {value}, so training stopped")
                if score is None or value >= max(history.scores.values()):
                    kept, history.best_step = copy.deepcopy(model.state_dict()), step
                if watch is not None:
                    watch(step)
    except KeyboardInterrupt:
        history.stopped = "interrupted"
        if score is None:  # nothing is known to be better than what there is
            kept, history.best_step = copy.deepcopy(model.state_dict()), len(history.losses.get("made", []))
    finally:
        history.seconds = time.perf_counter() - start
        model.load_state_dict(kept)
        model.eval()
    return history


def _step(optimiser: torch.optim.Optimizer, loss: Scalar, whose: str, step: int, history: GANHistory) -> None:
    """Move an optimiser's own weights down the loss, and no others."""
    if not loss.isfinite() or loss.abs() > TOO_LARGE:
        raise FloatingPointError(
            f"step {step}: the {whose} loss is {loss.item():.3g}, so training stopped; the model has "
            f"its weights of step {history.best_step}. Try a lower rate or a larger penalty"
        )
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    slopes = torch.autograd.grad(loss, weights, allow_unused=True)
    for weight, slope in zip(weights, slopes, strict=True):
        weight.grad = slope
    optimiser.step()


@torch.no_grad()
def _average(model: DTLGAN, keep: float) -> None:
    for mean, weight in zip(model.averaged.parameters(), model.generator.parameters(), strict=True):
        mean.lerp_(weight, 1 - keep)
