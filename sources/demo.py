"""The built-in data set `demo`, generated, so that the first command works without a download.

It has interactions and ratings of listeners and albums, and clicks for the models of clicks.

600 listeners, 900 albums in 12 genres. Popularity is a long tail: it falls from album to album. A
listener has two favourite genres. 85 % of the listener's albums are drawn from these genres, by
popularity within the genre; the rest are drawn from all albums.
"""

import numpy as np
import pandas as pd
import pyarrow as pa

from sources.readers import Rows

USERS, ITEMS, DRAWS = 600, 900, 106_000  # about 40,000 of the draws are distinct pairs
# fmt: off
GENRES = [
    "ambient", "bebop", "blues", "disco", "dub", "folk",
    "gospel", "house", "opera", "punk", "ska", "soul",
]
# fmt: on
FAVOURITE_SHARE = 0.85
SEED = 2024
IMPRESSIONS, CLICK_LISTENERS, CLICK_ALBUMS = 120_000, 1500, 400
CLICK_FIELDS = ["listener", "album", "genre", "hour", "device"]


def demo_rows():
    """The interactions of the demo as sources.readers.Rows."""
    users, items, ratings = demo_interactions()
    users, items = (
        pa.array(ids, pa.string()).cast(pa.binary()).dictionary_encode() for ids in (users, items)
    )
    gaps = {"time": " has no times"}
    return Rows([users], [items], ratings, about="generated", gaps=gaps)


def demo_interactions():
    """Interactions of the demo. Returns (users, items, ratings), an entry per distinct pair.

    users and items are object arrays of strings, ratings are float32 from 1 to 5. They are equal
    on every machine: NumPy never changes the stream of the legacy RandomState, and the rest is
    +, -, *, / and comparisons, which round alike everywhere.
    """
    # Each album's genre and popularity, and each listener's two favourite genres.
    random = np.random.RandomState(SEED)
    genre_of_item = random.permutation(np.arange(ITEMS) % len(GENRES))
    popularity = 1.0 / (random.permutation(ITEMS) + 60) ** 2
    favourites = random.random_sample((USERS, len(GENRES))).argsort(axis=1)[:, :2]

    # Draw users: few of them are active.
    users = _choose(1.0 / (random.permutation(USERS) + 60), random.random_sample(DRAWS))

    # Draw their albums by popularity: from one of the favourite genres, or from all albums.
    first_genre = random.random_sample(DRAWS) < 0.65
    main_genre = np.where(first_genre, favourites[users, 0], favourites[users, 1])
    from_favourite = random.random_sample(DRAWS) < FAVOURITE_SHARE
    position = random.random_sample(DRAWS)
    items = _choose(popularity, position)
    for genre in range(len(GENRES)):
        drawn = from_favourite & (main_genre == genre)
        items[drawn] = _choose(np.where(genre_of_item == genre, popularity, 0.0), position[drawn])

    # Name them, and keep each pair once.
    listeners = [f"listener-{number:03d}" for number in range(1, USERS + 1)]
    albums = [f"{GENRES[genre]}-{number:03d}" for number, genre in enumerate(genre_of_item, 1)]
    user_ids, item_ids = np.array(listeners, dtype=object), np.array(albums, dtype=object)
    pairs = pd.unique(users * ITEMS + items)
    users, items = pairs // ITEMS, pairs % ITEMS
    return user_ids[users], item_ids[items], _rate(users, items, genre_of_item, favourites)


def _rate(users, items, genre_of_item, favourites):
    """Ratings of (user, item) pairs (pairs,), float32 from 1 to 5.

    Their terms: a bias of the listener, a bias of the album, the listener's taste for its genre,
    and noise.

    users, items (pairs,): indices
    genre_of_item (ITEMS,)
    favourites (USERS, 2): favourite genres
    """
    random = np.random.RandomState(SEED + 1)  # a stream of its own: it does not change the pairs
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
    rating = 3.0 + mood[users] + quality[items] + taste[users, genre_of_item[items]]
    rating = rating + 0.7 * liked + noise
    return np.clip(np.floor(rating + 0.5), 1, 5).astype(np.float32)


def demo_clicks():
    """Clicks of the demo. Returns a table with the columns `label` and CLICK_FIELDS.

    Its rows are impressions in the order of time. The probability of a click depends on the
    listener, the album, the listener's taste for its genre, the hour and the device. It drifts:
    after 85 % of the rows, and again after 92 %, a third of the genres changes from liked to
    disliked or back, for all listeners. The table is equal on every machine, see
    demo_interactions.
    """
    # Draw the fields of each impression.
    random = np.random.RandomState(SEED + 2)
    listener = _choose(1.0 / (np.arange(CLICK_LISTENERS) + 60), random.random_sample(IMPRESSIONS))
    album = _choose(1.0 / (np.arange(CLICK_ALBUMS) + 20), random.random_sample(IMPRESSIONS))
    hour, device = random.randint(24, size=IMPRESSIONS), random.randint(3, size=IMPRESSIONS)
    genre = album % len(GENRES)

    # Draw each effect on a click.
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

    # The general taste for each genre at each impression, (rows, genres), and its drift.
    liked = np.where(np.arange(len(GENRES)) % 2, 1.0, -1.0)
    fashion = liked * np.ones((IMPRESSIONS, 1))
    for start, first in ((0.85, 0), (0.92, 1)):
        fashion[int(start * IMPRESSIONS) :, first::3] *= -1

    # The probability of a click, in (0, 1): a sigmoid without exp, which may round differently.
    row = np.arange(IMPRESSIONS)
    score = mood[listener] + appeal[album] + taste[listener, genre] + clock[hour] + screen[device]
    score = 2 * (score + fashion[row, genre]) - 1.5
    probability = 0.5 + 0.5 * score / (1 + np.abs(score))
    label = (random.random_sample(IMPRESSIONS) < probability).astype(np.uint8)

    listeners = [f"listener-{number:04d}" for number in range(CLICK_LISTENERS)]
    albums = [f"album-{number:03d}" for number in range(CLICK_ALBUMS)]
    columns = {
        "label": label,
        "listener": np.array(listeners, dtype=object)[listener],
        "album": np.array(albums, dtype=object)[album],
        "genre": np.array(GENRES, dtype=object)[genre],
        "hour": hour.astype(str).astype(object),
        "device": np.array(["phone", "desktop", "speaker"], dtype=object)[device],
    }
    return pd.DataFrame(columns)


def _choose(weights, positions):
    """Draw indices in proportion to weights, by inverting their cumulative sum.

    weights (n,)
    positions: uniform random numbers in [0, 1)
    """
    cumulative = np.cumsum(weights)
    return np.searchsorted(cumulative, positions * cumulative[-1], side="right")
