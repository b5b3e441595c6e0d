"""How long does the reading of a large table of ratings take, and how much memory?

python benchmarks/reading.py [--rows 25000000] [--folder FOLDER] [--rounds 3]

The table is generated in the proportions of MovieLens 25M: 162,541 users with 20 ratings or more,
some 59,000 movies, long tails of both; rows userId,movieId,rating,timestamp, sorted by user and
movie. It is written into a temporary folder, or as FOLDER/shop/ratings.csv, which a later call
takes as it is.

This program reads the table, numbers users and items, and splits them; then it does so from the
parsed copy. The other readers only read. All take turns, each in a new process. Imports are not in
the seconds, but in the memory.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from common import ROOT, options, show, spread
from pyarrow import csv
from tqdm import tqdm

ROWS, USERS, MOVIES = 25_000_000, 162_541, 59_047  # of MovieLens 25M
LEAST = 20  # movies of a user
LARGEST_ID = 209_171  # of a movie
ID_BITS = 18  # of that id
BEGIN, END = 789_652_009, 1_574_327_703  # seconds: January 1995, November 2019
WEEK, YEAR = 7 * 86_400, 365 * 86_400
# Shares of the ratings 0.5, 1.0, ..., 5.0.
SHARES = np.array([0.016, 0.031, 0.016, 0.066, 0.05, 0.196, 0.127, 0.266, 0.088, 0.144])
RATINGS = pa.array([f"{half / 2:.1f}" for half in range(1, 11)])
BLOCK = 1_000_000  # rows generated at a time

OURS, AGAIN = "read, number, split", "again, from the copy"
COPY = "the copy alone, not split"
TYPES = "{'userId': 'int32', 'movieId': 'int32', 'rating': 'float32', 'timestamp': 'int64'}"
# {name: (import, call, number of rows)}
OURSELVES = (
    "from dataloader import load_dataset",
    "load_dataset('shop', folder)",
    "table.train.nnz + table.test.nnz",
)
WAYS = {
    OURS: OURSELVES,
    AGAIN: OURSELVES,
    COPY: (
        "from dataloader import read_dataset; from sources.readers import WANTED",
        "read_dataset('shop', folder, None, False, WANTED)[2].pairs['interactions']",
        "len(table)",
    ),
    "pandas.read_csv": ("import pandas", "pandas.read_csv(path)", "len(table)"),
    "pandas.read_csv, dtype given": (
        "import pandas",
        f"pandas.read_csv(path, dtype={TYPES})",
        "len(table)",
    ),
    "polars.read_csv": ("import polars", "polars.read_csv(path)", "len(table)"),
    "pyarrow.csv.read_csv": ("import pyarrow.csv", "pyarrow.csv.read_csv(path)", "len(table)"),
}
# VmHWM is the peak of a process itself: Linux starts ru_maxrss with that of its parent.
MEASURE = """
import sys, time
{imports}
folder, path = sys.argv[1:]
begin = time.perf_counter()
table = {call}
seconds = time.perf_counter() - begin
kilobytes = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
print(seconds, int(kilobytes) * 1024 / 1e6, {rows})
"""


def generate(path, rows):
    """Write a table of ratings. Fewer rows have as many per user, and fewer movies."""
    random = np.random.default_rng(1)
    users, movies = rows * USERS // ROWS, int(MOVIES * (rows / ROWS) ** 0.5)
    counts = movies_per_user(users, movies, rows, random)
    ids = 1 + random.choice(LARGEST_ID, movies, replace=False)  # the most popular movie first
    starts = random.integers(BEGIN, END - YEAR, users)
    form = csv.WriteOptions(include_header=False, quoting_style="none")

    # Write the users in blocks.
    ends = np.searchsorted(counts.cumsum(), np.arange(BLOCK, rows, BLOCK))
    blocks = np.split(np.arange(users), ends)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"userId,movieId,rating,timestamp\n")
        for block in tqdm(blocks, desc="generating", leave=False, disable=None):
            place, rank = ranks_of_movies(counts[block], movies, random)
            # Sort by user, then by movie.
            keys = np.sort((block[place] + 1) << ID_BITS | ids[rank])
            user, movie = keys >> ID_BITS, keys & ((1 << ID_BITS) - 1)
            rating = RATINGS.take(pa.array(random.choice(len(SHARES), len(keys), p=SHARES)))
            time = starts[user - 1] + random.exponential(WEEK, len(keys)).astype(np.int64)
            columns = {"userId": user, "movieId": movie, "rating": rating, "timestamp": time}
            csv.write_csv(pa.table(columns), file, form)


def movies_per_user(users, movies, rows, random):
    """How many movies each user has, an array (users,): LEAST or more, with a long tail.

    users, movies, rows: their numbers; the counts add up to `rows`
    random (Generator)
    """
    tail = random.lognormal(sigma=1.4, size=users)
    more = (tail * (rows - LEAST * users) / tail.sum()).astype(np.int64)
    most = movies // 2  # for ranks_of_movies
    counts = np.minimum(LEAST + more, most)
    # Spread what rounding and `most` have left.
    while rest := rows - counts.sum():
        below = np.flatnonzero(counts < most)[:rest]
        counts[below] = np.minimum(counts[below] + max(1, rest // users), most)
    return counts


def ranks_of_movies(counts, movies, random):
    """Draw each user's movies, none of them twice, the popular ones more often.

    counts: number of movies of each user
    movies: number of all movies, at least twice the largest count
    random (Generator)

    Returns two arrays (sum of counts,): the user, and the movie's rank by popularity, from 0.
    """
    user = np.repeat(np.arange(len(counts)), counts)
    ends = counts.cumsum()
    # Divide [0, 1) into twice as many strata as the user has movies. Take a point in one stratum
    # of each pair.
    stratum = np.arange(ends[-1]) - (ends - counts)[user]
    stratum = 2 * stratum + random.integers(0, 2, len(user))
    point = (stratum + random.random(len(user))) / (2 * counts)[user]
    # The density of ranks falls with the square of the rank; half of all are below `half`.
    half = movies / 100
    rank = (half * point / (1 - (1 - half / movies) * point)).astype(np.int64)
    # Popular movies are drawn more than once: raise a user's ranks until each is larger than the
    # one before. The offset keeps the users apart.
    offset = 2 * movies * user
    return user, np.maximum.accumulate(rank - stratum + offset) - offset + stratum


def measure(way, folder, path):
    """Read the table in a new process: (seconds, peak memory in MB, rows). way: one of WAYS"""
    imports, call, rows = WAYS[way]
    code = MEASURE.format(imports=imports, call=call, rows=rows)
    command = [sys.executable, "-c", code, str(folder), str(path)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    seconds, megabytes, rows = done.stdout.split()
    return float(seconds), float(megabytes), int(rows)


def main():
    given = options(__doc__, rows=ROWS, folder="", rounds=3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(given.folder or temporary).resolve()
        path = folder / "shop" / "ratings.csv"
        if not path.is_file():
            generate(path, given.rows)
        size = path.stat().st_size / 1e6
        found = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            shutil.rmtree(path.parent / ".cache", ignore_errors=True)  # the parsed copy
            for way, results in found.items():
                results.append(measure(way, folder, path))

    ours = statistics.median(seconds for seconds, *_ in found[OURS])
    rows = {}
    for way, results in found.items():
        seconds, megabytes, read = zip(*results, strict=True)
        rows[way] = spread(seconds) | {
            "times ours": f"{statistics.median(seconds) / ours:.2f}",
            "peak memory, MB": f"{max(megabytes):.0f}",
            "rows": f"{max(read):,}",
        }
    show(f"A table of ratings, {size:.0f} MB, read {given.rounds} times in turns", rows)


if __name__ == "__main__":
    main()
