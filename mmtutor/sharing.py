r"""Many tasks, one input: share the trunk (hard), pull several trunks together (soft), or stitch them.

A trunk :math:`f` maps a batch to points ``(B, D)``, a head :math:`q_t` maps points to the answers of a task.
Any module of that shape is a trunk: `resnet_trunk` for pictures, a small perceptron for the digits.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmtutor.contrastive import check_embeddings, cosine

Scalar = Float[Tensor, ""]

LOSSES = {  # kind of answer: its loss
    "classes": F.cross_entropy,
    "labels": F.binary_cross_entropy_with_logits,
    "numbers": F.mse_loss,
}


# Trunk and heads


class _PictureStem(nn.Sequential):
    """The first stage of a trunk for pictures, which says so if it is given something else."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1:] != (3, 32, 32):
            raise ValueError(f"pictures: expected shape (B, 3, 32, 32), found {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"pictures: expected floats, found {x.dtype}; see encoders.pixels")
        return super().forward(x)


def resnet_trunk(dim: int = 64, width: int = 16) -> nn.Sequential:
    r"""Build a small residual network, :math:`f:[-1,1]^{3\times32\times32}\to\mathbb R^d`, in five stages.

    A strided convolution, three of torchvision's ``BasicBlock``, :math:`x\mapsto\mathrm{relu}(x+g(x))` with
    two convolutions in :math:`g`, and a mean over the grid with a linear map to the width ``D`` of the shared
    space. The grid shrinks from 32 to 16, 16, 8 and 4; the second and third block double the channels.

    Args:
        dim: ``D``, which does not change with ``width``: the same heads fit.
        width: channels of the first block.

    Shapes: ``(B, 3, 32, 32) -> (B, D)``.

    Raises:
        ValueError: (the network) for pictures of another shape.
        TypeError: (the network) for pictures that are not floats.

    Source:
        He, Zhang, Ren and Sun (2016), the network of their section 4.2 for pictures of this size, with one
        block in place of ``n`` at each size, and the first convolution strided: a quarter of the time.

    Example:
        >>> resnet_trunk(dim=24, width=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 24])
    """
    from torchvision.models.resnet import BasicBlock  # takes seconds to import: only those wait who use it

    def half(n_in: int, n_out: int) -> BasicBlock:
        shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=2, bias=False), nn.BatchNorm2d(n_out))
        return BasicBlock(n_in, n_out, stride=2, downsample=shortcut)

    return nn.Sequential(
        _PictureStem(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        ),
        BasicBlock(width, width),
        half(width, 2 * width),
        half(2 * width, 4 * width),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, dim)),
    )


class Head(nn.Linear):
    r"""The head of a task, :math:`q_t(z)=W_tz+b_t`, with the loss that fits its kind of answer.

    .. math:: \text{classes: }-\log\mathrm{softmax}(q)_y,\qquad
              \text{labels: }-\tfrac1C\sum_c\log\sigma\big((2y_c-1)q_c\big),\qquad
              \text{numbers: }\tfrac1C\sum_c(q_c-y_c)^2

    Args:
        dim: width ``D`` of the points.
        size: ``C``: how many classes, labels or numbers.
        kind: ``"classes"`` (one of ``C`` is right; nats), ``"labels"`` (each of ``C`` is a yes or no, as the
            keywords of a picture; nats per label) or ``"numbers"`` (regression; their unit squared).

    Shapes: ``(B, D) -> (B, C)``: log-odds for classes and labels.

    Raises:
        ValueError: for an unknown kind, no answer to give (the cross-entropy of a single class is zero
            whatever the weights), or points of another shape.

    Example:
        >>> Head(64, 10)(torch.zeros(2, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(self, dim: int, size: int, kind: str = "classes"):
        if kind not in LOSSES:
            raise ValueError(f"kind: expected one of {', '.join(LOSSES)}; found {kind!r}")
        least = 2 if kind == "classes" else 1
        if size < least:
            raise ValueError(f"size: expected at least {least} for {kind}, found {size}")
        super().__init__(dim, size)
        self.kind = kind

    def forward(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch size"]:
        if z.ndim != 2 or z.shape[1] != self.in_features:
            raise ValueError(f"points: expected shape (B, {self.in_features}), found {tuple(z.shape)}")
        return super().forward(z)

    def loss(
        self,
        output: Float[Tensor, "batch size"],
        target: Tensor,
        valid: Bool[Tensor, " batch"] | None = None,
        *,
        name: str = "target",
    ) -> Scalar:
        r"""Mean loss of the items that have a target, :math:`\frac1{|V|}\sum_{i\in V}\ell(q_i,y_i)`.

        Without any target in the batch it is zero, with gradient zero. What stands in place of a missing
        target has no influence; it may be -1 or NaN.

        Args:
            output: ``(B, C)``, what the head returned.
            target: int64 ``(B,)`` for classes, bool ``(B, C)`` for labels, floats ``(B, C)`` for numbers.
            valid: :math:`V`, bool ``(B,)``: whether the target of an item is known; by default all are.
            name: of the target, for messages.

        Raises:
            TypeError: for a target of another type.
            ValueError: for other shapes, and where the target is valid: a class that does not exist, NaN.

        Example:
            >>> head = Head(2, 1, "numbers")
            >>> output, target = torch.tensor([[1.0], [5.0]]), torch.tensor([[3.0], [torch.nan]])
            >>> head.loss(output, target, valid=torch.tensor([True, False]))
            tensor(4.)
        """
        if valid is None:
            valid = torch.ones(len(output), dtype=torch.bool, device=output.device)
        self._check(output, target, valid, name)
        output, target = output[valid], target[valid]
        if self.kind == "labels":
            target = target.to(output.dtype)
        return LOSSES[self.kind](output, target, reduction="sum") / max(target.numel(), 1)

    def _check(self, output: Tensor, target: Tensor, valid: Tensor, name: str) -> None:
        batch, classes = len(output), self.out_features
        if output.shape != (batch, classes):
            raise ValueError(f"output of {name}: expected shape (B, {classes}), found {tuple(output.shape)}")
        shape = (batch,) if self.kind == "classes" else (batch, classes)
        if target.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {tuple(target.shape)}")
        if valid.dtype != torch.bool or valid.shape != (batch,):
            raise ValueError(
                f"valid of {name}: expected bool of shape {(batch,)}, "
                f"found {valid.dtype} of shape {tuple(valid.shape)}"
            )
        expected = {"classes": "int64", "labels": "bool", "numbers": "floats"}[self.kind]
        found = "floats" if target.is_floating_point() else str(target.dtype).removeprefix("torch.")
        if found != expected:
            raise TypeError(f"{name}: expected {expected} for {self.kind}, found {target.dtype}")
        known = target[valid]
        if self.kind == "classes" and ((known < 0) | (known >= classes)).any():
            low, high = known.aminmax()
            raise ValueError(
                f"{name}: expected classes 0 to {classes - 1} where valid, found {low} to {high}"
            )
        if not torch.isfinite(known).all():
            raise ValueError(f"{name}: expected finite numbers where valid, found NaN or infinity")


class MultiTask(nn.Module):
    r"""Several tasks with one input, :math:`x\mapsto\{q_t(z_t)\}_t`: what all ways of sharing have in common.

    They differ in ``features``, which makes the points :math:`z_t`.

    Args:
        heads: a :class:`Head` for each task, by its name.

    Raises:
        ValueError: without any task.

    Example:
        >>> model = HardSharing(nn.Linear(5, 4), {"digit": Head(4, 10), "odd": Head(4, 2)})
        >>> isinstance(model, MultiTask), model.features(torch.zeros(3, 5))["odd"].shape
        (True, torch.Size([3, 4]))
    """

    def __init__(self, heads: dict[str, Head]):
        super().__init__()
        if not heads:
            raise ValueError("heads: expected at least one task, found none")
        self.heads = nn.ModuleDict(heads)

    def features(self, x: Tensor) -> dict[str, Float[Tensor, "batch dim"]]:
        """Return the point of each item as each task sees it, ``(B, D)`` by task."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> dict[str, Float[Tensor, "batch _"]]:
        return {task: self.heads[task](z) for task, z in self.features(x).items()}

    def losses(
        self,
        outputs: dict[str, Tensor],
        targets: dict[str, Tensor],
        valid: dict[str, Bool[Tensor, " batch"]] | None = None,
    ) -> dict[str, Scalar]:
        """Return the loss of each task over the items whose target is known; see :meth:`Head.loss`.

        Args:
            outputs: what the model returned.
            targets: of each task.
            valid: for tasks with missing targets, whether an item has one, ``(B,)``; a task that is not
                mentioned has all.

        Raises:
            ValueError: for tasks that are missing or unknown, and whatever ``Head.loss`` refuses.
            TypeError: for targets of another type.
        """
        tasks, valid = set(self.heads), valid or {}
        for name, found in (("outputs", outputs), ("targets", targets)):
            if set(found) != tasks:
                raise ValueError(f"{name}: expected the tasks {sorted(tasks)}, found {sorted(found)}")
        if not set(valid) <= tasks:
            raise ValueError(f"valid: expected some of the tasks {sorted(tasks)}, found {sorted(valid)}")
        return {
            task: head.loss(outputs[task], targets[task], valid.get(task), name=task)
            for task, head in self.heads.items()
        }


class HardSharing(MultiTask):
    r"""One trunk for all tasks and a head for each, :math:`q_t(f(x;\theta_0);\theta_t)`.

    .. math:: L=\sum_t\omega_tL_t,\qquad
              \frac{\partial L}{\partial\theta_0}=\sum_t\omega_t\frac{\partial L_t}{\partial\theta_0}

    Args:
        trunk: maps a batch to ``(B, D)``.
        heads: a :class:`Head` of width ``D`` for each task.

    Source:
        Caruana (1997).

    Example:
        >>> model = HardSharing(nn.Linear(5, 4), {"digit": Head(4, 10), "slant": Head(4, 1, "numbers")})
        >>> outputs = model(torch.zeros(3, 5))
        >>> {task: tuple(output.shape) for task, output in outputs.items()}
        {'digit': (3, 10), 'slant': (3, 1)}
        >>> targets = {"digit": torch.tensor([1, 2, -1]), "slant": torch.zeros(3, 1)}
        >>> losses = model.losses(outputs, targets, valid={"digit": targets["digit"] >= 0})
        >>> sum(losses.values()).backward()
    """

    def __init__(self, trunk: nn.Module, heads: dict[str, Head]):
        super().__init__(heads)
        self.trunk = trunk

    def features(self, x: Tensor) -> dict[str, Float[Tensor, "batch dim"]]:
        return dict.fromkeys(self.heads, self.trunk(x))


# Soft sharing


def _corresponding(modules: Iterable[nn.Module]) -> list[tuple[nn.Parameter, ...]]:
    """Return the weights of modules of one structure, those that stand in the same place together."""
    weights = [dict(module.named_parameters()) for module in modules]
    if not any(weights):
        raise ValueError(f"modules: expected some with weights, found {len(weights)} modules without any")
    first, *others = weights
    for number, other in enumerate(others, 2):
        for name in [*first, *other]:
            shapes = [tuple(w[name].shape) if name in w else "none" for w in (first, other)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"modules: expected one structure, found weight {name} of shape {shapes[0]} in the first "
                    f"and {shapes[1]} in number {number}"
                )
    return [tuple(w[name] for w in weights) for name in first]


def soft_sharing_penalty(modules: Iterable[nn.Module]) -> Scalar:
    r"""Sum over all pairs of modules of the squared distance of their weights.

    .. math:: R=\sum_{t<u}\lVert\theta_t-\theta_u\rVert^2=T\sum_t\lVert\theta_t-\bar\theta\rVert^2,\qquad
              \frac{\partial R}{\partial\theta_t}=2T(\theta_t-\bar\theta)

    with the mean :math:`\bar\theta` of the :math:`T` modules; computed by the second form. Weights means
    parameters: the running averages of a batch normalisation are not among them.

    Args:
        modules: of one structure, so that their weights correspond.

    Raises:
        ValueError: for modules of different structure, naming the first weight that differs; for no weights.

    Source:
        Duong, Cohn, Bird and Cook (2015), for two networks; Evgeniou and Pontil (2004) for the mean form.

    Example:
        >>> a, b = nn.Linear(1, 1), nn.Linear(1, 1)
        >>> with torch.no_grad():
        ...     for p, value in zip([*a.parameters(), *b.parameters()], [0.0, 0.0, 3.0, 4.0]):
        ...         _ = p.fill_(value)
        >>> soft_sharing_penalty([a, b]).item()
        25.0
    """
    modules = list(modules)
    weights = [torch.stack(places) for places in _corresponding(modules)]
    return len(modules) * sum((w - w.mean(0)).square().sum() for w in weights)


def weight_distance(first: nn.Module, second: nn.Module) -> float:
    r"""How far apart the weights of two modules are, :math:`\lVert\theta_1-\theta_2\rVert`.

    A figure to read. To train by, take its square, :func:`soft_sharing_penalty` of the two: that has a
    gradient where they coincide too.

    Raises:
        ValueError: for modules of different structure.

    Example:
        >>> a = nn.Linear(3, 2)
        >>> weight_distance(a, copy.deepcopy(a))
        0.0
    """
    with torch.no_grad():
        return soft_sharing_penalty([first, second]).sqrt().item()


class SoftSharing(MultiTask):
    r"""A trunk for each task, pulled together with strength :math:`\lambda`; heads are not pulled.

    .. math:: L=\sum_tL_t(\theta_t)+\lambda\sum_{t<u}\lVert\theta_t-\theta_u\rVert^2

    Its minimum is the most probable :math:`\theta` under the prior
    :math:`\theta_t\sim\mathcal N(\bar\theta,\sigma^2I)`, flat in :math:`\bar\theta`, with
    :math:`\lambda=1/(2\sigma^2T)` if the losses are summed negative log-likelihoods (for means over ``N``
    items, :math:`1/(2\sigma^2TN)`). :math:`\lambda=0` is a network for each task; :math:`\lambda\to\infty` is
    hard sharing.

    Add :meth:`penalty` to the loss while :math:`\lambda` is small. Gradient descent on it diverges above a
    rate of :math:`1/(\lambda T)`; :meth:`pull_together` takes its step exactly, for any :math:`\lambda`.

    Args:
        trunk: copied for each task: all start from the same weights. (Networks that start apart may do the
            same with their units in another order; then the mean of their weights means nothing.)
        heads: a :class:`Head` for each task.
        strength: :math:`\lambda\ge0`; infinity for :meth:`pull_together` alone.

    Raises:
        ValueError: for a negative strength.

    Source:
        Duong, Cohn, Bird and Cook (2015); the prior: Evgeniou and Pontil (2004).

    Example:
        >>> model = SoftSharing(nn.Linear(5, 4), {"digit": Head(4, 10), "odd": Head(4, 2)}, strength=0.1)
        >>> model.penalty().item()  # equal at first
        0.0
    """

    def __init__(self, trunk: nn.Module, heads: dict[str, Head], strength: float):
        super().__init__(heads)
        if not strength >= 0:
            raise ValueError(f"strength: expected 0 or more, found {strength}")
        self.trunks = nn.ModuleDict({task: copy.deepcopy(trunk) for task in heads})
        self.strength = strength

    def features(self, x: Tensor) -> dict[str, Float[Tensor, "batch dim"]]:
        return {task: trunk(x) for task, trunk in self.trunks.items()}

    def penalty(self) -> Scalar:
        r"""Return :math:`\lambda\sum_{t<u}\lVert\theta_t-\theta_u\rVert^2`, to be added to the loss.

        Raises:
            ValueError: for an infinite strength.
        """
        if math.isinf(self.strength):
            raise ValueError("strength: expected a finite number, found infinity; use pull_together")
        return self.strength * soft_sharing_penalty(self.trunks.values())

    @torch.no_grad()
    def pull_together(self, rate: float) -> None:
        r"""Move each trunk towards their mean: the proximal step of the penalty, after the optimiser's step.

        .. math:: \theta_t\leftarrow\bar\theta+\frac{\theta_t-\bar\theta}{1+2\eta\lambda T}
                  =\Big[\arg\min_{\theta'}\tfrac1{2\eta}\sum_u\lVert\theta'_u-\theta_u\rVert^2
                  +\lambda R(\theta')\Big]_t

        For :math:`\lambda=\infty` it puts the mean in their place. Then a step of gradient descent at rate
        :math:`\eta` moves all trunks as hard sharing moves its one at rate :math:`\eta/T`.

        Args:
            rate: :math:`\eta>0`, the optimiser's rate. (Adam scales the step of each weight by itself. After
                it the strength is right only up to that scale; no pull and a full pull remain what they are.)

        Raises:
            ValueError: for a rate that is not positive.

        Source:
            Parikh and Boyd (2014), for proximal steps.

        Example:
            >>> model = SoftSharing(nn.Linear(5, 4), {"digit": Head(4, 10), "odd": Head(4, 2)}, math.inf)
            >>> _ = nn.init.zeros_(model.trunks["odd"].weight)
            >>> model.pull_together(rate=0.1)
            >>> weight_distance(*model.trunks.values())
            0.0
        """
        if not rate > 0:
            raise ValueError(f"rate: expected a positive number, found {rate}")
        kept = 1 / (1 + 2 * rate * self.strength * len(self.trunks))
        for places in _corresponding(self.trunks.values()):
            mean = torch.stack(places).mean(0)
            for w in places:
                w.copy_(mean.lerp(w, kept))  # mean + kept * (w - mean)


# Cross-stitch networks


class CrossStitchUnit(nn.Module):
    r"""Mix the features of ``T`` tasks, :math:`\tilde x_t=\sum_u\alpha_{tu}x_u`, by weights that are learnt.

    Args:
        tasks: ``T``.
        own: :math:`\alpha_{tt}` at the start; the other tasks share ``1 - own`` equally. 1 is the identity,
            ``1 / tasks`` gives all tasks the same.

    Attributes:
        alpha: ``(T, T)``; row ``t`` says what task ``t`` takes from each.

    Shapes: ``(T, B, ...) -> (T, B, ...)``.

    Raises:
        ValueError: for features of another number of tasks.

    Source:
        Misra, Shrivastava, Gupta and Hebert (2016). They have a unit for each channel; here all channels of
        a stage share one, which can be read at a glance.

    Example:
        >>> CrossStitchUnit(2, own=0.75)(torch.tensor([[[4.0]], [[0.0]]])).flatten().tolist()
        [3.0, 1.0]
    """

    def __init__(self, tasks: int, own: float = 1.0):
        super().__init__()
        alpha = torch.full((tasks, tasks), (1 - own) / max(tasks - 1, 1)).fill_diagonal_(own)
        self.alpha = nn.Parameter(alpha)

    def forward(self, x: Float[Tensor, "tasks batch *rest"]) -> Float[Tensor, "tasks batch *rest"]:
        if len(x) != len(self.alpha):
            raise ValueError(f"features: expected those of {len(self.alpha)} tasks, found {len(x)}")
        return torch.einsum("tu,u...->t...", self.alpha, x)


class CrossStitch(MultiTask):
    r"""A trunk for each task, and after each of their stages a unit that mixes what they found.

    .. math:: x_t^{(l+1)}=\sum_u\alpha^{(l)}_{tu}f_u^{(l)}(x_u^{(l)})

    With :math:`\alpha=I` in all units these are independent networks. With :math:`\alpha_{tu}=1/T`
    everything is shared: all tasks have the same features.

    Args:
        trunk: a ``nn.Sequential``, whose children are the stages; copied for each task.
        heads: a :class:`Head` for each task.
        own: see :class:`CrossStitchUnit`.

    Raises:
        TypeError: for a trunk without stages.

    Source:
        Misra, Shrivastava, Gupta and Hebert (2016).

    Example:
        >>> trunk = nn.Sequential(nn.Sequential(nn.Linear(5, 8), nn.ReLU()), nn.Linear(8, 4))
        >>> model = CrossStitch(trunk, {"digit": Head(4, 10), "odd": Head(4, 2)}, own=0.9)
        >>> len(model.units), model(torch.zeros(3, 5))["digit"].shape
        (2, torch.Size([3, 10]))
    """

    def __init__(self, trunk: nn.Sequential, heads: dict[str, Head], own: float = 1.0):
        super().__init__(heads)
        if not isinstance(trunk, nn.Sequential):
            raise TypeError(f"trunk: expected a Sequential of stages, found {type(trunk).__name__}")
        self.trunks = nn.ModuleDict({task: copy.deepcopy(trunk) for task in heads})
        self.units = nn.ModuleList(CrossStitchUnit(len(heads), own) for _ in trunk)

    def features(self, x: Tensor) -> dict[str, Float[Tensor, "batch dim"]]:
        points = [x] * len(self.trunks)
        for unit, *stages in zip(self.units, *self.trunks.values(), strict=True):
            found = [stage(z) for stage, z in zip(stages, points, strict=True)]
            points = unit(torch.stack(found)).unbind()
        return dict(zip(self.trunks, points, strict=True))


# Reading what tasks do to each other


def task_gradients(
    losses: dict[str, Scalar], parameters: Iterable[nn.Parameter]
) -> Float[Tensor, "tasks parameters"]:
    r"""Gradient of each task's loss on weights that they share, :math:`g_t=\partial L_t/\partial\theta_0`.

    Nothing is stored in the parameters, and the losses may still be used for a step. A task that does not
    depend on a weight has a zero there.

    Args:
        losses: a scalar for each task.
        parameters: :math:`\theta_0`: ``model.trunk.parameters()`` of :class:`HardSharing`.

    Returns:
        ``(T, P)``, rows in the order of ``losses``, all weights flattened one after the other.

    Raises:
        ValueError: without losses or parameters, or for a loss that is no scalar or has no gradient.

    Example:
        >>> w = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> task_gradients({"sum": w.sum(), "square": (w**2).sum()}, [w])
        tensor([[1., 1.],
                [2., 4.]])
    """
    parameters = list(parameters)
    if not losses or not parameters:
        raise ValueError(
            f"losses, parameters: expected at least one of each, found {len(losses)} and {len(parameters)}"
        )
    rows = []
    for task, loss in losses.items():
        if loss.ndim or not loss.requires_grad:
            raise ValueError(
                f"{task}: expected a scalar loss that has a gradient, found shape {tuple(loss.shape)} "
                f"and requires_grad={loss.requires_grad}"
            )
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


def gradient_cosines(gradients: Float[Tensor, "tasks parameters"]) -> Float[Tensor, "tasks tasks"]:
    r"""Cosine of each pair of tasks' gradients, :math:`g_t^\top g_u/(\lVert g_t\rVert\lVert g_u\rVert)`.

    Below zero two tasks are in *conflict*: a small step that lowers the loss of one by its own gradient
    raises that of the other. A task without gradient has cosine 0 to all, itself included.

    Args:
        gradients: ``(T, P)``, from :func:`task_gradients`.

    Raises:
        ValueError: for another number of axes, NaN or infinity.

    Source:
        Yu, Kumar, Gupta, Levine, Hausman and Finn (2020), for the word conflict.

    Example:
        >>> gradient_cosines(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    check_embeddings(gradients=gradients)
    return cosine(gradients, gradients)


def multi_task_gain(
    scores: dict[str, float], baseline: dict[str, float], lower_is_better: Collection[str] = ()
) -> float:
    r"""Mean relative gain over a model for each task alone; 0.05 is five per cent better on average.

    .. math:: \Delta_m=\frac1T\sum_t(-1)^{l_t}\,\frac{r_t-r^0_t}{r^0_t}

    with :math:`l_t=1` where a lower figure is better. A mean may hide that one task pays for the others:
    look at the terms too.

    Args:
        scores: :math:`r_t`, figure of each task in the model of many tasks.
        baseline: :math:`r^0_t>0`, figure of the model for that task alone.
        lower_is_better: tasks whose figure is an error.

    Raises:
        ValueError: for tasks that differ or are unknown, no task, a figure that is not finite, or a baseline
            that is not positive (a gain relative to it means nothing).

    Source:
        Maninis, Radosavovic and Kokkinos (2019).

    Example:
        >>> alone, together = {"group": 0.5, "valence": 2.0}, {"group": 0.55, "valence": 1.8}
        >>> round(multi_task_gain(together, alone, lower_is_better={"valence"}), 4)
        0.1
    """
    if set(scores) != set(baseline) or not scores:
        raise ValueError(f"scores: expected the tasks {sorted(baseline)}, found {sorted(scores)}")
    if not set(lower_is_better) <= set(scores):
        raise ValueError(
            f"lower_is_better: expected some of {sorted(scores)}, found {sorted(lower_is_better)}"
        )
    for task in scores:
        if not (math.isfinite(scores[task]) and 0 < baseline[task] < math.inf):
            raise ValueError(
                f"{task}: expected finite figures and a baseline above 0, "
                f"found {scores[task]} and {baseline[task]}"
            )
    signs = {task: -1 if task in lower_is_better else 1 for task in scores}
    return sum(signs[t] * (scores[t] - baseline[t]) / baseline[t] for t in scores) / len(scores)


# Equal size


def parameter_count(module: nn.Module) -> int:
    """How many numbers a module learns: the elements of all parameters, shared ones once.

    Example:
        >>> parameter_count(nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in module.parameters())


def matching_width(
    build: Callable[[int], nn.Module], parameters: int, widths: Collection[int] = range(1, 129)
) -> int:
    r"""Find the width whose model has about so many parameters, :math:`\arg\min_k|P(\text{build}(k))-P|`.

    For fair comparisons: three narrow trunks against a wide one. The models are built without memory for
    their weights and without random numbers (on PyTorch's ``meta`` device).

    Args:
        build: makes a model of a given width.
        parameters: :math:`P`, the number of parameters to come close to.
        widths: those to choose from.

    Raises:
        ValueError: if even the smallest model is larger, or even the largest smaller.

    Example:
        >>> matching_width(lambda width: nn.Linear(10, width), 115)
        10
    """
    with torch.device("meta"):
        counts = {width: parameter_count(build(width)) for width in widths}
    least, most = min(counts.values()), max(counts.values())
    if not least <= parameters <= most:
        raise ValueError(f"parameters: expected {least} to {most} for these widths, found {parameters}")
    return min(counts, key=lambda width: abs(counts[width] - parameters))
