"""A data set by name -> Interactions: find its files, read, filter, split, and share them out."""

import logging
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from cli.errors import UserError
from distributed.agreement import check_equal_on_ranks, raise_on_all_ranks
from regularizers.flags import TUNED
from sources import demo, filters
from sources.arrays import find_arrays, load_arrays
from sources.cache import parse, read_cached
from sources.columns import ROLES, wanted_of
from sources.download import REGISTRY
from sources.filters import DEFAULTS, Choice
from sources.folders import find_folder, find_sources
from sources.interactions import SPLITS, Details, Interactions, digest_of
from sources.numbering import warn_of_unknown
from sources.readers import WANTED
from sources.share import own_share
from sources.splits import Splitter

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
        data = load_arrays(
            folder,
            args.validates,
            Choice.of(args),
            args.test_ratio,
            args.valid_ratio,
            args.split_seed,
        )
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
                wanted=wanted_of(args),
                choice=Choice.of(args),
                details=args.mode == "describe",
            )
        check_equal_on_ranks({"data with digest": data.digest})
        data = own_share(data)
    if args.regularizer == "lambdaopt":
        return data.with_tuning_split(1 if args.select == "test" else TUNED, args.split_seed)
    return data.with_valid_in_train() if args.refit_epochs else data


def check_flags_of_arrays(folder, args, ratings):
    """Raise UserError for flags that do not apply to a data set of arrays."""
    own_splits = (folder / "test.indptr.npy").is_file()
    own_valid = (folder / "valid.indptr.npy").is_file()
    wrong = ["fold", "format", "separator", *(f"{role}_column" for role in ROLES)]
    wrong += vars(DEFAULTS).keys() - {"split", "test_last", "test_from"}
    wrong += ["test_ratio", "test_from"] if own_splits else []
    wrong += ["valid_ratio"] if own_valid else []
    wrong += ["split", "test_last"] if own_splits and (own_valid or not args.validates) else []
    for flag in wrong:
        if args.given(flag):
            what = "has its splits" if "ratio" in flag or "split" in flag else "holds arrays"
            raise UserError(f"--{flag} does not apply: {folder} {what}; leave the flag out")
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
    wanted=WANTED,
    choice=DEFAULTS,
    details=False,
):
    """Load the data set `name` from <data_dir>/<name>/, fetched first if need be; or make `demo`.

    ratings: whether to keep the ratings, and split them at random over all users. Without them,
        each user's interactions are split at random.
    fold: take the split u<fold>.base and u<fold>.test, as in MovieLens 100K
    test_ratio: share to test on, if the data set is one file; None: 0.1 of ratings, 0.2 of each
        user's interactions, 0.2 of all interactions by time
    validate: whether a validation split is wanted. Without a valid.* file, it is made of the
        training split as the test split was made of all.
    valid_ratio: its share; None: 0.1
    suggested: whether valid_ratio is only a suggestion, which a valid.* file overrules
    split_seed: of both random splits
    download: whether the data set may be fetched
    wanted (Wanted): how files are read
    choice (Choice): which interactions count, and how they are split
    details: whether to keep the Details of the files

    Returns Interactions. Raises UserError for anything wrong with the name, the files, the ratios.
    """
    name, sources, parsed = read_dataset(name, data_dir, fold, download, wanted)
    if ratings:
        check_ratings(parsed, sources, "take another --model")
    elif choice.min_rating is not None:
        check_ratings(parsed, sources, "leave --min_rating out")
    user_ids, item_ids, pairs = filters.counting(parsed, sources, choice, ratings, details)

    # The test split.
    splitter = Splitter(choice, ratings, split_seed, parsed, sources)
    if "interactions" in sources:
        pairs["train"], pairs["test"] = splitter.split_test(pairs.pop("interactions"), test_ratio)
    else:
        check_own_test(sources, choice, test_ratio, divided=validate and "valid" not in sources)
        masks = zip(pairs["train"].present(), pairs["test"].present(), strict=True)
        for what, ids, both in zip(("user", "item"), (user_ids, item_ids), masks, strict=True):
            warn_of_unknown(ids, *both, what, sources)
    if name in REGISTRY and choice == DEFAULTS:
        check_published(name, (len(user_ids), len(item_ids)), pairs)

    # The validation split.
    if validate and "valid" not in sources:
        pairs["train"], pairs["valid"] = splitter.split_valid(pairs["train"], valid_ratio)
    elif valid_ratio is not None and "valid" in sources and not suggested:
        what = f"{sources['valid']} is the validation split"
        raise UserError(f"--valid_ratio does not apply: {what}; leave the flag out")

    if "interactions" not in sources or choice.repeats == "all":
        pairs = disjoint(user_ids, item_ids, pairs, sources, choice)

    # Users and items that training does not know.
    user_ids, item_ids, pairs, cold = filters.without_cold(user_ids, item_ids, pairs, choice)
    for split in ("train", "valid", "test") if validate else ("train", "test"):
        if not len(pairs[split]):
            raise UserError(
                f"data set {name}: no {split} interaction is left ({splitter.said}); there are too "
                "few, or a flag leaves too many out"
            )

    shape = (len(user_ids), len(item_ids))
    empty = csr_array(shape, dtype=np.float32 if ratings else np.int8)
    matrices = {
        split: pairs[split].matrix(ratings) if split in pairs else empty for split in SPLITS
    }
    digest = digest_of(user_ids, item_ids, matrices)
    protocol = {"split": splitter.said, "unknown to training": cold}
    kept = details_of(parsed, pairs) if details else None
    return Interactions(
        name, user_ids, item_ids, **matrices, digest=digest, protocol=protocol, details=kept
    )


def read_dataset(name, data_dir, fold, download, wanted):
    """Find and read the files of a data set, or make `demo`; for the arguments see load_dataset.

    Returns (name of its folder, {split: path, or a name for messages}, Parsed).
    """
    own = (Path(data_dir) / name).is_dir()
    if name == "demo" and not own:
        if fold or wanted != WANTED:
            flag = "fold" if fold else next(iter(wanted.flags()))
            raise UserError(f"--{flag} does not apply: demo is generated; leave the flag out")
        return name, {"interactions": "demo"}, parse({"interactions": demo.demo_rows()}, wanted)
    if name == "demo":
        log.info("the data set is the folder %s, not the generated one", Path(data_dir) / name)
    folder = find_folder(name, Path(data_dir))
    sources = find_sources(folder.name, folder, download, fold)
    return folder.name, sources, read_cached(folder, sources, wanted)


def details_of(parsed, pairs):
    """The Details of files. parsed (Parsed); pairs: {split: Pairs}, with times if the file has"""
    rows = sum(map(len, parsed.pairs.values()))
    distinct = sum(int(part.is_last().sum()) for part in parsed.pairs.values())
    times = {split: part.once().times for split, part in pairs.items() if part.times is not None}
    return Details(rows, rows - distinct, times, parsed.unit)


def check_ratings(parsed, sources, advice):
    """Raise UserError if a file does not have all ratings. advice: how to do without them"""
    for split, part in parsed.pairs.items():
        if part.ratings is None or np.isnan(part.ratings).any():
            raise UserError(f"{sources[split]}{parsed.gaps[split]['rating']}, or {advice}")


def check_own_test(sources, choice, test_ratio, divided):
    """Raise UserError for flags that make a test split, if the files have one.

    divided: whether the training split is divided, to validate
    """
    made = {"test_ratio": test_ratio, "test_from": choice.test_from}
    if choice.split != "random" and not divided:
        made["split"] = choice.split
    for flag, value in made.items():
        if value is not None:
            what = f"{sources['test']} is the test split"
            raise UserError(f"--{flag} does not apply: {what}; leave the flag out")


def disjoint(user_ids, item_ids, pairs, sources, choice):
    """The splits without the pairs that an earlier one of train, valid and test has.

    Raises UserError, with the first of these pairs, unless --overlap drop allows to leave them out.
    """
    for first, second in combinations([split for split in SPLITS if split in pairs], 2):
        shared = filters.in_both(pairs[first], pairs[second])
        if not shared.any():
            continue
        place = int(np.argmax(shared))
        user, item = user_ids[pairs[second].users[place]], item_ids[pairs[second].items[place]]
        more = f" (and {shared.sum() - 1:,} more)" if shared.sum() > 1 else ""
        files = f"{sources.get(first, first)} and {sources.get(second, second)}"
        if choice.overlap == "refuse":
            raise UserError(
                f"user {user!r} with item {item!r}{more} is in both {files}; keep each pair in one "
                "of them, or leave them out of the second by --overlap drop"
            )
        log.info("overlap: %d pairs of %s are left out of the second", shared.sum(), files)
        pairs = pairs | {second: pairs[second].take(~shared)}
    return pairs


def check_published(name, shape, pairs):
    """Warn if a named data set differs from the published one: its results would not compare."""
    sizes = {split: len(part) for split, part in pairs.items()}
    users, items = shape
    found = {"users": users, "items": items, **sizes, "interactions": sum(sizes.values())}
    published = REGISTRY[name].counts
    found = {what: found.get(what, 0) for what in published}
    if found != published:
        here, there = (
            ", ".join(f"{number} {what}" for what, number in counts.items())
            for counts in (found, published)
        )
        text = "warning: %s has %s; published: %s. Remove its files to download it"
        log.warning(text, name, here, there)
