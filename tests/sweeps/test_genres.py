"""Do items near each other share a genre: by hand, and as a study."""

import numpy as np
import pandas as pd
import pytest
from study_tools import is_png
from tools import write

from sweeps import genres


def test_clusters(work, run_study, started):
    """Two genres that never share a user: training pulls them apart."""
    rows = [
        f"u{user},i{item:02}\n"
        for user in range(60)
        for item in range(user % 2, 40, 2)
        if (user + item) % 3
    ]
    write(work / "datasets/shop/interactions.csv", "user_id,item_id\n" + "".join(rows))
    titles = [
        f"i{item:02},T{item},{'even' if item % 2 == 0 else 'odd|uneven'}\n" for item in range(38)
    ]
    write(
        work / "datasets/shop/items.csv",
        "item_id,title,genres\n" + "".join(titles) + "i38,T38,unknown\n",
    )
    status, stdout, _ = run_study(
        "clusters", "--dataset", "shop", "--epochs", 60, "--dim", 8, "--batch_size", 64
    )
    assert status == 0
    table = pd.read_csv(work / "studies/clusters-shop/genres.csv")
    assert set(table["genre"]) == {"even", "odd", "uneven", "(mean)"}
    assert set(table["k"]) == {5, 10, 20}  # 38 items have a genre
    means = table[(table["genre"] == "(mean)") & (table["k"] == 10)].set_index("encodings")[
        "precision"
    ]
    assert means["before training"] < 0.9
    assert means["OneBP"] == means["TwoBP"] == 1
    assert "before training" in stdout
    assert is_png(work / "studies/clusters-shop/study.png")


def test_nearest_items_by_hand(monkeypatch):
    """By cosine to each genre's mean; equally near items in the order of their numbers.

    x's mean is (1, 1): 2, then 0 and 1 alike, 3, 4. y's is (1.5, 2.5): 2, 1, 0, 3, 4. z's order is
    3, 0, 2, 1, 4.
    """
    monkeypatch.setattr(genres, "NEAREST", (2, 3, 6))  # there are no 6
    encodings = np.array([[1.0, 0], [0, 2], [3, 3], [5, -1], [-1, 0]])
    member = pd.DataFrame(
        {"x": [1, 0, 1, 0, 1], "y": [0, 1, 1, 0, 0], "z": [0, 0, 0, 1, 0]}
    ).astype(bool)
    table = genres.nearest_items(encodings, member).set_index(["k", "genre"])[
        ["precision", "recall", "F1"]
    ]
    expected = {
        (2, "x"): (1, 2 / 3, 4 / 5),
        (2, "y"): (1, 1, 1),
        (2, "z"): (1 / 2, 1, 2 / 3),
        (2, "(mean)"): (5 / 6, 8 / 9, 37 / 45),
        (3, "x"): (2 / 3, 2 / 3, 2 / 3),
        (3, "y"): (2 / 3, 1, 4 / 5),
        (3, "z"): (1 / 3, 1, 1 / 2),
        (3, "(mean)"): (5 / 9, 8 / 9, 59 / 90),
    }
    assert list(table.index) == list(expected)
    np.testing.assert_allclose(table.to_numpy(), list(expected.values()))


def test_projection():
    """Points in a plane keep their distances; genres come by frequency, without the rare ones."""
    plane = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))[0]  # (5, 2)
    encodings = np.random.default_rng(1).normal(size=(40, 2)) @ plane.T
    names = pd.Series(
        [genre for number, genre in enumerate("gfedcba") for _ in range(number + 1)] + ["a"] * 12
    )
    points, shares = genres.project(encodings, names)
    assert "".join(points) == "abcdef"
    assert sum(shares) == pytest.approx(1)
    own = genres.directions(encodings[names == "a"])
    for found, expected in zip(points["a"][:-1] - points["a"][1:], own[:-1] - own[1:], strict=True):
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected))
