"""What one does with a trained model: score it again, recommend items, export its encodings."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import shards
from dataloader import pair_matrix
from errors import UserError
from evaluate import DotProduct, SeenItems, top_items
from ignored import ignored_flags
from parse import default_run_name
from readers import read_interactions
from strengths import strengths_by_row
from titles import item_titles
from train import check_identity, fitting
from utils import atomic_file

log = logging.getLogger("onebp")


def take_flags_over(args):
    """Load the checkpoint that the flags name and set the flags that it was trained with. Returns its state.

    Raises UserError where it is absent or damaged, or a flag of the command line is not the checkpoint's, but for
    --ranking, which says how to look at what was trained.
    """
    path = checkpoint_file(args)
    state = shards.load(path)
    with fitting(path):
        for flag, value in state["flags"].items():
            given = args.origin.get(flag) == "command line"
            if given and flag != "ranking" and getattr(args, flag) != value:
                how = f"without --{flag}" if value is None else f"with --{flag} {value}"
                raise UserError(f"{path} was trained {how}; leave --{flag} {getattr(args, flag)} out")
            if not given:
                setattr(args, flag, value)
    if args.origin["ranking"] == "command line" and "ranking" in ignored_flags(args):
        raise UserError(f"{path} is of --model {args.model}, with which --ranking does nothing; leave it out")
    return state


def checkpoint_file(args):
    """The file that --run_name and --checkpoint name."""
    return Path(args.checkpoint_dir) / (args.run_name or default_run_name(args)) / f"{args.checkpoint}.pt"


def use(model, data, args, state):
    """Do what --mode says with the model in the state of its checkpoint. Raises UserError where that does not fit."""
    path = checkpoint_file(args)
    if model.clicks and args.mode != "evaluate":
        raise UserError(f"{path} is of --model {args.model}, of clicks, for which there is only --mode evaluate")
    with fitting(path):
        check_identity(path, state, model, args)
        model.load_weights(state["model"])
    log.info("%s: %s after epoch %d", path, args.model, state["epoch"])
    if args.mode == "export":
        export(model, data, args, strengths_by_row(state["model"], data.shape))
    else:
        {"evaluate": evaluate, "recommend": recommend}[args.mode](model, data, args)


def evaluate(model, data, args):
    """Print the metrics of the checkpoint on every part that has any."""
    table = pd.DataFrame({part: model.evaluate(part) for part in model.evaluators})
    log.info("%s", data.describe())
    for name, value in model.protocol.items():
        log.info("%s: %s", name, value)
    log.info("\n%s", table.to_string(float_format="%.4f"))
    model.conclude(checkpoint_file(args), None)


def recommend(model, data, args):
    """Write or print the table user, rank, item, score[, title] for --users or for the users of --history."""
    if args.output and Path(args.output).is_dir():
        raise UserError(f"--output {args.output} is a folder; give the name of a file")
    if args.history:
        names, scorer, seen = new_users(model, data, args.history)
        users = torch.arange(len(names), device=model.device)
    else:
        names, users = data.user_ids, chosen_users(args.users, data, model.device)
        scorer, seen = model.scorer(), data.seen("test")
    seen = [] if args.keep_seen else [SeenItems(part, model.device) for part in seen if part.nnz]
    table = recommendations(scorer, data.shape[1], users, seen, args.topk)
    titles = item_titles(data, args.data_dir)
    if titles is not None:
        table["title"] = titles["title"].to_numpy()[table["item"]]
    table["user"] = np.array(names, dtype=object)[table["user"]]
    table["item"] = np.array(data.item_ids, dtype=object)[table["item"]]
    if args.output is None:
        log.info("%s", table.to_string(index=False, float_format="%.4f"))
        return
    with atomic_file(Path(args.output), "w", newline="", encoding="utf-8") as file:
        table.to_csv(file, index=False)
    log.info("%d recommendations for %d users in %s", len(table), len(users), args.output)


def recommendations(scorer, n_items, users, seen, k):
    """Of `n_items` items the best k for users (n,), none of `seen`: a table of user, rank (from 1), item and score."""
    columns = {"user": [], "rank": [], "item": [], "score": []}
    for block, items, scores in top_items(scorer, n_items, users, seen, min(k, n_items)):
        kept = scores > -torch.inf  # (b, k); a user may have fewer than k items left
        row, rank = kept.nonzero(as_tuple=True)
        for name, values in zip(columns, (block[row], rank + 1, items[kept], scores[kept]), strict=True):
            columns[name].append(values.cpu().numpy())
    return pd.DataFrame({name: np.concatenate(values) for name, values in columns.items()})


def chosen_users(text, data, device):
    """Indices of the users that `text` names, ids separated by commas or `all`. Raises UserError for an unknown one."""
    if text == "all":
        return torch.arange(data.shape[0], device=device)
    index = {user: number for number, user in enumerate(data.user_ids)}
    wanted = [name.strip() for name in text.split(",")]
    if unknown := [name for name in wanted if name not in index]:
        raise UserError(f"{data.name} has no user {unknown[0]!r}; its ids are like {data.user_ids[0]!r}")
    return torch.tensor([index[name] for name in dict.fromkeys(wanted)], device=device)


def new_users(model, data, path):
    """Users that the model was not trained on, from a file of their interactions: (ids, scorer, [their pairs]).

    Interactions with items that the model does not know are left out, with a warning. Raises UserError where the file
    cannot be read, nothing is left of it, or the model has no rule for new users.
    """
    users, items, _ = read_interactions(Path(path))
    place, names = pd.factorize(users)
    known = pd.Index(data.item_ids).get_indexer(items)  # -1 for an unknown one
    here = known >= 0
    if not here.any():
        raise UserError(f"{path} has no interaction with an item of {data.name}; its ids are like {data.item_ids[0]!r}")
    if not here.all():
        example = items[~here][0]
        log.warning("warning: %d of %d interactions left out: no item %r, say", (~here).sum(), len(here), example)
    place, known = place[here], known[here]
    if empty := len(names) - len(np.unique(place)):
        log.warning("warning: %d users have no known item; their list is that of the mean user", empty)
    own = pair_matrix(place, known, None, (len(names), data.shape[1]))
    place, known = (torch.as_tensor(index, dtype=torch.int64, device=model.device) for index in (place, known))
    scorer = DotProduct(model.encode_history(place, known, len(names)), model.encodings()[1])
    return names, scorer, [own]


def export(model, data, args, strengths):
    """Write users.npy, items.npy, ids.csv and a README.md into the folder --output; <kind>_strengths.npy if any."""
    folder = Path(args.output)
    tables = dict(zip(("users", "items"), model.encodings(), strict=True))
    tables |= {f"{kind}_strengths": strength for kind, strength in strengths.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for kind in {"user", "item"} - strengths.keys():  # of another model's export
        (folder / f"{kind}_strengths.npy").unlink(missing_ok=True)
    for name, table in tables.items():
        with atomic_file(folder / f"{name}.npy") as file:
            np.save(file, table.cpu().numpy().astype(np.float32), allow_pickle=False)
    kinds = np.repeat(["user", "item"], data.shape)
    rows = np.concatenate([np.arange(size) for size in data.shape])
    with atomic_file(folder / "ids.csv", "w", newline="", encoding="utf-8") as file:
        pd.DataFrame({"kind": kinds, "row": rows, "id": data.user_ids + data.item_ids}).to_csv(file, index=False)
    with atomic_file(folder / "README.md", "w", encoding="utf-8") as file:
        file.write(EXPORT_README)
    log.info("encodings of %d users and %d items in %s", *data.shape, folder)


EXPORT_README = """\
Rows of users.npy and items.npy are encodings, their inner products the scores; ids.csv says whose each row is.
Where lambdaOpt learned L2 strengths, those of the same rows are in user_strengths.npy and item_strengths.npy.

    import faiss, numpy  # pip install faiss-cpu
    users, items = (numpy.load(f"{name}.npy", allow_pickle=False) for name in ("users", "items"))
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    scores, rows = index.search(users[:5], 10)  # the ten best items of the first five users, seen ones included
"""
