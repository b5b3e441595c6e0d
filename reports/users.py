"""What a run leaves of each user, and of groups of users and items: users.parquet, groups.png."""

from reports import names
from reports.figures import Groups, save_figure
from utils import atomic_file


def write_users(folder, users, groups):
    """Write users.parquet and groups.png into a folder, each whole or not at all.

    users: table with the columns user, interactions and metrics, a row per evaluated user
    groups: {"users": table, "items": table}, see engine.metrics.found.Found.tables

    Returns the paths.
    """
    import pyarrow as pa
    from pyarrow import parquet

    own = [("user", pa.string()), ("interactions", pa.int64())]
    schema = pa.schema(own + [(name, pa.float64()) for name in users.columns[len(own) :]])
    table = pa.Table.from_pandas(users, schema, preserve_index=False)
    with atomic_file(folder / names.USERS) as file:
        parquet.write_table(table, file, compression="zstd")
    panels = [
        Groups(
            table["interactions"].tolist(),
            table.select_dtypes("float64"),
            f"{what}, by interactions in training",
        )
        for what, table in groups.items()
    ]
    save_figure(folder / names.GROUPS, folder.name, panels)
    return [folder / names.USERS, folder / names.GROUPS]


def describe_groups(groups):
    """Lines with the tables of groups, aligned. groups: see `write_users`"""
    texts = [
        f"Five groups of {what}, by interactions in training:\n\n"
        + table.to_string(index=False, float_format="%.4f", na_rep="-")
        for what, table in groups.items()
    ]
    return "\n\n".join(texts)
