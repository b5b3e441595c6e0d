"""--mode split: write the splits of a data set for other programs, as CSV and as LightGCN has them.

Shapes: U users, I items, n interactions of a split.
"""

import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from cli.errors import UserError
from sources.interactions import SPLITS
from utils import atomic_folder

log = logging.getLogger("onebp")


def write_splits(data, folder):
    """Write the splits of Interactions that are not empty.

    csv/<split>.csv: user,item with the ids of the user's files; and rating, if they are kept
    lightgcn/<split>.txt: a line for each user with interactions, of the user's number and those of
        the user's items; user_list.txt and item_list.txt: id and number

    folder (Path): is made. Raises UserError if it exists.
    """
    if folder.exists():
        raise UserError(f"--output {folder} exists: name a folder that does not, or remove it")
    splits = {split: getattr(data, split) for split in SPLITS if getattr(data, split).nnz}
    ids = {"user": pa.array(data.user_ids), "item": pa.array(data.item_ids)}
    with atomic_folder(folder) as made:
        (made / "csv").mkdir()
        (made / "lightgcn").mkdir()
        for split, matrix in splits.items():
            csv.write_csv(table_of(matrix, ids), made / "csv" / f"{split}.csv")
            (made / "lightgcn" / f"{split}.txt").write_bytes(lines_of(matrix))
        for kind, column in ids.items():
            table = pd.DataFrame({"org_id": column, "remap_id": np.arange(len(column))})
            table.to_csv(made / "lightgcn" / f"{kind}_list.txt", sep=" ", index=False)
    log.info(
        "%s\n\nsplits       %s in %s/csv and %s/lightgcn",
        data.describe(),
        ", ".join(splits),
        folder,
        folder,
    )


def table_of(matrix, ids):
    """pyarrow table of the interactions of csr_array (U, I), by user and then by item.

    ids: {"user": array (U,), "item": array (I,)} of texts
    """
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))  # (n,)
    columns = {
        "user": ids["user"].take(pa.array(rows)),
        "item": ids["item"].take(pa.array(matrix.indices)),
    }
    if matrix.dtype == np.float32:
        columns["rating"] = pa.array(matrix.data)
    return pa.table(columns)


def lines_of(matrix):
    """The lines of a split in LightGCN's format, bytes: users without interactions have none."""
    users = np.flatnonzero(np.diff(matrix.indptr))
    begins = pa.array(matrix.indptr[[*users, matrix.shape[0]]].astype(np.int64))
    items = pa.LargeListArray.from_arrays(begins, pa.array(matrix.indices).cast(pa.string()))
    joined = pc.binary_join(items, " ")
    lines = pc.binary_join_element_wise(pa.array(users).cast(pa.string()), joined, " ")
    return "".join(f"{line}\n" for line in lines.to_pylist()).encode()
