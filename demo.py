"""The built-in data set `demo`: generated, so that the first command works without a download.

600 listeners, 900 albums in 12 genres. An album's popularity falls with its rank (a long tail); a listener has two
favourite genres and takes 85 % of the albums from them, by popularity within the genre, and the rest from everywhere.
"""

import numpy as np
import pandas as pd

USERS, ITEMS, DRAWS = 600, 900, 106_000  # of the draws, about 40,000 are distinct pairs
GENRES = ["ambient", "bebop", "blues", "disco", "dub", "folk", "gospel", "house", "opera", "punk", "ska", "soul"]
FAVOURITE_SHARE = 0.85
SEED = 2024


def demo_interactions():
    """The demo's interactions: (users, items), two object arrays of strings, one entry per distinct pair.

    The same on every machine: the legacy RandomState's stream is frozen, and only +, -, *, / and comparisons follow it.
    """
    random = np.random.RandomState(SEED)
    genre_of_item = random.permutation(np.arange(ITEMS) % len(GENRES))
    popularity = 1.0 / (random.permutation(ITEMS) + 60) ** 2
    favourites = random.random_sample((USERS, len(GENRES))).argsort(axis=1)[:, :2]

    # Active users are rare: the share of draws of user number r falls with r.
    users = _choose(1.0 / (random.permutation(USERS) + 60), random.random_sample(DRAWS))
    main_genre = np.where(random.random_sample(DRAWS) < 0.65, favourites[users, 0], favourites[users, 1])
    from_favourite = random.random_sample(DRAWS) < FAVOURITE_SHARE
    position = random.random_sample(DRAWS)
    items = _choose(popularity, position)
    for genre in range(len(GENRES)):
        drawn = from_favourite & (main_genre == genre)
        items[drawn] = _choose(np.where(genre_of_item == genre, popularity, 0.0), position[drawn])

    user_ids = np.array([f"listener-{number:03d}" for number in range(1, USERS + 1)], dtype=object)
    item_ids = np.array(
        [f"{GENRES[genre]}-{number:03d}" for number, genre in enumerate(genre_of_item, 1)], dtype=object
    )
    pairs = pd.unique(users * ITEMS + items)
    return user_ids[pairs // ITEMS], item_ids[pairs % ITEMS]


def _choose(weights, positions):
    """Indices drawn in proportion to `weights`, by inverting their cumulative sum at positions in [0, 1)."""
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative, positions * cumulative[-1], side="right")
