"""Does an update follow users whose tastes change? On generated data, with `study.py online`.

python benchmarks/drift.py [--data_dir datasets] [--seeds 3] [--periods 10]

Writes the data set `drift` into --data_dir: half-way, half of the users change to another genre,
and new users and new items appear, each of a genre.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

GENRES, LIKED = 10, 0.8


def drifting(users=600, items=400, rows=40_000, seed=0):
    """Interactions with planted tastes. Returns (a table in the order of time, genres).

    The table has the columns user, item and time. An interaction is with an item of the user's
    genre with the probability LIKED, else with any. After half of the rows, every second user likes
    the next genre but one; a fifth of the users and of the items appear only then.

    genres: {"user": genre of each user at the end, "item": genre of each item}, by id
    """
    random = np.random.default_rng(seed)
    late = np.arange(rows) >= rows // 2
    genre_of_item = np.arange(items) % GENRES
    first, then = np.arange(users) % GENRES, np.arange(users) % GENRES
    then[users // 2 :] = (then[users // 2 :] + 2) % GENRES
    old_users, old_items = (np.arange(size) % 5 > 0 for size in (users, items))

    user = np.where(
        late, random.integers(users, size=rows), random.choice(np.flatnonzero(old_users), rows)
    )
    genre = np.where(late, then[user], first[user])
    # An item by its rank in its genre: some are taken more often than others.
    per_genre = items // GENRES
    rank = (per_genre * random.random(rows) ** 1.5).astype(int)
    any_genre = random.integers(GENRES, size=rows)
    item = np.where(random.random(rows) < LIKED, genre, any_genre) + GENRES * rank
    exists = late | old_items[item]
    table = pd.DataFrame({"user": user, "item": item, "time": np.arange(rows)})[exists]
    table = table.drop_duplicates(["user", "item"]).astype({"user": str, "item": str})
    genres = {
        name: dict(zip(map(str, range(len(values))), values.tolist(), strict=True))
        for name, values in {"user": then, "item": genre_of_item}.items()
    }
    return table, genres


def main():
    from common import ROOT, options

    given = options(__doc__, seeds=3, periods=10)
    folder = Path(given.data_dir).resolve() / "drift"
    folder.mkdir(parents=True, exist_ok=True)
    drifting()[0].to_csv(folder / "interactions.csv", index=False)
    command = [sys.executable, ROOT / "study.py", "online", "--seeds", given.seeds]
    command += ["--periods", given.periods, "--", "--dataset", "drift", "--split", "time"]
    command += ["--data_dir", folder.parent]
    subprocess.run(list(map(str, command)), check=True)


if __name__ == "__main__":
    main()
