"""Real data that travels with the package: emoji in many modalities, digits in six views, rated tweets.

Everything loads without a network; every file is compared with its SHA-256 before use. Sources and
licences: the page "Licences" of the book and the folder ``licences`` beside this file.
"""

from .digits import Digits, load_digits
from .emoji import Emoji, Sentiment, load_emoji, load_sentiment
from .families import families
from .files import DataError
from .splits import SPLITS, Split, held_out_style, partition, split
from .tweets import Tweets, load_tweets

__all__ = [
    "SPLITS",
    "DataError",
    "Digits",
    "Emoji",
    "Sentiment",
    "Split",
    "Tweets",
    "families",
    "held_out_style",
    "load_digits",
    "load_emoji",
    "load_sentiment",
    "load_tweets",
    "partition",
    "split",
]
