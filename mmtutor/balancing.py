r"""Attention between tasks, in its two meanings: over features (which does a task look at?) and over losses.

Attention over features or experts changes the point :math:`z_t` that a task sees. A weighting of losses
changes who moves the shared weights: it makes one loss of several, ``weighting(losses) -> total``.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmtutor.contrastive import check_positive
from mmtutor.sharing import Head, MultiTask, Scalar, task_gradients

Losses = dict[str, Scalar] | Float[Tensor, " tasks"]


# Attention over features and experts


class MMoE(MultiTask):
    r"""Several experts for all tasks, and for each task a gate that says how much it takes from which.

    .. math:: z_t=\sum_eg_{te}f_e(x),\qquad g_t=\mathrm{softmax}(V_tx+b_t)

    With one expert this is hard sharing. If each task's gate is open to one expert of its own, the tasks are
    independent. If all gates are open to the same one, the load has *collapsed*: see :func:`expert_load`.

    Args:
        experts: :math:`f_e`, each maps a batch to ``(B, D)``. Let them start from different weights: equal
            ones get nearly the same gradient.
        heads: a :class:`~mmtutor.sharing.Head` of width ``D`` for each task.
        inputs: how many numbers an item is for the gates, which see it flattened.
        stem: what comes before the experts and gates, shared by all; by default nothing.

    Raises:
        ValueError: without experts, or if an item has another number of values.

    Source:
        Ma, Zhao, Yi, Chen, Hong and Chi (2018); the stem is ours.

    Example:
        >>> model = MMoE([nn.Linear(5, 4), nn.Linear(5, 4)], {"digit": Head(4, 10), "odd": Head(4, 2)}, 5)
        >>> points, gates = model.attend(torch.zeros(3, 5))
        >>> points["digit"].shape, gates["digit"].shape
        (torch.Size([3, 4]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        experts: Iterable[nn.Module],
        heads: dict[str, Head],
        inputs: int,
        stem: nn.Module | None = None,
    ):
        super().__init__(heads)
        self.stem, self.experts, self.inputs = stem or nn.Identity(), nn.ModuleList(experts), inputs
        if not self.experts:
            raise ValueError("experts: expected at least one, found none")
        self.gates = nn.ModuleDict({task: nn.Linear(inputs, len(self.experts)) for task in heads})

    def attend(
        self, x: Tensor
    ) -> tuple[dict[str, Float[Tensor, "batch dim"]], dict[str, Float[Tensor, "batch experts"]]]:
        """Return the point of each item as each task sees it, and the weights of the experts, ``(B, E)``."""
        x = self.stem(x)
        seen = x.flatten(1)
        if seen.shape[1] != self.inputs:
            raise ValueError(f"inputs: expected {self.inputs} numbers an item, found shape {tuple(x.shape)}")
        found = torch.stack([expert(x) for expert in self.experts], 1)  # (B, E, D)
        weights = {task: gate(seen).softmax(1) for task, gate in self.gates.items()}
        return {task: torch.einsum("be,bed->bd", g, found) for task, g in weights.items()}, weights

    def features(self, x: Tensor) -> dict[str, Float[Tensor, "batch dim"]]:
        return self.attend(x)[0]


def expert_load(weights: dict[str, Float[Tensor, "batch experts"]]) -> Float[Tensor, "tasks experts"]:
    r"""How much each task takes from each expert over a batch, :math:`\ell_{te}=\frac1B\sum_ig_{ite}`.

    Args:
        weights: the gates of each task, ``(B, E)``, from :meth:`MMoE.attend`.

    Returns:
        ``(T, E)``, rows in the order of ``weights``; each sums to one.

    Raises:
        ValueError: without tasks or items, or if tasks have different shapes.

    Example:
        >>> expert_load({"digit": torch.tensor([[1.0, 0.0], [0.5, 0.5]])})
        tensor([[0.7500, 0.2500]])
    """
    shapes = [tuple(g.shape) for g in weights.values()]
    if not shapes or len(set(shapes)) > 1 or len(shapes[0]) != 2 or 0 in shapes[0]:
        raise ValueError(f"weights: expected one shape (B, E) for all tasks, found {shapes}")
    return torch.stack([g.mean(0) for g in weights.values()])


def effective_experts(load: Float[Tensor, "*rest experts"]) -> Float[Tensor, "*rest"]:
    r"""How many experts are in use: :math:`\exp\big(-\sum_e\ell_e\log\ell_e\big)`, from 1 to ``E``.

    So many equally used experts have the entropy of this load. Of a task's row it says how many experts the
    task uses; of the mean row, how many are used at all: near 1 the load has collapsed.

    Args:
        load: shares of the experts, which sum to one.

    Raises:
        ValueError: for shares that are negative or do not sum to one.

    Example:
        >>> effective_experts(torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]))
        tensor([2., 1.])
    """
    if not (load >= 0).all() or not torch.allclose(load.sum(-1), load.new_ones(()), atol=1e-3):
        raise ValueError(f"load: expected shares that sum to 1, found sums {load.sum(-1).tolist()}")
    return torch.special.entr(load).sum(-1).exp()


def load_balancing_loss(weights: dict[str, Float[Tensor, "batch experts"]]) -> Scalar:
    r"""How unequally all tasks together use the experts: the squared coefficient of variation of the load.

    .. math:: \frac{\mathrm{Var}_e\,\bar\ell_e}{(\mathrm{mean}_e\,\bar\ell_e)^2}=E\sum_e\bar\ell_e^2-1,\qquad
              \bar\ell_e=\frac1T\sum_t\ell_{te}

    Zero for an even load, ``E - 1`` if one expert does everything. Tasks may still specialise: two tasks with
    an expert each are even. Added to the loss with a small factor it keeps the load from collapsing.

    Args:
        weights: the gates of each task, ``(B, E)``, from :meth:`MMoE.attend`.

    Raises:
        ValueError: see :func:`expert_load`.

    Source:
        Shazeer et al. (2017), their importance loss, for the gates of one task.

    Example:
        >>> one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> load_balancing_loss({"a": one, "b": one}), load_balancing_loss({"a": one, "b": other})
        (tensor(1.), tensor(0.))
    """
    load = expert_load(weights).mean(0)
    return len(load) * load.square().sum() - 1


class TaskAttention(MultiTask):
    r"""One trunk for all tasks, and for each task a mask after every stage, which lets some of it pass.

    .. math:: p^{(l)}=f^{(l)}(p^{(l-1)}),\qquad
              a_t^{(l)}=\sigma\big(V_t^{(l)}[p^{(l)};\hat z_t^{(l-1)}]+b_t^{(l)}\big),\qquad
              \hat z_t^{(l)}=a_t^{(l)}\odot p^{(l)},\qquad z_t=\hat z_t^{(L)}

    at every place of a grid by itself; what passed the stage before is averaged to the coarser grid. Masks
    are sigmoids, not a softmax: what one task takes, another may take too. With all masks open,
    :math:`a=1`, this is hard sharing.

    Args:
        trunk: a ``nn.Sequential``, whose children are the stages; each returns ``(B, C)`` or
            ``(B, C, H, W)``, the last ``(B, D)``.
        heads: a :class:`~mmtutor.sharing.Head` of width ``D`` for each task.
        widths: ``C`` of each stage; the last is ``D``.

    Raises:
        TypeError: for a trunk without stages.
        ValueError: if the widths are not those of the stages.

    Source:
        Liu, Johns and Davison (2019), MTAN. Their masks are made by two convolutions with batch
        normalisation, and a third convolution, which all tasks share, brings :math:`\hat z_t^{(l-1)}` to the
        next grid; here one convolution of size 1 and an average do.

    Example:
        >>> trunk = nn.Sequential(nn.Sequential(nn.Linear(5, 8), nn.ReLU()), nn.Linear(8, 4))
        >>> model = TaskAttention(trunk, {"digit": Head(4, 10), "odd": Head(4, 2)}, widths=[8, 4])
        >>> points, masks = model.attend(torch.zeros(3, 5))
        >>> points["odd"].shape, [tuple(a.shape) for a in masks["odd"]]
        (torch.Size([3, 4]), [(3, 8, 1, 1), (3, 4, 1, 1)])
    """

    def __init__(self, trunk: nn.Sequential, heads: dict[str, Head], widths: Sequence[int]):
        super().__init__(heads)
        if not isinstance(trunk, nn.Sequential):
            raise TypeError(f"trunk: expected a Sequential of stages, found {type(trunk).__name__}")
        if len(widths) != len(trunk):
            raise ValueError(f"widths: expected one for each of {len(trunk)} stages, found {len(widths)}")
        self.trunk, self.widths = trunk, list(widths)
        before = list(zip([0, *widths], widths, strict=False))
        self.masks = nn.ModuleDict(
            {task: nn.ModuleList(nn.Conv2d(n + width, width, 1) for n, width in before) for task in heads}
        )

    def attend(
        self, x: Tensor
    ) -> tuple[dict[str, Float[Tensor, "batch dim"]], dict[str, list[Float[Tensor, "batch _ _ _"]]]]:
        """Return each task's points, ``(B, D)``, and its masks by stage, ``(B, C, H, W)``.

        After a stage that returns ``(B, C)``, ``H`` and ``W`` are 1.
        """
        p, passed, masks = x, {}, {task: [] for task in self.heads}
        for stage, (module, width) in enumerate(zip(self.trunk, self.widths, strict=True)):
            p = module(p)
            if p.ndim not in (2, 4) or p.shape[1] != width:
                expected = f"(B, {width}) or (B, {width}, H, W)"
                raise ValueError(f"stage {stage}: expected shape {expected}, found {tuple(p.shape)}")
            grid = p if p.ndim == 4 else p[:, :, None, None]
            for task, of_task in self.masks.items():
                before = [F.adaptive_avg_pool2d(passed[task], grid.shape[2:])] if stage else []
                a = of_task[stage](torch.cat([grid, *before], 1)).sigmoid()
                passed[task] = a * grid
                masks[task].append(a)
        return {task: z.flatten(1) for task, z in passed.items()}, masks

    def features(self, x: Tensor) -> dict[str, Float[Tensor, "batch dim"]]:
        return self.attend(x)[0]


# Weights over losses


class LossWeighting(nn.Module):
    r"""One loss of several, :math:`L=\sum_t\omega_tL_t`: what all weightings have in common.

    A task without labels in a batch is left out of ``losses``, or its loss is exactly zero, as
    :meth:`~mmtutor.sharing.Head.loss` returns it. Then it adds nothing, the weights of the others are what
    they would be with it, and nothing is learnt about its own. At first all of these are the plain sum,
    :math:`\omega_t=1`, unless you say otherwise.

    Args:
        tasks: their names; or how many, for losses in a tensor (then they are called 0, 1, ...).

    Attributes:
        omega: :math:`\omega_t`, the weights that the next call uses, ``(T,)``.

    Shapes: losses, a dict of scalars or ``(T,)`` -> the total, a scalar in their units. (Only a dict keeps
    the tasks apart: backward from one entry of a tensor goes through all that the tensor was made of.)

    Raises:
        ValueError: for no task or one named twice; (the call) for unknown tasks, another number of losses,
            if no task has labels, and for a loss that is negative, NaN or infinite, naming the task.

    Example:
        >>> weighting = FixedWeights(["digit", "odd"], {"digit": 1.0, "odd": 0.5})
        >>> isinstance(weighting, LossWeighting), weighting.weights()
        (True, {'digit': 1.0, 'odd': 0.5})
        >>> weighting({"digit": torch.tensor(2.0), "odd": torch.tensor(4.0)})
        tensor(4.)
    """

    omega: Float[Tensor, " tasks"]

    def __init__(self, tasks: int | Iterable[str]):
        super().__init__()
        self.tasks = [str(t) for t in range(tasks)] if isinstance(tasks, int) else list(tasks)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: expected at least one, each once; found {self.tasks}")

    def weights(self) -> dict[str, float]:
        r"""Return :math:`\omega_t` by task, to be read."""
        return dict(zip(self.tasks, self.omega.tolist(), strict=True))

    def forward(self, losses: Losses) -> Scalar:
        known = self._known(losses)
        present = [self.tasks.index(task) for task in known]
        total = self._total(known, present)
        if self.training and torch.is_grad_enabled():
            self._observe(known, present)
        return total

    def _total(self, losses: dict[str, Scalar], present: list[int]) -> Scalar:
        """Add up the losses of the tasks that have labels; ``present`` are their places among all tasks."""
        return (self.omega[present] * _stack(losses)).sum()

    def _observe(self, losses: dict[str, Scalar], present: list[int]) -> None:
        """Change the weights for the next step, where no optimiser does."""

    def _known(self, losses: Losses) -> dict[str, Scalar]:
        """Return the losses of the tasks that have labels, in the order of the tasks."""
        if isinstance(losses, Tensor):
            if losses.shape != (len(self.tasks),):
                raise ValueError(f"losses: expected shape ({len(self.tasks)},), found {tuple(losses.shape)}")
            losses = dict(zip(self.tasks, losses, strict=True))
        if not set(losses) <= set(self.tasks):
            raise ValueError(f"losses: expected some of the tasks {self.tasks}, found {sorted(losses)}")
        known = {}
        for task in filter(losses.__contains__, self.tasks):
            if losses[task].ndim:
                raise ValueError(f"{task}: expected a scalar loss, found shape {tuple(losses[task].shape)}")
            value = losses[task].item()
            if not 0 <= value < math.inf:
                raise ValueError(f"{task}: expected a finite loss of 0 or more, found {value}")
            if value:
                known[task] = losses[task]
        if not known:
            raise ValueError(
                f"losses: expected one of {self.tasks} to have labels (a loss above 0), found none"
            )
        return known

    def _per_task(self, name: str, value: float | dict[str, float]) -> Float[Tensor, " tasks"]:
        """Return a number for each task as ``(T,)``, from one for all or a dict."""
        values = value if isinstance(value, dict) else dict.fromkeys(self.tasks, value)
        if set(values) != set(self.tasks):
            raise ValueError(f"{name}: expected the tasks {self.tasks}, found {sorted(values)}")
        for task, number in values.items():
            if not math.isfinite(number):
                raise ValueError(f"{name} of {task}: expected a finite number, found {number}")
        return torch.tensor([float(values[task]) for task in self.tasks])


class FixedWeights(LossWeighting):
    r"""Weights that stay as they are, :math:`L=\sum_t\omega_tL_t`: the baseline, equal or tuned.

    Args:
        tasks: see :class:`LossWeighting`.
        weights: :math:`\omega_t\ge0`: a number for all tasks, or one for each.

    Raises:
        ValueError: for a weight that is negative or not finite, or tasks that differ.

    Example:
        >>> FixedWeights(2)(torch.tensor([1.0, 2.0]))
        tensor(3.)
    """

    def __init__(self, tasks: int | Iterable[str], weights: float | dict[str, float] = 1.0):
        super().__init__(tasks)
        self.register_buffer("omega", self._per_task("weights", weights))
        if (self.omega < 0).any():
            raise ValueError(f"weights: expected 0 or more, found {self.weights()}")


class SoftmaxWeights(LossWeighting):
    r"""Weights that are learnt by descending the weighted loss: the obvious idea, which does not work.

    .. math:: L=\sum_t\omega_tL_t,\qquad\omega=T\,\mathrm{softmax}(a),\qquad
              \frac{\partial L}{\partial a_t}=\omega_t(L_t-\bar L),\qquad\bar L=\frac1T\sum_t\omega_tL_t

    Descent lowers the weight of every task whose loss is above the weighted mean, and goes on until all of it
    is on the task with the smallest loss: the one that needs it least.

    Args:
        tasks: see :class:`LossWeighting`.

    Attributes:
        scores: :math:`a`, ``(T,)``, for an optimiser.

    Example:
        >>> weighting = SoftmaxWeights(["easy", "hard"])
        >>> weighting({"easy": torch.tensor(1.0), "hard": torch.tensor(3.0)}).backward()
        >>> weighting.scores.grad
        tensor([-1.,  1.])
    """

    def __init__(self, tasks: int | Iterable[str]):
        super().__init__(tasks)
        self.scores = nn.Parameter(torch.zeros(len(self.tasks)))

    @property
    def omega(self) -> Float[Tensor, " tasks"]:
        return len(self.tasks) * self.scores.softmax(0)

    def _total(self, losses: dict[str, Scalar], present: list[int]) -> Scalar:
        # what the present tasks have together stays with them: only how they divide it is learnt
        shares = self.scores[present].softmax(0)
        return self.omega[present].sum().detach() * (shares * _stack(losses)).sum()


class DynamicWeightAverage(LossWeighting):
    r"""More weight for the tasks whose loss falls more slowly than that of the others.

    .. math:: \omega=T\,\mathrm{softmax}(r/\tau),\qquad r_t=\frac{\bar L_t^{(n-1)}}{\bar L_t^{(n-2)}}

    with each task's mean loss :math:`\bar L_t^{(n)}` over the ``n``-th epoch. The weights are numbers here,
    not functions of the network: nothing can be gained by changing them, so they do not collapse. The ratio
    has no units, so a task in other units has the same weight. The first two epochs are the plain sum. A
    task without labels in an epoch keeps its ratio.

    Args:
        tasks: see :class:`LossWeighting`.
        every: how many calls are an epoch; those in evaluation mode or without gradients do not count.
        temperature: :math:`\tau>0`; the larger, the more equal.

    Raises:
        ValueError: for a temperature or an epoch that is not positive.

    Source:
        Liu, Johns and Davison (2019), section 3.3.

    Example:
        >>> weighting = DynamicWeightAverage(["stuck", "falling"], every=1)
        >>> for falling in (4.0, 2.0):
        ...     _ = weighting({"stuck": torch.tensor(3.0), "falling": torch.tensor(falling)})
        >>> {task: round(weight, 2) for task, weight in weighting.weights().items()}
        {'stuck': 1.12, 'falling': 0.88}
    """

    def __init__(self, tasks: int | Iterable[str], every: int = 100, temperature: float = 2.0):
        super().__init__(tasks)
        check_positive("every", every)
        check_positive("temperature", temperature)
        self.every, self.temperature = every, temperature
        self.register_buffer("omega", self._per_task("omega", 1.0))
        self.register_buffer("ratio", self._per_task("ratio", 1.0))
        self.register_buffer("before", torch.full_like(self.omega, math.nan))
        self.register_buffer("sums", torch.zeros_like(self.omega))
        self.register_buffer("counts", torch.zeros_like(self.omega))
        self.register_buffer("calls", torch.tensor(0))

    @torch.no_grad()
    def _observe(self, losses: dict[str, Scalar], present: list[int]) -> None:
        self.sums[present] += _stack(losses).to(self.sums)
        self.counts[present] += 1
        self.calls += 1
        if self.calls < self.every:
            return
        mean = self.sums / self.counts  # NaN without labels
        ratio = mean / self.before  # NaN in the first epoch too
        self.ratio = torch.where(ratio.isnan(), self.ratio, ratio)
        self.before = torch.where(mean.isnan(), self.before, mean)
        self.omega = len(self.tasks) * (self.ratio / self.temperature).softmax(0)
        for counter in (self.sums, self.counts, self.calls):
            counter.zero_()


class UncertaintyWeighting(LossWeighting):
    r"""Weights from the likelihood: each task has a variance of its own, which is learnt with the network.

    .. math:: L=\sum_te^{-s_t}L_t+b_ts_t,\qquad
              \frac{\partial L}{\partial s_t}=0\iff\omega_t=e^{-s_t}=\frac{b_t}{L_t}

    For :math:`d` numbers with Gaussian noise of variance :math:`\sigma_t^2=e^{s_t}` and
    :math:`L_t=\frac12\lVert y-\hat y\rVert^2` this is the negative log-likelihood but for a constant, if
    :math:`b_t=d/2`. (With the *mean* of squares, :math:`\frac2dL_t`, it is that divided by :math:`d/2`, if
    :math:`b_t=1`.) For classes, with :math:`L_t` the cross-entropy and :math:`b_t=\frac12`, it approximates
    that of the softmax of :math:`q/\sigma_t^2`, and equals it at :math:`s_t=0`. Once the variances have
    settled, every task contributes :math:`b_t`, whatever its units.

    Args:
        tasks: see :class:`LossWeighting`.
        factor: :math:`b_t>0`: a number for all tasks, or one for each.
        log_var: :math:`s_t` at the start: a number for all tasks, or one for each; 0 is the plain sum.

    Attributes:
        log_var: :math:`s`, ``(T,)``, for an optimiser (without weight decay, which pulls it towards 0). In a
            batch without labels of a task its gradient there is zero.

    Raises:
        ValueError: for a factor that is not positive, numbers that are not finite, or tasks that differ.

    Source:
        Kendall, Gal and Cipolla (2018).

    Example:
        >>> weighting = UncertaintyWeighting(["group", "place"], factor={"group": 0.5, "place": 1.0})
        >>> weighting({"group": torch.tensor(0.5), "place": torch.tensor(4.0)}).backward()
        >>> weighting.log_var.grad  # group has the weight at which it stays, 0.5 / 0.5; that of place falls
        tensor([ 0., -3.])
    """

    def __init__(
        self,
        tasks: int | Iterable[str],
        factor: float | dict[str, float] = 0.5,
        log_var: float | dict[str, float] = 0.0,
    ):
        super().__init__(tasks)
        self.register_buffer("factor", self._per_task("factor", factor))
        if not (self.factor > 0).all():
            raise ValueError(f"factor: expected positive numbers, found {self.factor.tolist()}")
        self.log_var = nn.Parameter(self._per_task("log_var", log_var))

    @property
    def omega(self) -> Float[Tensor, " tasks"]:
        return (-self.log_var).exp()

    def _total(self, losses: dict[str, Scalar], present: list[int]) -> Scalar:
        return super()._total(losses, present) + (self.factor * self.log_var)[present].sum()


class GradNorm(LossWeighting):
    r"""Weights that make the tasks' gradients equally long, longer for those that lag behind.

    .. math:: G_t=\omega_t\Big\lVert\frac{\partial L_t}{\partial\theta_0}\Big\rVert,\qquad
              E(\omega)=\sum_t\big|G_t-\bar Gr_t^\alpha\big|,\qquad
              r_t=\frac{L_t/L_t^{(0)}}{\frac1T\sum_uL_u/L_u^{(0)}}

    with the first loss :math:`L_t^{(0)}` of each task and the mean :math:`\bar G`; the target
    :math:`\bar Gr_t^\alpha` counts as constant. Each call in training mode returns
    :math:`\sum_t\omega_tL_t` and then takes one step down :math:`E`; the sum of the weights stays ``T``.
    :math:`G_t` is linear in :math:`\omega_t`, so that no second derivatives are needed:

    .. math:: \log\omega_t\leftarrow\log\omega_t-\eta\,\frac{G_t}{\bar G}\,
              \mathrm{sign}(G_t-\bar Gr_t^\alpha)+\mathrm{const}

    Args:
        tasks: see :class:`LossWeighting`.
        shared: :math:`\theta_0`: weights that all tasks share. The last shared layer will do, as
            ``model.trunk[-1].parameters()``: it costs one short backward pass for each task.
        alpha: :math:`\alpha\ge0`: 0 makes all gradients equally long.
        rate: :math:`\eta>0`.

    Raises:
        ValueError: for a negative alpha, a rate that is not positive, no shared weights; (the call) for a
            loss without gradient or whose gradient is not finite, naming the task.

    Source:
        Chen, Badrinarayanan, Lee and Rabinovich (2018). They descend in :math:`\omega_t` by Adam, which may
        make a weight negative; the logarithm cannot, and divided by :math:`\bar G` the step does not depend
        on the units of the losses.

    Example:
        >>> w = nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> weighting = GradNorm(["steep", "flat"], [w], alpha=0.0)
        >>> for _ in range(100):
        ...     total = weighting({"steep": 9 * w[0], "flat": w[1]})
        >>> {task: round(weight, 1) for task, weight in weighting.weights().items()}
        {'steep': 0.2, 'flat': 1.8}
    """

    def __init__(
        self,
        tasks: int | Iterable[str],
        shared: Iterable[nn.Parameter],
        alpha: float = 1.5,
        rate: float = 0.025,
    ):
        super().__init__(tasks)
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha: expected a finite number of 0 or more, found {alpha}")
        check_positive("rate", rate)
        self.alpha, self.rate = alpha, rate
        self.shared = _trainable(shared)  # a plain list on purpose: these belong to the model
        self.register_buffer("omega", self._per_task("omega", 1.0))
        self.register_buffer("first", torch.full_like(self.omega, math.nan))

    def _observe(self, losses: dict[str, Scalar], present: list[int]) -> None:
        norms = task_gradients(losses, self.shared).norm(dim=1)
        _check_lengths(norms, losses)
        with torch.no_grad():
            L, first = _stack(losses), self.first[present]
            self.first[present] = first = torch.where(first.isnan(), L.to(first), first)
            pace = L / first
            omega = self.omega[present]
            G = omega * norms
            target = G.mean() * (pace / pace.mean()) ** self.alpha
            step = self.rate * G / G.mean().clamp(min=torch.finfo(G.dtype).tiny) * (G - target).sign()
            moved = omega * (-step).exp()
            self.omega[present] = (moved * omega.sum() / moved.sum()).to(omega)


# Gradients in conflict


def pcgrad(
    gradients: Float[Tensor, "tasks parameters"], generator: torch.Generator | None = None
) -> Float[Tensor, " parameters"]:
    r"""Add up the tasks' gradients, after each has given up what contradicts the others.

    For each task ``i``, begin with :math:`\tilde g_i=g_i`, go through the other tasks in random order, and
    where they are in conflict, :math:`\tilde g_i^\top g_j<0`, leave out the part along :math:`g_j`:

    .. math:: \tilde g_i\leftarrow\tilde g_i-\frac{\tilde g_i^\top g_j}{\lVert g_j\rVert^2}g_j,\qquad
              g=\sum_i\tilde g_i

    For two tasks the result is in conflict with neither (for more it may be, because a later projection may
    undo an earlier one). Without conflict it is the plain sum. A task without gradient changes nothing.

    Computed in the coefficients of :math:`\tilde g_i=\sum_jc_{ij}g_j`, for which the inner products of all
    pairs, ``(T, T)``, are enough, and for all ``i`` at once.

    Args:
        gradients: :math:`g_i`, ``(T, P)``, from :func:`~mmtutor.sharing.task_gradients`.
        generator: for the orders; by default PyTorch's.

    Returns:
        ``(P,)``, in the order of the columns; no gradient flows through it.

    Raises:
        ValueError: for another number of axes, or NaN or infinity, naming the row.

    Source:
        Yu, Kumar, Gupta, Levine, Hausman and Finn (2020).

    Example:
        >>> pcgrad(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
        tensor([0.5000, 1.5000])
    """
    if gradients.ndim != 2 or not gradients.numel():
        raise ValueError(f"gradients: expected shape (T, P), found {tuple(gradients.shape)}")
    gradients = gradients.detach()
    products = gradients @ gradients.T
    _check_lengths(products.diagonal(), [f"gradients, row {t}" for t in range(len(gradients))])
    return _surgery(products, generator) @ gradients


def _surgery(products: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return how often each task's gradient is in the result of `pcgrad`, ``(T,)``."""
    gram = products.cpu()
    i, squares = torch.arange(len(gram)), gram.diagonal()
    orders = torch.stack([torch.randperm(len(gram), generator=generator) for _ in i])
    c = torch.eye(len(gram), dtype=gram.dtype)
    for j in orders.T:  # task i meets task j[i]
        product = (c * gram[j]).sum(1)
        conflict = (product < 0) & (squares[j] > 0) & (j != i)
        c[i, j] -= torch.where(conflict, product / squares[j], 0)
    return c.sum(0).to(products)


class PCGrad(LossWeighting):
    r"""The sum of the losses, but with the gradient of :func:`pcgrad` on the shared weights.

    The other weights, as those of the heads, get their plain gradient. Call ``backward`` on the total as on
    any other loss: the gradients have been computed by then, and are only put in their places.

    Args:
        tasks: see :class:`LossWeighting`.
        model: whose weights are trained.
        shared: those of them that the tasks share, as ``model.trunk.parameters()``.
        generator: for the orders; by default PyTorch's.

    Attributes:
        omega: how often each task's gradient was in the last step's; 1 without conflict.

    Raises:
        ValueError: without shared weights; (the call) for a loss without gradient or whose gradient is not
            finite, naming the task.

    Source:
        Yu, Kumar, Gupta, Levine, Hausman and Finn (2020).

    Example:
        >>> w = nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> weighting = PCGrad(["a", "b"], nn.ParameterList([w]), [w])
        >>> weighting({"a": w[0], "b": (2 - w[0] + w[1])}).backward()
        >>> w.grad, weighting.weights()
        (tensor([0.5000, 1.5000]), {'a': 2.0, 'b': 1.5})
    """

    def __init__(
        self,
        tasks: int | Iterable[str],
        model: nn.Module,
        shared: Iterable[nn.Parameter],
        generator: torch.Generator | None = None,
    ):
        super().__init__(tasks)
        self.shared, self.generator = _trainable(shared), generator  # not registered: they are the model's
        ids = {id(p) for p in self.shared}
        self.own = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
        self.register_buffer("omega", self._per_task("omega", 1.0))

    def _total(self, losses: dict[str, Scalar], present: list[int]) -> Scalar:
        total = _stack(losses).sum()
        if not (self.training and torch.is_grad_enabled()):
            return total
        g = self._gradients(losses)
        products = sum(part @ part.T for part in g)
        _check_lengths(products.diagonal(), losses)
        omega = _surgery(products, self.generator)
        self.omega[present] = omega.to(self.omega)
        shared = [omega @ part for part in g]
        own = torch.autograd.grad(total, self.own, retain_graph=True, allow_unused=True) if self.own else ()
        gradients = zip([*self.shared, *self.own], [*shared, *own], strict=True)
        # p - p.detach() is zero, with gradient one
        zeros = [(g.view_as(p) * (p - p.detach())).sum() for p, g in gradients if g is not None]
        return total.detach() + sum(zeros)

    def _gradients(self, losses: dict[str, Scalar]) -> list[Tensor]:
        """Return the tasks' gradients one ``(T, P)`` for each shared weight: to join them is to copy."""
        for task, loss in losses.items():
            if not loss.requires_grad:
                raise ValueError(f"{task}: expected a scalar loss that has a gradient, found none")
        of_tasks = [
            torch.autograd.grad(loss, self.shared, retain_graph=True, materialize_grads=True)
            for loss in losses.values()
        ]
        return [torch.stack(of_weight).reshape(len(losses), -1) for of_weight in zip(*of_tasks, strict=True)]


def _trainable(shared: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the weights that have a gradient, or raise if there are none."""
    shared = [p for p in shared if p.requires_grad]
    if not shared:
        raise ValueError("shared: expected weights that are trained, found none")
    return shared


def _check_lengths(lengths: Tensor, names: Iterable[str]) -> None:
    """Raise, naming it, if a gradient has a length that is not finite: the gradient itself is not then."""
    for name, length in zip(names, lengths.tolist(), strict=True):
        if not math.isfinite(length):
            raise ValueError(f"{name}: expected a finite gradient, found one of length {length}")


def _stack(losses: dict[str, Scalar]) -> Tensor:
    return torch.stack([*losses.values()])
