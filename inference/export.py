"""--mode export: write the encodings as NumPy arrays, whose inner products are the scores."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from inference.cold import encodings_in_use
from utils import atomic_file

log = logging.getLogger("onebp")


def export(model, data, args, strengths):
    """Write users.npy, items.npy, ids.csv and README.md into the folder --output.

    model: with the weights to export
    data: Interactions
    args: flags; uses output
    strengths: {"user" or "item": learned L2 strengths}, may be empty; written as
        <kind>_strengths.npy
    """
    folder = Path(args.output)
    tables = dict(zip(("users", "items"), encodings_in_use(model), strict=True))
    tables |= {f"{kind}_strengths": table for kind, table in strengths.items()}
    folder.mkdir(parents=True, exist_ok=True)

    # Remove the strengths that an earlier export of another model left in the folder.
    for kind in {"user", "item"} - strengths.keys():
        (folder / f"{kind}_strengths.npy").unlink(missing_ok=True)

    for name, table in tables.items():
        with atomic_file(folder / f"{name}.npy") as file:
            np.save(file, table.cpu().numpy().astype(np.float32), allow_pickle=False)

    # ids.csv: the id of each row, of the users first, then of the items.
    kinds = np.repeat(["user", "item"], data.shape)
    rows = np.concatenate([np.arange(size) for size in data.shape])
    ids = pd.DataFrame({"kind": kinds, "row": rows, "id": data.user_ids + data.item_ids})
    with atomic_file(folder / "ids.csv", "w", newline="", encoding="utf-8") as file:
        ids.to_csv(file, index=False)

    with atomic_file(folder / "README.md", "w", encoding="utf-8") as file:
        file.write(EXPORT_README)
    log.info("encodings of %d users and %d items in %s", *data.shape, folder)


EXPORT_README = """\
Rows of users.npy and items.npy are encodings, their inner products the scores; \
ids.csv says whose each row is (without training interactions: the mean user's).
Where lambdaOpt learned L2 strengths, those of the same rows are in user_strengths.npy \
and item_strengths.npy.

    import faiss, numpy  # pip install faiss-cpu
    users, items = (numpy.load(f"{name}.npy", allow_pickle=False) for name in ("users", "items"))
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    scores, rows = index.search(users[:5], 10)  # the ten best items of the first five users, \
seen ones included
"""
