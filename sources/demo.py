"""The built-in data set `demo`: generated, so that the first command works without a download.

Interactions and ratings, and clicks of the same kind of listeners for models of clicks.

600 listeners, 900 albums in 12 genres. An album's popularity falls with its rank (a long tail); a listener has two
favourite genres and takes 85 % of the albums from them, by popularity within the genre, and the rest from everywhere.
"""

import numpy as np
import pandas as pd

USERS, ITEMS, DRAWS = 600, 900, 106_000  # of the draws, about 40,000 are distinct pairs
GENRES = [
    "ambient",
    "bebop",
    "blues",
    "disco",
    "dub",
    "folk",
    "gospel",
    "house",
    "opera",
    "punk",
    "ska",
    "soul",
]
FAVOURITE_SHARE = 0.85
SEED = 2024
IMPRESSIONS, CLICK_LISTENERS, CLICK_ALBUMS = 120_000, 1500, 400
CLICK_FIELDS = ["listener", "album", "genre", "hour", "device"]


def demo_interactions():
    """The demo's interactions: (users, items, ratings), an entry per distinct pair: two of strings, float32 1 .. 5.

    The same on every machine: the legacy RandomState's stream is frozen, and only +, -, *, / and comparisons follow it.
    """
    random = np.random.RandomState(SEED)
    genre_of_item = random.permutation(np.arange(ITEMS) % len(GENRES))
    popularity = 1.0 / (random.permutation(ITEMS) + 60) ** 2
    favourites = random.random_sample((USERS, len(GENRES))).argsort(axis=1)[:, :2]

    # Active users are rare: the share of draws of user number r falls with r.
    users = _choose(1.0 / (random.permutation(USERS) + 60), random.random_sample(DRAWS))
    main_genre = np.where(
        random.random_sample(DRAWS) < 0.65, favourites[users, 0], favourites[users, 1]
    )
    from_favourite = random.random_sample(DRAWS) < FAVOURITE_SHARE
    position = random.random_sample(DRAWS)
    items = _choose(popularity, position)
    for genre in range(len(GENRES)):
        drawn = from_favourite & (main_genre == genre)
        items[drawn] = _choose(np.where(genre_of_item == genre, popularity, 0.0), position[drawn])

    user_ids = np.array([f"listener-{number:03d}" for number in range(1, USERS + 1)], dtype=object)
    item_ids = np.array(
        [f"{GENRES[genre]}-{number:03d}" for number, genre in enumerate(genre_of_item, 1)],
        dtype=object,
    )
    pairs = pd.unique(users * ITEMS + items)
    users, items = pairs // ITEMS, pairs % ITEMS
    return user_ids[users], item_ids[items], _rate(users, items, genre_of_item, favourites)


def _rate(users, items, genre_of_item, favourites):
    """Ratings: what a listener gives at large, what an album gets, the listener's taste for the genre, and noise."""
    random = np.random.RandomState(SEED + 1)  # of their own, so that they do not change the pairs
    mood, quality, taste, noise = (
        spread * (random.random_sample(size) - 0.5)
        for spread, size in (
            (1.5, USERS),
            (2.0, ITEMS),
            (2.0, (USERS, len(GENRES))),
            (2.0, len(users)),
        )
    )
    liked = (favourites[users] == genre_of_item[items, None]).any(axis=1)
    rating = (
        3.0
        + mood[users]
        + quality[items]
        + taste[users, genre_of_item[items]]
        + 0.7 * liked
        + noise
    )
    return np.clip(np.floor(rating + 0.5), 1, 5).astype(np.float32)


def demo_clicks():
    """The demo's clicks in the order of time: a table of `label` and CLICK_FIELDS, a row per impression.

    Whether a listener clicks an album depends on both, on the listener's taste for its genre and on hour and device. It
    drifts: after 85 % of the rows, and again after 92 %, a third of the genres changes from liked to disliked or back,
    for all listeners. The same on every machine, see demo_interactions.
    """
    random = np.random.RandomState(SEED + 2)
    listener = _choose(1.0 / (np.arange(CLICK_LISTENERS) + 60), random.random_sample(IMPRESSIONS))
    album = _choose(1.0 / (np.arange(CLICK_ALBUMS) + 20), random.random_sample(IMPRESSIONS))
    hour, device = random.randint(24, size=IMPRESSIONS), random.randint(3, size=IMPRESSIONS)
    genre = album % len(GENRES)
    mood, appeal, taste, clock, screen = (
        spread * (random.random_sample(size) - 0.5)
        for spread, size in (
            (1.0, CLICK_LISTENERS),
            (1.5, CLICK_ALBUMS),
            (3.0, (CLICK_LISTENERS, len(GENRES))),
            (0.8, 24),
            (0.6, 3),
        )
    )
    fashion = np.where(np.arange(len(GENRES)) % 2, 1.0, -1.0) * np.ones(
        (IMPRESSIONS, 1)
    )  # (rows, genres)
    for start, first in ((0.85, 0), (0.92, 1)):
        fashion[int(start * IMPRESSIONS) :, first::3] *= -1
    row = np.arange(IMPRESSIONS)
    score = mood[listener] + appeal[album] + taste[listener, genre] + clock[hour] + screen[device]
    score = 2 * (score + fashion[row, genre]) - 1.5
    chance = 0.5 + 0.5 * score / (1 + np.abs(score))
    columns = {
        "listener": np.array(
            [f"listener-{number:04d}" for number in range(CLICK_LISTENERS)], dtype=object
        )[listener],
        "album": np.array([f"album-{number:03d}" for number in range(CLICK_ALBUMS)], dtype=object)[
            album
        ],
        "genre": np.array(GENRES, dtype=object)[genre],
        "hour": hour.astype(str).astype(object),
        "device": np.array(["phone", "desktop", "speaker"], dtype=object)[device],
    }
    return pd.DataFrame(
        {"label": (random.random_sample(IMPRESSIONS) < chance).astype(np.uint8), **columns}
    )


def _choose(weights, positions):
    """Indices drawn in proportion to `weights`, by inverting their cumulative sum at positions in [0, 1)."""
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative, positions * cumulative[-1], side="right")
