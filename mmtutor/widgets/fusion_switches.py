"""Switches for the views of a digit: hide one or drown it in noise, and see what a fuser makes of it."""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
import traitlets
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ..data import load_digits
from ..experiments.fusion_tasks import Examples, examples
from ..fusion import AttentionFusion, GatedFusion, shapley_values
from ..style import INK, MODALITY, TASK
from .base import BookWidget, script, style
from .pack import webp

NOISE = {"clean": 0.0, "noise 1": 1.0, "noise 2": 2.0, "noise 4": 4.0}  # in standard deviations of a feature
STATES = ("absent", *NOISE)
CLASSES = 10
SHOWN = range(2, 10)  # eight of the ten classes, with 6 and 9, which some views cannot tell apart
ROTATABLE = ("fourier", "zernike")  # a digit and the same turned by 180° look alike to them
LEVELS = 2**15 - 1  # of int16
KINDS = {AttentionFusion: "attention", GatedFusion: "gated"}


@dataclass(frozen=True)
class _Packed:
    """A model as the page has it: what its encoders found, its fuser and its head.

    Attributes:
        kind: ``"attention"`` or ``"gated"``.
        tokens: the tokens h of each item, view and amount of noise, ``(N, M, S, D)``.
        votes: of a gated fuser, what each view adds to what the gates' sigmoids see, ``(N, M, S, M * D)``.
        fuser: the query ``(D,)``, or the gates' bias ``(M * D,)``.
        weight: of the head, ``(C, D)``.
        bias: of the head, ``(C,)``.
    """

    kind: str
    tokens: Tensor
    votes: Tensor | None
    fuser: Tensor
    weight: Tensor
    bias: Tensor

    def answer(self, item: int, noise: list[int], present: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities ``(C,)`` and weights ``(M,)`` with the views of the mask ``(M,)``."""
        M, D = len(present), self.tokens.shape[-1]
        h = self.tokens[item, range(M), noise]
        if self.kind == "attention":
            weights = torch.zeros(M, dtype=h.dtype)
            weights[present] = (h[present] @ self.fuser / sqrt(D)).softmax(0)
            point = weights @ h
        else:
            seen = self.fuser + self.votes[item, range(M), noise][present].sum(0)
            g = seen.sigmoid().view(M, D) * present[:, None]
            weights, point = g.mean(1), (g * h.tanh()).sum(0)
        return (self.weight @ point + self.bias).log_softmax(0), weights


class FusionSwitches(BookWidget):
    r"""Switch the views of a digit off or to noise, and see the answer, the weights and the Shapley values.

    The question is whether a model notices that a view has become useless, and whether its weights say which
    view carried the answer. Beside the weights stand exact Shapley values of the present views
    :math:`\mathcal P` for the log-probability of the right class, see
    :func:`~mmtutor.fusion.shapley_values`:

    .. math:: v(\mathcal S)=\log p(y\mid\mathcal S),\quad\mathcal S\subseteq\mathcal P,\qquad
              \sum_{m\in\mathcal P}\varphi_m=\log p(y\mid\mathcal P)-\log p(y\mid\emptyset)

    An absent view has weight 0 and Shapley value 0. Without any view the answer is what the head's bias says
    (:class:`~mmtutor.fusion.AttentionFusion` and :class:`~mmtutor.fusion.GatedFusion` then give the point 0).

    Args:
        models: the name shown to a trained :class:`mmtutor.experiments.fusion.Fused` whose fuser is an
            ``AttentionFusion`` or a ``GatedFusion``, all over the same views, at most six.
        items: which digits, as positions in ``examples("digits", "test")``. By default the first test digit
            of each class from 2 to 9: nobody chose them for what they show.
        model: the model shown first, by its name; by default the first.
        item: the digit shown first, counted from 0 in ``items``.
        states: of each view one of ``STATES``; views that are not named are clean. Noise of 1, 2, 4 standard
            deviations is one stored draw, as large as said.

    Traits that Python sees: ``model`` (text), ``item`` (integer) and ``states`` (text by view).

    Raises:
        ValueError: for no models, models over different or unknown views, a fuser or a head that cannot be
            shown, or items that are not there.
        traitlets.TraitError: for an unknown model, item, view or state.

    Example:
        >>> from mmtutor.experiments.fusion import DIM, Fused, Numbers
        >>> dims = {"fourier": DIM, "pixels": DIM}
        >>> encoders = {"fourier": Numbers(76), "pixels": Numbers(240)}
        >>> fused = Fused(encoders, AttentionFusion(dims, DIM), nn.Linear(DIM, 10))
        >>> switches = FusionSwitches({"untrained": fused}, states={"pixels": "noise 4"})
        >>> switches
        FusionSwitches('untrained', item=0, fourier: clean, pixels: noise 4)
        >>> {name: x for name, x in switches.values().items() if name.startswith("weight")}
        {'weight, fourier': 0.5, 'weight, pixels': 0.5}
    """

    _esm = script("fusion_switches")
    _css = style("fusion_switches")

    model = traitlets.Unicode().tag(sync=True)
    item = traitlets.Int().tag(sync=True)
    states = traitlets.Dict().tag(sync=True)
    models = traitlets.List().tag(sync=True)
    views = traitlets.List(traitlets.Unicode()).tag(sync=True)
    state_names = traitlets.List(traitlets.Unicode(), list(STATES)).tag(sync=True)
    digits = traitlets.List(traitlets.Int()).tag(sync=True)
    presets = traitlets.List().tag(sync=True)
    pictures = traitlets.Bytes().tag(sync=True)
    integers = traitlets.Bytes().tag(sync=True)
    parameters = traitlets.Bytes().tag(sync=True)
    right_colour = traitlets.Unicode(TASK["what"]).tag(sync=True)

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        items: Sequence[int] | None = None,
        *,
        model: str | None = None,
        item: int = 0,
        states: Mapping[str, str] | None = None,
    ):
        views = _common_views(models)
        test = examples("digits", "test").of(views)
        shown = test.at(torch.tensor(_checked(items, test)))
        self._inputs = _with_noise(shown.x)
        self._packed, about, integers, parameters = {}, [], b"", b""
        for name, fused in models.items():
            packed = _encode(fused, self._inputs)
            tokens, votes = _quantise(packed.tokens), _quantise(packed.votes)
            exact = [packed.fuser, packed.weight, packed.bias]
            integers += tokens[0].tobytes() + votes[0].tobytes()
            parameters += b"".join(x.numpy().astype("<f4").tobytes() for x in exact)
            about.append({"name": name, "kind": packed.kind, "dim": packed.weight.shape[1]})
            about[-1]["scales"] = [tokens[1], votes[1]]
            self._packed[name] = _Packed(
                packed.kind, _restore(*tokens), _restore(*votes), *(x.double() for x in exact)
            )
        super().__init__(
            views=views,
            models=about,
            digits=shown.y.tolist(),
            presets=_presets(views, shown.y.tolist()),
            pictures=load_digits().views["pixels"][shown.item].astype(np.uint8).tobytes(),
            integers=integers,
            parameters=parameters,
            model=about[0]["name"] if model is None else model,
            item=item,
            states=dict(states or {}),
        )

    @traitlets.validate("model", "item")
    def _one_of_those_shown(self, proposal) -> str | int:
        trait = proposal.trait.name
        known = list(self._packed) if trait == "model" else range(len(self.digits))
        if proposal.value not in known:
            expected = ", ".join(map(str, known))
            raise traitlets.TraitError(f"{trait}: expected one of {expected}; found {proposal.value!r}")
        return proposal.value

    @traitlets.validate("states")
    def _a_state_of_each_view(self, proposal) -> dict[str, str]:
        for view, state in proposal.value.items():
            if view not in self.views:
                raise traitlets.TraitError(
                    f"states: expected views among {', '.join(self.views)}; found {view!r}"
                )
            if state not in STATES:
                raise traitlets.TraitError(
                    f"states[{view!r}]: expected one of {', '.join(STATES)}; found {state!r}"
                )
        return {view: proposal.value.get(view, "clean") for view in self.views}

    def _answer(self, shown: Collection[str]) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(C,)`` and weights ``(M,)`` if only these views are shown to the model."""
        noise = [list(NOISE).index(state) if state in NOISE else 0 for state in self.states.values()]
        present = torch.tensor([view in shown for view in self.views])
        return self._packed[self.model].answer(self.item, noise, present)

    def _present(self) -> list[str]:
        return [view for view, state in self.states.items() if state != "absent"]

    def values(self) -> dict[str, float]:
        """Return what the page shows, from the same rounded numbers.

        Returns:
            ``"probability, 0"`` to ``"probability, 9"``; of each view ``"weight, …"`` (the attention weight,
            or the mean of its gate) and ``"shapley, …"`` in nats; ``"all present"`` and ``"none"``, the
            log-probability of the right class with the present views and with none.
        """
        present, y = self._present(), self.digits[self.item]
        log_p, weights = self._answer(present)
        shares = shapley_values(lambda shown: self._answer(shown)[0][y].item(), present) if present else {}
        figures = {f"probability, {c}": p for c, p in enumerate(log_p.exp().tolist())}
        figures |= {f"weight, {m}": x for m, x in zip(self.views, weights.tolist(), strict=True)}
        figures |= {f"shapley, {m}": shares.get(m, 0.0) for m in self.views}
        return figures | {"all present": log_p[y].item(), "none": self._answer(())[0][y].item()}

    def summary(self) -> str:
        values, y = self.values(), self.digits[self.item]
        p = [values[f"probability, {c}"] for c in range(CLASSES)]
        said = int(np.argmax(p))
        views = "; ".join(
            f"{view} {state}"
            if state == "absent"
            else f"{view} {state}, weight {values[f'weight, {view}']:.2f}, "
            f"Shapley value {_signed(values[f'shapley, {view}'])}"
            for view, state in self.states.items()
        )
        return (
            f"A digit {y} in {len(self.views)} views, read by the model “{self.model}”. It says {said}, "
            f"{100 * p[said]:.0f}% sure: {'right' if said == y else 'wrong'}. Views: {views}. "
            "Shapley values are for the log-probability of the right class, in nats."
        )

    def picture(self) -> bytes:
        """Draw the digit, and beside it the probability of each class."""
        image, values = Image.new("RGB", (480, 150), "white"), self.values()
        grey = np.frombuffer(self.pictures, np.uint8).reshape(-1, 16, 15)[self.item]
        image.paste(Image.fromarray((255 - 42 * grey).astype(np.uint8)).resize((120, 128)), (20, 11))
        draw = ImageDraw.Draw(image)
        for c in range(CLASSES):
            colour = TASK["what"] if c == self.digits[self.item] else MODALITY["view"]
            x, height = 170 + 30 * c, 100 * values[f"probability, {c}"]
            draw.rectangle([x, 120 - height, x + 20, 120], fill=colour)
            draw.text((x + 7, 125), str(c), fill=INK)
        return webp(image, quality=60)

    def __repr__(self) -> str:
        states = ", ".join(f"{view}: {state}" for view, state in self.states.items())
        return f"FusionSwitches({self.model!r}, item={self.item}, {states})"


def _common_views(models: Mapping[str, nn.Module]) -> list[str]:
    """The views that all the models see, after a check that the models can be shown."""
    if not models:
        raise ValueError("models: expected at least one, found none")
    for name, model in models.items():
        if type(model.fuser) not in KINDS:
            expected = " or ".join(kind.__name__ for kind in KINDS)
            raise ValueError(f"models[{name!r}]: expected {expected}, found {type(model.fuser).__name__}")
        if not isinstance(model.head, nn.Linear) or model.head.out_features != CLASSES:
            raise ValueError(
                f"models[{name!r}]: expected a linear head to {CLASSES} classes, found {model.head}"
            )
    found = {name: list(model.fuser.dims) for name, model in models.items()}
    views = next(iter(found.values()))
    if any(others != views for others in found.values()):
        raise ValueError(f"models: expected the same views in the same order, found {found}")
    known = examples("digits", "test").x
    if not set(views) <= set(known):
        raise ValueError(f"models: expected views of a digit, {', '.join(known)}; found {', '.join(views)}")
    return views


def _checked(items: Sequence[int] | None, test: Examples) -> list[int]:
    """The positions of the digits to show; by default of the first of each class of ``SHOWN``."""
    if items is None:
        return [test.y.tolist().index(digit) for digit in SHOWN]
    if not len(items) or min(items) < 0 or max(items) >= len(test.y):
        raise ValueError(f"items: expected positions from 0 to {len(test.y) - 1}, found {list(items)}")
    return list(items)


def _with_noise(x: dict[str, Tensor]) -> dict[str, Float[Tensor, "items noise features"]]:
    """Each view with each amount of noise: one draw a view, the same on every call, in four sizes."""
    generator, sizes = torch.Generator().manual_seed(0), torch.tensor([*NOISE.values()])
    draws = {m: torch.randn(x_m.shape, generator=generator) for m, x_m in x.items()}
    return {m: x_m[:, None] + sizes[:, None] * draws[m][:, None] for m, x_m in x.items()}


@torch.no_grad()
def _encode(model: nn.Module, x: dict[str, Float[Tensor, "items noise features"]]) -> _Packed:
    r"""What the page needs of a model.

    The gates see :math:`V[z_1;\dots;z_M]+c=\sum_mV_mz_m+c`. The page gets the views' parts :math:`V_mz_m`:
    they are fewer numbers than :math:`V` and all :math:`z_m`, and an absent view is one part less.
    """
    model = deepcopy(model).cpu().eval()  # the caller's may be elsewhere, or go on training
    fuser, head = model.fuser, model.head
    z = {m: model.encoders[m](x_m) for m, x_m in x.items()}
    tokens = torch.stack([fuser.projections[m](z_m) for m, z_m in z.items()], 1)
    votes, own = None, getattr(fuser, "query", None)
    if isinstance(fuser, GatedFusion):
        V = fuser.gate.weight.split([*fuser.dims.values()], dim=1)
        votes = torch.stack([z_m @ V_m.T for z_m, V_m in zip(z.values(), V, strict=True)], 1)
        own = fuser.gate.bias
    return _Packed(KINDS[type(fuser)], tokens, votes, own.detach(), head.weight.detach(), head.bias.detach())


def _quantise(x: Tensor | None) -> tuple[np.ndarray, float]:
    """Integers of 16 bits and their scale; nothing of nothing."""
    x = np.zeros(0) if x is None else x.double().numpy()
    if not np.isfinite(x).all():
        raise ValueError("models: expected finite tokens, found NaN or infinity")
    scale = float(np.abs(x).max(initial=0)) / LEVELS or 1.0
    return np.rint(x / scale).astype("<i2"), scale


def _restore(integers: np.ndarray, scale: float) -> Tensor:
    return torch.tensor(integers.astype(np.float64) * scale)


def _presets(views: list[str], digits: list[int]) -> list[dict]:
    """What the page offers to try: a name, the states of views that are not clean, for one also the digit."""
    presets = [{"name": "all clean", "states": {}}]
    if "pixels" in views:
        presets.append({"name": "pixels: noise 4", "states": {"pixels": "noise 4"}})
    if set(ROTATABLE) < set(views) and 6 in digits:
        hidden = {view: "absent" for view in views if view not in ROTATABLE}
        name = "a 6 by Fourier and Zernike only (hard to tell from a 9)"
        presets.append({"name": name, "states": hidden, "item": digits.index(6)})
    return presets


def _signed(x: float) -> str:
    return f"{x:+.2f}".replace("-", "−")
