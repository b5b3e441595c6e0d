"""Click data by name -> Clicks: rows in the order of time, split by it; what is read is an encoded copy on disk.

Shapes: n rows, F fields, m rows of a block.
"""

import atexit
import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from families.clicks.cache import encode, map_rows, read_metadata
from families.clicks.formats import find_clicks
from families.clicks.reader import ClickLog
from sampler import Batches

log = logging.getLogger("onebp")


def load_click_data(args):
    """Like load_data, for models of clicks."""
    pass

    data = load_clicks(
        args.dataset,
        args.data_dir,
        threshold=args.threshold,
        label=args.label,
        categorical=args.categorical,
        numeric=args.numeric,
        validate=args.validates,
        valid_ratio=args.valid_ratio,
        test_ratio=args.test_ratio,
        skip_bad_lines=args.skip_bad_lines,
        download=not args.no_download,
    )
    return data


POOL, PIECE = 1 << 20, 1 << 14  # rows of clicks in memory; of them, read at a time


class ImpressionBatches(Batches):
    """Batches of click data: every row of a part is in one of them. The rows of large data stay on disk.

    Rows are shuffled in pools of at most POOL, of pieces of PIECE rows from random places.
    """

    def __init__(self, data, span, args, generator):
        """data: clicks.Clicks; span: (first row, row after the last) of the part; generator: see Sampler."""
        self.data, self.generator, self.batch_size = data, generator, args.batch_size
        self.pieces = [(start, min(start + PIECE, span[1])) for start in range(*span, PIECE)]
        self.size = span[1] - span[0]

    def epoch(self):
        """Yield (ids (B, F), labels (B,)) until every row was in one batch."""
        device = self.generator.device
        order = torch.randperm(len(self.pieces), device=device, generator=self.generator).tolist()
        rest = None
        for pool in range(0, len(order), POOL // PIECE):
            read = [
                self.data.rows(*self.pieces[number])
                for number in order[pool : pool + POOL // PIECE]
            ]
            ids, labels = (
                torch.from_numpy(np.concatenate(column)).to(device)
                for column in zip(*read, strict=True)
            )
            shuffled = torch.randperm(len(ids), device=device, generator=self.generator)
            rows = ids[shuffled], labels[shuffled]
            if rest is not None:
                rows = tuple(torch.cat(parts) for parts in zip(rest, rows, strict=True))
            last = pool + POOL // PIECE >= len(order)
            whole = len(rows[0]) if last else len(rows[0]) - len(rows[0]) % self.batch_size
            rest = tuple(column[whole:] for column in rows)
            for start in range(0, whole, self.batch_size):
                ids, labels = (column[start : start + self.batch_size] for column in rows)
                yield ids.long(), labels.float()


ENCODED_FORMAT = 1
READ_ROWS = 1 << 14  # at a time


@dataclass(frozen=True)
class Clicks:
    """A click data set, in the order of time: of every row the label, and of every field an id.

    fields: their names. sizes: how many ids each has; the ids are numbered through over all fields, and the first of a
    field is for whatever is out of its vocabulary. parts: {"train", "valid", "test": (first row, row after the last)},
    which follow each other; valid may be empty. folder: where the copy is. has_users: whether each row's user is known.
    digest: of ids, labels, users and parts. clicks: the share of the training rows that are clicks. skipped: how many
    broken lines were left out.
    """

    name: str
    fields: list[str]
    sizes: list[int]
    parts: dict
    folder: Path
    has_users: bool
    digest: str
    clicks: float
    skipped: int

    @property
    def offsets(self):
        """(F,) the first id of each field."""
        return np.cumsum([0, *self.sizes[:-1]])

    def counts(self):
        """Rows, fields, values, and rows of each part, by name."""
        rows = {part: stop - start for part, (start, stop) in self.parts.items()}
        return {
            "rows": sum(rows.values()),
            "fields": len(self.fields),
            "values": sum(self.sizes),
            **rows,
        }

    def describe(self):
        """One line with the counts, the share of clicks, and the digest."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts().items())
        left_out = f", {self.skipped:,} broken lines left out" if self.skipped else ""
        return f"{self.name}: {counts} (clicks: {self.clicks:.1%}{left_out}), digest {self.digest[:12]}"

    def rows(self, start, stop):
        """Ids (m, F) int32 and labels (m,) uint8 of the rows from `start` to before `stop`: copies in memory."""
        return self._read("codes", start, stop, len(self.fields)), self._read(
            "labels", start, stop, 1
        )[:, 0]

    def users(self, start, stop):
        """(m,) int64, equal for rows of the same user."""
        return self._read("users", start, stop, 1)[:, 0]

    def _read(self, name, start, stop, width):
        return np.array(map_rows(self.folder, name, start, stop, width))


class RowRange:
    """Rows of a data set that follow each other, read by blocks onto a device."""

    def __init__(self, data, start, stop, device):
        """data: Clicks; from row `start` to before row `stop`."""
        self.data, self.start, self.stop, self.device = data, start, stop, device

    def __len__(self):
        return self.stop - self.start

    def blocks(self):
        """Yield (ids (m, F) int64, labels (m,) float32)."""
        for start in range(self.start, self.stop, READ_ROWS):
            ids, labels = self.data.rows(start, min(start + READ_ROWS, self.stop))
            yield (
                torch.from_numpy(ids).to(self.device).long(),
                torch.from_numpy(labels).to(self.device).float(),
            )

    def labels(self):
        """(n,) float32."""
        return torch.cat([labels for _, labels in self.blocks()])

    def users(self):
        """(n,) int64, or None where they are not known."""
        users = self.data.users(self.start, self.stop) if self.data.has_users else None
        return None if users is None else torch.from_numpy(users).to(self.device)

    def parts(self, count):
        """`count` Rows that follow each other, of sizes that differ by one at most."""
        edges = [self.start + len(self) * number // count for number in range(count + 1)]
        return [RowRange(self.data, *edge, self.device) for edge in pairwise(edges)]


def load_clicks(
    name,
    data_dir,
    threshold=1,
    label=None,
    categorical=None,
    numeric=None,
    validate=True,
    valid_ratio=None,
    test_ratio=None,
    skip_bad_lines=False,
    download=True,
):
    """Load the click data set `name`: its encoded copy, made first where there is none.

    threshold: values that the training part has fewer times share an id with those that it has not. label, categorical,
    numeric: columns of a table with a header (None: see clicksources). validate: whether a validation part is wanted.
    valid_ratio, test_ratio: shares of all rows, the latest of which are tested (None: 0.1). skip_bad_lines: whether
    broken lines are left out. download: whether a data set may be fetched. Raises UserError for everything that is
    wrong with the name or the files.

    A copy is of the files (by name, size and time of change) and of these settings; it lies in `.cache` beside them.
    """
    name, folder, files, source = find_clicks(
        name, Path(data_dir), label, categorical, numeric, download
    )
    if isinstance(source, ClickLog):
        source.skip = skip_bad_lines
    shares = {"valid": (valid_ratio or 0.1) if validate else 0, "test": test_ratio or 0.1}
    copy = None
    if folder:
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        columns = [
            source.fields,
            *(str(getattr(source, column, "")) for column in ("label", "user")),
        ]
        columns.append(sorted(getattr(source, "numeric", ())))
        settings = [ENCODED_FORMAT, name, stats, threshold, shares, skip_bad_lines, columns]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        copy = folder / ".cache" / f"{name}.{key[:16]}"
    if copy is None or not _writable(copy):
        copy = Path(tempfile.mkdtemp(prefix="clicks-")) / name
        atexit.register(shutil.rmtree, copy.parent, ignore_errors=True)
    about = read_metadata(copy) or encode(source, copy, name, threshold, shares)
    if about["skipped"]:
        log.warning(
            "warning: %s: %d broken lines are left out, line %d first", files[0], *about["skipped"]
        )
    parts = {part: tuple(span) for part, span in about.pop("parts").items()}
    return Clicks(
        name=name, folder=copy, parts=parts, **{**about, "skipped": (about["skipped"] or [0])[0]}
    )


def _writable(copy):
    """Whether an encoded copy is there or can be made; else a line says what happens instead."""
    if read_metadata(copy):
        return True
    try:
        copy.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=copy.parent):
            return True
    except OSError as error:
        reason = f"no encoded copy kept in {copy.parent} ({error.strerror})"
        log.warning("warning: %s: the next start makes one again", reason)
        return False
