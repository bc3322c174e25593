"""What else draws pairs of pictures: principal components, a variational autoencoder, a GAN for each view."""

from functools import cache

import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from mmtutor.gan import DTLEncoder, DTLGenerator

from .gan_tasks import Views, at, faces, mirrored, varied

COMPONENTS = {True: 320, False: 40}  # of 10, 20, 40, ... the best by the kernel distance, on validation
COPIES = 18  # moved copies of each thing that components and ridge regression are fitted to
RIDGE = 100.0  # of 3, 10, ..., 1000 the best by what is found, on validation


def flat(x: Views) -> Tensor:
    """Return all views of each thing as one row of numbers."""
    return torch.cat([view.flatten(1) for view in x.values()], 1)


@cache
def learnt(moved: int = 0) -> Views:
    """Return the things to learn from and their mirror images, or ``moved`` copies as networks see them."""
    x = faces("train")
    if not moved:
        return mirrored(x)
    rows = torch.arange(len(next(iter(x.values())))).repeat(moved)
    return varied(at(x, rows), torch.Generator().manual_seed(0))


class Learnt:
    """What was learnt from: a generator that knows all by heart.

    Args:
        moved: whether it knows moved copies, or things as they are.
    """

    def __init__(self, moved: bool):
        self.known = learnt(COPIES * moved)

    def generate(self, n: int, generator: torch.Generator | None = None) -> Views:
        """Draw without repeating any, at most as many as there are."""
        rows = torch.randperm(len(next(iter(self.known.values()))), generator=generator)
        return at(self.known, rows[:n])


class Components:
    """A normal distribution along the principal components of both views side by side.

    What it is not told of it fills in with the mean, given the rest.

    Args:
        moved: whether it is fitted to moved copies, or to things as they are.
        components: how many; by default as many as suit what it is fitted to.
    """

    def __init__(self, moved: bool, components: int | None = None):
        x = learnt(COPIES * moved)
        self.shapes = {m: view.shape[1:] for m, view in x.items()}
        self.pca = PCA(components or COMPONENTS[moved], svd_solver="randomized", random_state=0).fit(
            flat(x).numpy()
        )
        self.mean, self.axes = (torch.tensor(a).float() for a in (self.pca.mean_, self.pca.components_))
        self.scale = torch.tensor(self.pca.explained_variance_).float()
        self.left = float(self.pca.noise_variance_)  # of each pixel, along the other directions

    def parameters(self) -> list[Tensor]:
        """Return what was estimated."""
        return [self.mean, self.axes, self.scale]

    def views(self, rows: Tensor) -> Views:
        """Cut rows of numbers into pictures."""
        parts = rows.clamp(-1, 1).split([shape.numel() for shape in self.shapes.values()], 1)
        return {
            m: part.unflatten(1, shape) for (m, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def generate(self, n: int, generator: torch.Generator | None = None) -> Views:
        """Draw the components from normal distributions."""
        z = torch.randn(n, len(self.scale), generator=generator) * self.scale.sqrt()
        return self.views(z @ self.axes + self.mean)

    def fill_in(self, x: Views) -> Views:
        """Return the mean of both views, given those that are there."""
        here = torch.cat([torch.full((shape.numel(),), m in x) for m, shape in self.shapes.items()])
        told, axes = flat({m: x[m] for m in self.shapes if m in x}) - self.mean[here], self.axes[:, here]
        precision = axes @ axes.T + self.left * torch.diag(1 / self.scale)
        return self.views(torch.linalg.solve(precision, axes @ told.T).T @ self.axes + self.mean)


class Linear:
    """Ridge regression from one picture to the other."""

    def __init__(self, moved: bool, strength: float = RIDGE):
        x = learnt(COPIES * moved)
        self.maps = {
            (a, b): Ridge(strength).fit(x[a].flatten(1).numpy(), x[b].flatten(1).numpy())
            for a in x
            for b in x
            if a != b
        }

    def fill_in(self, x: Views) -> Views:
        """Return the other picture."""
        ((known, view),) = x.items()
        return {
            b: torch.tensor(f.predict(view.flatten(1).numpy())).view_as(view).clamp(-1, 1)
            for (a, b), f in self.maps.items()
            if a == known
        }


class Nearest:
    """The other picture of the thing learnt from whose picture is nearest."""

    def __init__(self, moved: bool):
        self.known = learnt(COPIES * moved)

    def fill_in(self, x: Views) -> Views:
        """Return the other picture of the nearest."""
        ((m, view),) = x.items()
        rows = torch.cdist(view.flatten(1), self.known[m].flatten(1)).argmin(1)
        return at(self.known, rows)


class VAE(nn.Module):
    r"""A variational autoencoder with the GAN's encoder and, as its decoder, the GAN's generator.

    .. math:: \tfrac1d\Big(\mathbb E_{z\sim q(z\mid x)}\lVert G(z)-x\rVert^2
              +\beta\,\mathrm{KL}\big(q(z\mid x)\Vert\mathcal N(0,I)\big)\Big)

    Args:
        encoder: views to twice as many numbers as the generator takes: mean and log-variance.
        generator: from there to views.
        beta: weight of the divergence.
    """

    def __init__(self, encoder: DTLEncoder, generator: DTLGenerator, beta: float):
        super().__init__()
        self.encoder, self.generator, self.beta = encoder, generator, beta

    def loss(self, x: Views, valid: Tensor, noise: torch.Generator) -> Tensor:
        """Return the loss of whole things of which only some views are shown."""
        mean, log_variance = self.encoder(x, valid).chunk(2, 1)
        epsilon = torch.randn(mean.shape, generator=noise).to(mean.device)
        made = self.generator(mean + (log_variance / 2).exp() * epsilon)
        error = torch.stack([(made[m] - x[m]).square().flatten(1).sum(1) for m in x]).sum(0)
        divergence = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1) / 2
        return (error + self.beta * divergence).mean() / sum(x[m][0].numel() for m in x)

    @torch.no_grad()
    def generate(self, n: int, generator: torch.Generator | None = None) -> Views:
        """Draw from the prior."""
        where = next(self.parameters()).device
        return self.generator(torch.randn(n, self.generator.noise, generator=generator).to(where))

    def fill_in(self, x: Views) -> Views:
        """Return both views from the mean of the code."""
        return self.generator(self.encoder(x).chunk(2, 1)[0])


class Unpaired(nn.Module):
    """A GAN for each view; nothing tells one what the other draws."""

    def __init__(self, gans: dict[str, nn.Module]):
        super().__init__()
        self.gans = nn.ModuleDict(gans)

    def generate(self, n: int, generator: torch.Generator | None = None) -> Views:
        """Let each draw from noise of its own."""
        return {m: gan.generate(n, generator)[m] for m, gan in self.gans.items()}
