"""Load click data by name: rows in the order of time, read from an encoded copy on disk.

Shapes: n rows, W ids of a row, F fields, m rows of a block, B batch.
"""

import hashlib
import json
import logging
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from cli import launch
from cli.errors import UserError
from distributed import collectives
from distributed.agreement import check_equal_on_ranks, raise_on_all_ranks
from distributed.group import wait_for_all
from families.clicks.cache import encode
from families.clicks.columns import Columns
from families.clicks.encoded import EncodedRows, open_copy
from families.clicks.formats import find_clicks
from sources.columns import wanted_of
from sources.files import digest_of_file
from sources.readers import WANTED
from utils import temporary_folder

log = logging.getLogger("onebp")


def load_click_data(args):
    """Load the click data set that the flags `args` name, as Clicks.

    The first process of each machine makes the encoded copy, which the others then read.
    """
    data = None
    with raise_on_all_ranks(), wait_for_all():
        if launch.local_rank() == 0:
            data = load_alone(args)
    with raise_on_all_ranks(), wait_for_all():
        data = data or load_alone(args)
    check_equal_on_ranks({"data with digest": data.digest})
    return data


def load_alone(args):
    """Load the data set in this process alone, see load_clicks."""
    return load_clicks(
        args.dataset,
        args.data_dir,
        threshold=args.threshold,
        columns=Columns(args.label, args.label_above, args.categorical, args.numeric),
        validate=args.validates,
        valid_ratio=args.valid_ratio,
        suggested=not args.given("valid_ratio"),
        test_ratio=args.test_ratio,
        skip_bad_lines=args.skip_bad_lines,
        download=not args.no_download,
        wanted=wanted_of(args),
        verify=args.verify_data,
    )


ENCODED_FORMAT = 4
READ_ROWS = 1 << 14  # rows read at a time
COLUMNS = Columns()


@dataclass(frozen=True)
class Clicks:
    """A click data set in the order of time: each row has a label and an id of each field.

    fields: names of the fields
    histories: {name of a history: the field whose ids it has}, see histories.py
    sizes: number of ids of each field
    splits: {"train", "valid", "test": (first row, row after the last)}; valid may be empty
    encoded: the rows of the encoded copy
    has_users: whether each row's user is known
    digest: of ids, labels, users and splits
    clicks: fraction of clicks in the training split
    skipped: number of broken lines that were left out
    protocol: {topic: line} on how the splits were made, for summary.json

    Each field has its own range of ids: a field's ids begin where those of the field before end. A
    field's first id stands for all values out of its vocabulary. A row has W ids: one of each field
    and histories.LENGTH of each history, of which `padding` stands for no value.
    """

    name: str
    fields: list[str]
    histories: dict[str, str]
    sizes: list[int]
    splits: dict
    encoded: EncodedRows
    has_users: bool
    digest: str
    clicks: float
    skipped: int
    protocol: dict

    @property
    def offsets(self):
        """First id of each field (F,)."""
        return np.cumsum([0, *self.sizes[:-1]])

    @property
    def padding(self):
        """The id of no value: the one after all others."""
        return sum(self.sizes)

    @property
    def width(self):
        """W, ids of a row."""
        return self.encoded.widths["codes"]

    def counts(self):
        """Return {name: count} of rows, fields, values, and the rows of each split."""
        rows = {split: stop - start for split, (start, stop) in self.splits.items()}
        return {
            "rows": sum(rows.values()),
            "fields": len(self.fields) + len(self.histories),
            "values": sum(self.sizes),
            **rows,
        }

    def describe(self):
        """Return one line with the counts, the fraction of clicks, and the digest."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts().items())
        left_out = f", {self.skipped:,} broken lines left out" if self.skipped else ""
        about_clicks = f"(clicks in training: {self.clicks:.1%}{left_out})"
        return f"{self.name}: {counts} {about_clicks}, digest {self.digest[:12]}"

    def rows(self, start, stop):
        """Read the rows from `start` to before `stop` into memory.

        Returns ids (m, W) int32 and labels (m,) uint8.
        """
        return self.encoded.read("codes", start, stop), self.labels(start, stop)

    def labels(self, start, stop):
        """Read the labels of rows: (m,) uint8."""
        return self.encoded.read("labels", start, stop)[:, 0]

    def rows_at(self, numbers):
        """Read single rows into memory. numbers (m,): in ascending order, to read the disk in order

        Returns ids (m, W) int32 and labels (m,) uint8.
        """
        return self.encoded.take("codes", numbers), self.encoded.take("labels", numbers)[:, 0]

    def users(self, start, stop):
        """Read the users of rows: (m,) int64, equal for rows of the same user."""
        return self.encoded.read("users", start, stop)[:, 0]


class RowRange:
    """Consecutive rows of a click data set, read by blocks onto a device."""

    def __init__(self, data, start, stop, device):
        """Take the rows from `start` to before `stop` of `data`, a Clicks."""
        self.data, self.start, self.stop, self.device = data, start, stop, device

    def __len__(self):
        return self.stop - self.start

    def own_blocks(self):
        """Yield this rank's portion of each block, perhaps without a row, see `blocks`."""
        return self.blocks(collectives.rank(), collectives.world_size())

    def blocks(self, rank=0, ranks=1):
        """Yield (ids (m, W) int64, labels (m,) float32): portion `rank` of `ranks` of each block.

        The portions follow each other, so rows keep their order if the ranks' are concatenated.
        """
        for start in range(self.start, self.stop, READ_ROWS):
            size = min(READ_ROWS, self.stop - start)
            own = (start + size * number // ranks for number in (rank, rank + 1))
            ids, labels = self.data.rows(*own)
            yield (
                torch.from_numpy(ids).to(self.device).long(),
                torch.from_numpy(labels).to(self.device).float(),
            )

    def labels(self):
        """Return the labels (n,) float32."""
        return torch.from_numpy(self.data.labels(self.start, self.stop)).to(self.device).float()

    def users(self):
        """Return the users (n,) int64, or None if they are not known."""
        users = self.data.users(self.start, self.stop) if self.data.has_users else None
        return None if users is None else torch.from_numpy(users).to(self.device)

    def divide(self, count):
        """Cut into `count` RowRanges, whose lengths differ by one at most."""
        edges = [self.start + len(self) * number // count for number in range(count + 1)]
        return [RowRange(self.data, *span, self.device) for span in pairwise(edges)]


def load_clicks(
    name,
    data_dir,
    threshold=1,
    columns=COLUMNS,
    validate=True,
    valid_ratio=None,
    suggested=False,
    test_ratio=None,
    skip_bad_lines=False,
    download=True,
    wanted=WANTED,
    verify=False,
):
    """Load a click data set: its encoded copy, which is made first if there is none.

    name: data set
    data_dir: folder of all data sets
    threshold: a value that occurs less often in the training split gets no id of its own
    columns (Columns): the columns of a table
    validate: whether a validation split is wanted. Without a valid.* file, it is taken from the end
        of what is trained on.
    valid_ratio: its fraction of all rows or, with a test.* file, of the training rows; None: 0.1
    suggested: whether valid_ratio is only a suggestion, which a valid.* file overrules
    test_ratio: fraction of all rows in the test split, the latest ones; None: 0.1
    skip_bad_lines: whether to leave out broken lines, with a warning, instead of failing
    download: whether the data set may be downloaded
    wanted (Wanted): how files are read
    verify: whether to check all of the copy at once, see encoded.open_copy

    Returns Clicks; the log says how each file is read. Raises UserError for an unknown name, wrong
    columns and broken files.

    The copy lies in the folder .cache beside the files. There is one for each combination of the
    files' content and these settings.
    """
    found = find_clicks(name, Path(data_dir), columns, wanted, download, skip_bad_lines)
    for line in found.about:
        log.info("%s", line)
    name, folder, source = found.name, found.folder, found.source
    _check_ratios(source.splits, found.files, test_ratio, None if suggested else valid_ratio)
    ratios = {"valid": (valid_ratio or 0.1) if validate else 0, "test": test_ratio or 0.1}

    # Name the copy by a hash of what determines it. Data that are generated have no folder.
    cache_folder = None
    if folder:
        files = [(what, path.name, digest_of_file(path)) for what, path in found.files.items()]
        chosen = [source.label, source.above, source.fields, source.numeric, source.user]
        settings = [ENCODED_FORMAT, name, files, threshold, ratios, skip_bad_lines]
        settings += [chosen, wanted.format, wanted.separator]
        settings += [source.histories] if source.histories else []
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        cache_folder = folder / ".cache" / f"{name}.{key[:16]}"

    encoded = open_copy(cache_folder, verify) if cache_folder else None
    if encoded is None:
        # Use a temporary folder, removed at exit, if the copy cannot be kept.
        if cache_folder is None or not _can_keep(cache_folder):
            cache_folder = temporary_folder("clicks") / name
        listed = ", ".join(path.name for path in found.files.values())
        said = f"{name} ({listed})" if listed else name
        encode(source, cache_folder, said, threshold, ratios)
        encoded = EncodedRows(cache_folder)
    metadata = encoded.metadata
    for file, (count, first) in metadata["skipped_of"].items():
        text = "warning: %s: %d broken lines are left out, line %d first"
        log.warning(text, folder / file, count, first)
    for column, first in metadata["latin_of"].items():
        text = "warning: values of %s are not UTF-8; they are read as Latin-1, for example %s"
        log.warning(text, column, first)
    unordered = [
        f"{folder / file}: {count:,} of {rows:,} rows are earlier by {column!r} than the row "
        f"before them, {first} first"
        for file, (count, rows, column, first) in metadata["unordered_of"].items()
    ]
    for line in unordered:
        log.warning("warning: %s; the file's order is taken for time: sort it by this column", line)
    return Clicks(
        name=name,
        fields=metadata["fields"],
        histories=metadata.get("histories", {}),
        sizes=metadata["sizes"],
        splits={split: tuple(span) for split, span in metadata["parts"].items()},
        encoded=encoded,
        has_users=metadata["has_users"],
        digest=metadata["digest"],
        clicks=metadata["clicks"],
        skipped=sum(count for count, _ in metadata["skipped_of"].values()),
        protocol=_protocol(found.files, "test" in source.splits, unordered),
    )


def _check_ratios(splits, files, test_ratio, valid_ratio):
    """Raise UserError if a ratio is given for a split that has its own file.

    splits: names of the splits of files
    files: {split: path}
    test_ratio, valid_ratio: None if not given
    """
    ratios = {"test": ("test", test_ratio), "valid": ("validation", valid_ratio)}
    for split, (word, ratio) in ratios.items():
        if split in splits and ratio is not None:
            what = f"{files[split]} is the {word} split"
            raise UserError(f"--{split}_ratio does not apply: {what}; leave the flag out")


def _protocol(files, split, unordered):
    """How the splits were made, for summary.json.

    files: {split, or what it holds: path}
    split: whether the files are the splits
    unordered: lines on files that are not in the order of time
    """
    order = {"not in the order of time": "; ".join(unordered)} if unordered else {}
    if not split:
        return order
    names = ", ".join(path.name for path in files.values())
    taken = "" if "valid" in files else "; a validation split is the end of the training rows"
    return {"split": f"by files: {names}{taken}"} | order


def _can_keep(cache_folder):
    """Whether an encoded copy can be written there; if not, warn."""
    try:
        cache_folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_folder.parent):
            return True
    except OSError as error:
        log.warning(
            "warning: no encoded copy kept in %s (%s): the next start makes one again",
            cache_folder.parent,
            error.strerror,
        )
        return False
