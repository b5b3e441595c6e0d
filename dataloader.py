"""Data sets: find the files, read them (or their cached copy), number users and items, split -> Interactions."""

import logging
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from cli.errors import UserError
from distributed.agreement import check_equal_on_ranks, raise_on_all_ranks
from regularizers.flags import TUNED
from sources import demo
from sources.arrays import find_arrays, load_arrays
from sources.cache import number_ids, read_cached
from sources.download import REGISTRY
from sources.folders import find_folder, find_sources
from sources.interactions import (
    SPLITS,
    Interactions,
    digest_of,
    pair_matrix,
    split_at_random,
    split_per_user,
)
from sources.share import own_share

log = logging.getLogger("onebp")


def load_interactions(args, ratings):
    """The interactions that the flags `args` name, with ratings or without; of several processes,
    this one's users. Raises UserError.
    """
    with raise_on_all_ranks():
        folder = find_arrays(args.dataset, Path(args.data_dir))
    check_equal_on_ranks({"a data set of arrays": folder is not None})
    if folder:
        with raise_on_all_ranks():
            check_flags_of_arrays(folder, args, ratings)
        data = load_arrays(folder, args.validates)
    else:
        with raise_on_all_ranks():
            data = load_dataset(
                args.dataset,
                args.data_dir,
                ratings=ratings,
                fold=args.fold,
                test_ratio=args.test_ratio,
                validate=args.validates,
                valid_ratio=args.valid_ratio,
                suggested=not args.given("valid_ratio"),
                split_seed=args.split_seed,
                download=not args.no_download,
            )
        check_equal_on_ranks({"data with digest": data.digest})
        data = own_share(data)
    if args.regularizer == "lambdaopt":
        return data.with_tuning_split(1 if args.select == "test" else TUNED, args.split_seed)
    return data.with_valid_in_train() if args.refit_epochs else data


def check_flags_of_arrays(folder, args, ratings):
    """Raise UserError for flags that do not apply to a data set of arrays."""
    for flag in ("fold", "test_ratio", "valid_ratio"):
        if args.given(flag):
            raise UserError(f"--{flag} does not apply: {folder} has its splits; leave the flag out")
    if ratings or args.regularizer == "lambdaopt":
        raise UserError(
            f"{folder} has no ratings and no split to tune on; "
            "take another --model and --regularizer"
        )


def load_dataset(
    name,
    data_dir,
    ratings=False,
    fold=None,
    test_ratio=None,
    validate=False,
    valid_ratio=None,
    suggested=False,
    split_seed=0,
    download=True,
):
    """Load the data set `name`: from `<data_dir>/<name>/`, downloaded there first if need be, or generated (`demo`).

    ratings: whether the ratings are wanted; they are split at random, interactions without ratings within each user.
    fold: number of the split `u<fold>.base` and `u<fold>.test` to take, as in MovieLens 100K. test_ratio: share that is
    tested (None: 0.1 of the ratings, 0.2 of each user's interactions), where the data set comes as one file. validate:
    whether a validation part is wanted; where no valid.* file is, it is the share valid_ratio
    (None: 0.1) of the training part. suggested: whether valid_ratio is no mistake beside a valid.* file. split_seed: of both random splits. download: whether it may be fetched. Raises
    UserError for everything that is wrong with the name or the files, and for a valid_ratio beside a valid.* file.
    """
    if name == "demo":
        if fold:
            raise UserError("--fold does not apply: demo has no folds; leave the flag out")
        sources = {"interactions": "demo"}
        user_ids, item_ids, pairs = number_ids({"interactions": demo.demo_interactions()})
    else:
        folder = find_folder(name, Path(data_dir))
        name = folder.name
        sources = find_sources(name, folder, download, fold)
        user_ids, item_ids, pairs = read_cached(folder, sources)
    shape = (len(user_ids), len(item_ids))
    parts = dict.fromkeys(SPLITS, csr_array(shape, dtype=np.float32 if ratings else np.int8))
    for part, (users, items, values) in pairs.items():
        if ratings and values is None:
            raise UserError(
                f"{sources[part]} has no ratings; name its column of them rating, or take another --model"
            )
        parts[part] = pair_matrix(users, items, values if ratings else None, shape)
        if ratings and (repeated := len(users) - parts[part].nnz):
            log.warning(
                "warning: %s: %d ratings are replaced by later ones of their pairs",
                sources[part],
                repeated,
            )
    random = np.random.default_rng(split_seed)
    split = split_at_random if ratings else split_per_user
    if "interactions" in sources:
        share = (0.1 if ratings else 0.2) if test_ratio is None else test_ratio
        parts["train"], parts["test"] = split(parts.pop("interactions"), share, random)
    elif test_ratio is not None:
        raise UserError(
            f"--test_ratio does not apply: {sources['test']} is the test part; leave the flag out"
        )
    _check_disjoint(user_ids, item_ids, parts, sources)
    if name in REGISTRY:
        _check_published(name, shape, parts)
    if validate and "valid" not in sources:
        share = valid_ratio or 0.1
        parts["train"], parts["valid"] = split(parts["train"], share, random)
    elif valid_ratio is not None and "valid" in sources and not suggested:
        raise UserError(
            f"--valid_ratio does not apply: {sources['valid']} is the validation part; leave the flag out"
        )
    for part in ("train", "valid", "test") if validate else ("train", "test"):
        if not parts[part].nnz:
            raise UserError(
                f"data set {name}: no {part} interaction; there are too few, or {part}.* is empty"
            )
    return Interactions(
        name, user_ids, item_ids, **parts, digest=digest_of(user_ids, item_ids, parts)
    )


def _check_disjoint(user_ids, item_ids, parts, sources):
    """Raise UserError, with the first pair, where two parts share one: it would be tested after it was trained."""
    for first, second in combinations(SPLITS, 2):
        shared = _ones(parts[first]).multiply(_ones(parts[second])).tocoo()
        if shared.nnz:
            user, item = user_ids[shared.coords[0][0]], item_ids[shared.coords[1][0]]
            more = f" (and {shared.nnz - 1} more)" if shared.nnz > 1 else ""
            files = f"{sources[first]} and {sources[second]}"
            raise UserError(
                f"user {user!r} with item {item!r}{more} is in both {files}; keep each pair in one of them"
            )


def _ones(matrix):
    """The same entries, all of them 1."""
    return csr_array((np.ones(matrix.nnz, np.int8), matrix.indices, matrix.indptr), matrix.shape)


def _check_published(name, shape, parts):
    """Warn where a named data set is not the published one: results would be compared with other data's."""
    sizes = {part: matrix.nnz for part, matrix in parts.items()}
    found = (
        dict(zip(("users", "items"), shape, strict=True))
        | sizes
        | {"interactions": sum(sizes.values())}
    )
    published = REGISTRY[name].counts
    found = {what: found[what] for what in published}
    if found != published:
        as_text = [
            ", ".join(f"{number} {what}" for what, number in counts.items())
            for counts in (found, published)
        ]
        log.warning(
            "warning: %s has %s; published: %s. Remove its files to download it", name, *as_text
        )
