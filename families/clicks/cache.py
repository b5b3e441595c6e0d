"""The encoded copy of click data: ids instead of values, in files that can be mapped into memory.

Shapes: n rows, F fields, H histories, W = F + H * LENGTH ids of a row, m rows of a block.
"""

import hashlib
import json
from contextlib import ExitStack

import numpy as np

from cli.errors import UserError
from families.clicks.encoded import TYPES, map_rows, write_metadata
from families.clicks.histories import columns_of
from utils import atomic_folder, progress_bar


def encode(source, cache_folder, name, threshold, ratios):
    """Write the encoded copy of a ClickSource; a crash leaves no incomplete copy.

    source: the click data
    cache_folder: folder to write
    name: data set, for messages
    threshold: a value that occurs less often in the train split gets no id of its own
    ratios: {"valid", "test": fraction of all rows to take for a split that the source lacks}

    about.json holds checksums, see encoded.py, and the metadata:
    fields: names of the fields
    sizes: number of ids of each field
    parts: {"train", "valid", "test": (first row, row after the last)}
    has_users: whether the user of each row is known
    clicks: fraction of clicks in the train split
    histories: ClickSource.histories, if there are any
    skipped: [number of broken lines left out, number of the first], or [] if there is none
    digest: sha256 of all this and of the files
    skipped_of, unordered_of, latin_of: ClickSource.skipped, .unordered and .latin

    Pass 1 reads the text once and writes each row as codes: for each field, the position of its
    value among the distinct values of its block, whose hashes are written beside. Pass 2 counts the
    values of the train split. Pass 3 replaces the codes by ids. Memory holds the distinct values,
    but never the rows. Raises UserError if the disk refuses.
    """
    try:
        with atomic_folder(cache_folder) as folder:
            blocks, rows = _write_blocks(source, folder)
            splits = _split_rows(name, rows, ratios)
            vocabularies, sizes = _number_values(
                folder, blocks, source, splits["train"][1], threshold
            )
            _replace_codes(folder, blocks, source, vocabularies, sizes)
            (folder / "values.bin").unlink()
            clicks = _check_labels(name, folder, splits, source.splits)

            # The digest depends on the names and the order of these keys.
            skipped = list(source.skipped.values())
            metadata = {
                "fields": source.fields,
                "sizes": sizes,
                "parts": splits,
                "has_users": source.user is not None,
                "clicks": clicks,
                "skipped": [sum(count for count, _ in skipped), skipped[0][1]] if skipped else [],
            }
            metadata |= {"histories": source.histories} if source.histories else {}
            metadata |= {"digest": _digest(folder, metadata), "skipped_of": source.skipped}
            metadata |= {"unordered_of": source.unordered, "latin_of": source.latin}
            write_metadata(folder, metadata)
    except OSError as error:
        raise UserError(
            f"cannot write {cache_folder} ({error.strerror}); make room there"
        ) from error


def _write_blocks(source, folder):
    """Write codes.bin, labels.bin, users.bin and values.bin, which holds the hashes of the values.

    Returns a list with (number of rows, [number of distinct values of each field and history]) per
    block, and {split of the source: number of rows}.
    """
    blocks, rows = [], dict.fromkeys(source.splits, 0)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(open(folder / f"{name}.bin", "wb"))
            for name in (*TYPES, "values")
        }
        for block in source.blocks():
            codes = np.column_stack(block.codes)  # F of (m,), H of (m, LENGTH) -> (m, W)
            codes.astype(TYPES["codes"]).tofile(files["codes"])
            block.labels.tofile(files["labels"])
            np.concatenate(block.values).astype("<u8").tofile(files["values"])
            if block.users is not None:
                block.users.astype(TYPES["users"]).tofile(files["users"])
            blocks.append((len(block.labels), [len(values) for values in block.values]))
            rows[block.split] += len(block.labels)
    return blocks, rows


def _split_rows(name, rows, ratios):
    """Split the rows by position: train first, then valid, the last ones are test.

    rows: {split of the source: number of rows}
    ratios: see encode

    Returns {split: (first row, row after the last)}. Raises UserError if a split would be empty.
    """
    # A split that the source lacks is taken from the end of what is trained on.
    whole = rows.get("interactions", rows.get("train"))
    sizes = {split: rows.get(split, round(whole * ratio)) for split, ratio in ratios.items()}
    train = whole - sum(size for split, size in sizes.items() if split not in rows)
    for split, size in {"train": train, **sizes}.items():
        if size < 1 and ratios.get(split) != 0:
            advice = "; lower --test_ratio or --valid_ratio" if split == "train" else ""
            raise UserError(
                f"data set {name}: {rows.get(split, whole)} rows are too few; none is left for the "
                f"{split} split{advice}"
            )
    valid_end = train + sizes["valid"]
    test_end = valid_end + sizes["test"]
    return {"train": (0, train), "valid": (train, valid_end), "test": (valid_end, test_end)}


def _each_block(folder, blocks, source, what, mode="r"):
    """Yield (first row, [codes (m, 1 or LENGTH)], [hashes]) per block, with a progress bar.

    The lists are of the fields and then of the histories. The codes are mapped from disk.
    """
    columns = columns_of(source.fields, source.histories)
    first_row = first_value = 0
    with progress_bar(what, len(blocks), "block") as bar:
        for rows, distinct in blocks:
            stop = first_row + rows
            codes = map_rows(folder, "codes", first_row, stop, columns[-1].stop, mode)
            hashes = np.fromfile(
                folder / "values.bin", "<u8", sum(distinct), offset=8 * first_value
            )
            codes = [codes[:, own] for own in columns]
            yield first_row, codes, np.split(hashes, np.cumsum(distinct)[:-1])
            first_row, first_value = stop, first_value + sum(distinct)
            bar.update()


def _number_values(folder, blocks, source, train_rows, threshold):
    """Give an id to each value that occurs `threshold` times or more in the train split.

    source: ClickSource
    train_rows: number of rows of the train split, which come first

    Returns a list with (hashes, sorted; their ids) per field, and a list with the number of ids per
    field. A field's ids begin with 1, for the most frequent value; 0 stands for all other values.
    The values of a field's histories have ids, too: of the counts of a column each, the largest
    counts, as in FuxiCTR's Tokenizer.merge_vocab.
    """
    # Count the values.
    owners = [*source.fields, *source.histories.values()]
    counters = [Counts() for _ in owners]
    for first_row, codes, hashes in _each_block(folder, blocks, source, "counting"):
        for counter, column, values in zip(counters, codes, hashes, strict=True):
            # Count NOTHING, too, as the first value, and leave it out.
            column = column[: max(0, train_rows - first_row)].ravel() + 1
            counter.add(values, np.bincount(column, minlength=len(values) + 1)[1:])
    totals = [counter.total() for counter in counters]

    # Number the frequent ones by falling count; equal counts by hash.
    vocabularies = []
    for field in source.fields:
        own = [total for total, owner in zip(totals, owners, strict=True) if owner == field]
        hashes, counts = _largest_counts(own)
        hashes, counts = hashes[counts >= threshold], counts[counts >= threshold]
        order = np.argsort(-counts, kind="stable")
        ids = np.empty(len(hashes), TYPES["codes"])
        ids[order] = np.arange(1, len(hashes) + 1)
        vocabularies.append((hashes, ids))
    return vocabularies, [len(ids) + 1 for _, ids in vocabularies]


def _largest_counts(totals):
    """The distinct hashes of several columns, sorted, and of each the largest of its counts.

    totals: [(hashes, counts)] of each column
    """
    if len(totals) == 1:
        return totals[0]
    hashes, counts = map(np.concatenate, zip(*totals, strict=True))
    hashes, place = np.unique(hashes, return_inverse=True)
    largest = np.zeros(len(hashes), np.int64)
    np.maximum.at(largest, place, counts)
    return hashes, largest


class Counts:
    """Number of occurrences of each hash, summed over blocks; memory grows with distinct hashes."""

    def __init__(self):
        self.hashes, self.counts = np.empty(0, np.uint64), np.empty(0, np.int64)
        self.pending, self.n_pending = [], 0

    def add(self, hashes, counts):
        """Add counts (n,) of distinct hashes (n,)."""
        self.pending.append((hashes[counts > 0], counts[counts > 0]))
        self.n_pending += len(hashes)
        # Merge rarely, so that all merges together cost no more than a few sorts.
        if self.n_pending > max(len(self.hashes), 1 << 18):
            self.total()

    def total(self):
        """Return (distinct hashes, sorted; their counts)."""
        hashes, counts = zip((self.hashes, self.counts), *self.pending, strict=True)
        self.hashes, position = np.unique(np.concatenate(hashes), return_inverse=True)
        counts = np.bincount(position, np.concatenate(counts), len(self.hashes))
        self.counts = counts.astype(np.int64)
        self.pending, self.n_pending = [], 0
        return self.hashes, self.counts


def _replace_codes(folder, blocks, source, vocabularies, sizes):
    """Rewrite codes.bin in place as ids.

    Each field has its own range of ids; its first id stands for values out of the vocabulary. The
    id after all of them, sum(sizes), stands where a history has fewer values.
    """
    owner = {name: number for number, name in enumerate(source.fields)}
    owners = [*owner.values(), *(owner[field] for field in source.histories.values())]
    offsets = np.cumsum([0, *sizes])
    for _, codes, hashes in _each_block(folder, blocks, source, "encoding", "r+"):
        for column, field, values in zip(codes, owners, hashes, strict=True):
            # Look up the id of each distinct value of the block, then of each row.
            known, ids = vocabularies[field]
            position = np.searchsorted(known, values).clip(max=max(len(known) - 1, 0))
            is_known = known[position] == values if len(known) else np.zeros(len(values), bool)
            id_of_code = np.full(len(values) + 1, offsets[field], TYPES["codes"])
            id_of_code[:-1][is_known] += ids[position[is_known]]
            id_of_code[-1] = offsets[-1]  # the code NOTHING is -1
            column[:] = id_of_code[column]


def _check_labels(name, folder, splits, own):
    """Return the fraction of clicks in the train split. own: names of the splits of files

    Raises UserError if the labels of a split are all equal.
    """
    click_rates = {}
    for split, (start, stop) in splits.items():
        if start < stop:
            rate = float(map_rows(folder, "labels", start, stop, 1).mean())
            if rate in (0, 1):
                made = split != "train" and split not in own
                wider = f" (a larger --{split}_ratio)" if made else ""
                raise UserError(
                    f"data set {name}: all {stop - start:,} labels of its {split} split are "
                    f"{rate:.0f}; AUC needs 0 and 1: see --label and --label_above, or take rows "
                    f"with both{wider}"
                )
            click_rates[split] = rate
    return click_rates["train"]


def _digest(folder, metadata):
    """Return the sha256 of the metadata and of the files."""
    digest = hashlib.sha256(json.dumps(metadata).encode())
    for name in TYPES:
        with open(folder / f"{name}.bin", "rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()
