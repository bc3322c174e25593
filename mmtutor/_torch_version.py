"""An old torch is named at once, before something fails for want of a function that it lacks."""

import re

import torch

OLDEST = (2, 4)  # as in pyproject.toml


def check_version(found: str) -> None:
    """Refuse a version of torch that is too old; one that is no number, a build of one's own, passes.

    Raises:
        ImportError: names the version found and the oldest that will do.

    Example:
        >>> check_version("2.10.0+cu128")
    """
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers and tuple(map(int, numbers.groups())) < OLDEST:
        raise ImportError(
            f"torch: expected version {'.'.join(map(str, OLDEST))} or newer, found {found}; "
            "install a newer one, for example by `pip install --upgrade torch torchvision`"
        )


check_version(torch.__version__)
