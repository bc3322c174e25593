"""Colours and figure settings that the whole book shares.

One colour per modality and one per task, colour-blind safe (a variation on Okabe and Ito's palette), the
same in figures, diagrams and widgets. Figures are drawn on a transparent ground in a grey ink that reads
on a white and on a dark page.
"""

import matplotlib

INK = "#767676"  # contrast about 4.5 : 1 on white and 4.1 : 1 on the dark theme
MODALITY = {"image": "#2878c8", "text": "#d55e00", "video": "#b0509c", "view": "#0a9070"}
TASK = {"what": "#a87c00", "moves": "#5b6bd6", "style": "#9a5630", "retrieve": "#4a8f3c"}


def use_book_style() -> None:
    """Set matplotlib's defaults to the book's: transparent ground, grey ink, no top and right spines.

    Example:
        >>> use_book_style()
        >>> matplotlib.rcParams["axes.spines.top"]
        False
    """
    ink = (
        "axes.edgecolor",
        "axes.labelcolor",
        "xtick.color",
        "ytick.color",
        "text.color",
        "legend.labelcolor",
    )
    matplotlib.rcParams.update({name: INK for name in ink})
    matplotlib.rcParams.update(
        {
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "legend.frameon": False,
            "font.size": 10,
            "figure.figsize": (6.4, 3.2),
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": matplotlib.cycler(color=[*MODALITY.values(), *TASK.values()]),
        }
    )
