"""A data set by name -> Interactions: find its files, read, number, split, and share them out."""

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
    """Load the data set `name` from <data_dir>/<name>/, fetched first if need be; or make `demo`.

    ratings: whether to keep the ratings, and split them at random. Without them, each user's
        interactions are split at random.
    fold: take the split u<fold>.base and u<fold>.test, as in MovieLens 100K
    test_ratio: share to test on, if the data set is one file; None: 0.1 of ratings, 0.2 of each
        user's interactions
    validate: whether a validation split is wanted. Without a valid.* file, it is a share of the
        training split.
    valid_ratio: that share; None: 0.1
    suggested: whether valid_ratio is only a suggestion, which a valid.* file overrules
    split_seed: of both random splits
    download: whether the data set may be fetched

    Returns Interactions. Raises UserError for anything wrong with the name, the files, the ratios.
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
    splits = _matrices(pairs, shape, ratings, sources)

    # The test split.
    random = np.random.default_rng(split_seed)
    split = split_at_random if ratings else split_per_user
    if "interactions" in sources:
        ratio = (0.1 if ratings else 0.2) if test_ratio is None else test_ratio
        splits["train"], splits["test"] = split(splits.pop("interactions"), ratio, random)
    elif test_ratio is not None:
        what = f"{sources['test']} is the test split"
        raise UserError(f"--test_ratio does not apply: {what}; leave the flag out")
    _check_disjoint(user_ids, item_ids, splits, sources)
    if name in REGISTRY:
        _check_published(name, shape, splits)

    # The validation split.
    if validate and "valid" not in sources:
        splits["train"], splits["valid"] = split(splits["train"], valid_ratio or 0.1, random)
    elif valid_ratio is not None and "valid" in sources and not suggested:
        what = f"{sources['valid']} is the validation split"
        raise UserError(f"--valid_ratio does not apply: {what}; leave the flag out")
    for wanted in ("train", "valid", "test") if validate else ("train", "test"):
        if not splits[wanted].nnz:
            why = f"there are too few, or {wanted}.* is empty"
            raise UserError(f"data set {name}: no {wanted} interaction; {why}")
    digest = digest_of(user_ids, item_ids, splits)
    return Interactions(name, user_ids, item_ids, **splits, digest=digest)


def _matrices(pairs, shape, ratings, sources):
    """{split: (users, items, ratings or None)} -> {split: csr_array (U, I)}, absent ones empty."""
    empty = csr_array(shape, dtype=np.float32 if ratings else np.int8)
    splits = dict.fromkeys(SPLITS, empty)
    for name, (users, items, values) in pairs.items():
        if ratings and values is None:
            raise UserError(
                f"{sources[name]} has no ratings; name its column of them rating, "
                "or take another --model"
            )
        splits[name] = pair_matrix(users, items, values if ratings else None, shape)
        if ratings and (repeated := len(users) - splits[name].nnz):
            text = "warning: %s: %d ratings are replaced by later ones of their pairs"
            log.warning(text, sources[name], repeated)
    return splits


def _check_disjoint(user_ids, item_ids, splits, sources):
    """Raise UserError, with the first pair, if two splits share one."""
    for first, second in combinations(SPLITS, 2):
        shared = _ones(splits[first]).multiply(_ones(splits[second])).tocoo()
        if shared.nnz:
            user, item = user_ids[shared.coords[0][0]], item_ids[shared.coords[1][0]]
            more = f" (and {shared.nnz - 1} more)" if shared.nnz > 1 else ""
            files = f"{sources[first]} and {sources[second]}"
            raise UserError(
                f"user {user!r} with item {item!r}{more} is in both {files}; "
                "keep each pair in one of them"
            )


def _ones(matrix):
    """The same entries, all of them 1."""
    return csr_array((np.ones(matrix.nnz, np.int8), matrix.indices, matrix.indptr), matrix.shape)


def _check_published(name, shape, splits):
    """Warn if a named data set differs from the published one: its results would not compare."""
    sizes = {split: matrix.nnz for split, matrix in splits.items()}
    users, items = shape
    found = {"users": users, "items": items, **sizes, "interactions": sum(sizes.values())}
    published = REGISTRY[name].counts
    found = {what: found[what] for what in published}
    if found != published:
        here, there = (
            ", ".join(f"{number} {what}" for what, number in counts.items())
            for counts in (found, published)
        )
        text = "warning: %s has %s; published: %s. Remove its files to download it"
        log.warning(text, name, here, there)
