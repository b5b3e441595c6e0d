"""Data sets of ReLoop2's paper, as BARS publishes them: AmazonElectronics, MicroVideo, KuaiVideo.

Each is an archive at huggingface.co/datasets/reczoo with train.csv and test.csv. The columns, and
which of them are used, are those of BARS's runs of DCNv2 (feature_cols in
github.com/reczoo/BARS/tree/main/ranking/ctr/DCNv2/DCNv2_<data set>/README.md). The scripts that
made the files of the first and the last are at github.com/reczoo/Datasets.
"""

from dataclasses import dataclass, replace

from cli.errors import UserError
from families.clicks.columns import say
from families.clicks.reader import ClickLog
from sources.folders import find_files
from sources.formats import recognise_all

USER = "user_id"


@dataclass(frozen=True)
class Published:
    """The columns of a data set that are used, beside USER, for gAUC.

    label, fields, histories: see reader.ClickSource
    left_out: files with visual embeddings of items, which are not read
    """

    label: str
    fields: tuple
    histories: dict
    left_out: str = ""

    @property
    def columns(self):
        return [self.label, USER, *self.fields, *self.histories]


DATASETS = {
    "AmazonElectronics_x1": Published(
        "label",
        ("item_id", "cate_id"),
        {"item_history": "item_id", "cate_history": "cate_id"},
    ),
    "MicroVideo1.7M_x1": Published(
        "is_click",
        ("user_id", "item_id", "cate_id"),
        {"clicked_items": "item_id", "clicked_categories": "cate_id"},
        "item_image_emb_dim64.h5",
    ),
    "KuaiVideo_x1": Published(
        "is_click",
        ("user_id", "item_id"),
        {"pos_items": "item_id", "neg_items": "item_id"},
        "item_visual_emb_dim64.h5",
    ),
}


def find_published(name, folder, wanted, skip):
    """Find the files of a data set of DATASETS.

    name: a key of DATASETS
    folder (Path): of its files
    wanted (Wanted)
    skip: whether broken lines are left out

    Returns {split: path}, the ClickLog, and lines that say how each file is read. Raises UserError
    if there are no files, or if one lacks a column.
    """
    published = DATASETS[name]
    advice = f"unpack {name}.zip there: https://huggingface.co/datasets/reczoo/{name}"
    files = find_files(folder, ("clicks.*",), advice)
    layouts = recognise_all(list(files.values()), replace(wanted, header=True))
    for layout in layouts:
        if missing := [column for column in published.columns if column not in layout.names]:
            raise UserError(
                f"{layout.path} has no column {missing[0]!r}; {name} has "
                f"{', '.join(dict.fromkeys(published.columns))}"
            )
    source = ClickLog(
        dict(zip(files, layouts, strict=True)),
        published.label,
        list(published.fields),
        numeric=[],
        user=USER,
        skip=skip,
        histories=published.histories,
    )
    about = [say(layout, source) for layout in layouts]
    if published.left_out:
        about.append(
            f"{name}: the visual embeddings of items, {published.left_out}, are not used; items "
            "have embeddings that are trained"
        )
    return files, source, about
