"""What tests of studies share."""

import json

from tools import write

TINY = ("--dim", 4, "--epochs", 2)


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") and path.stat().st_size > 5000


def summaries(folder):
    return [json.loads(path.read_text()) for path in folder.glob("runs/*/summary.json")]


def small_shop(work, rows=300):
    pairs = [(user, item) for user in range(30) for item in range(user % 3, 30, 3)]
    lines = [f"u{user},i{item}\n" for user, item in pairs[:rows]]
    write(work / "datasets/shop/interactions.csv", "user_id,item_id\n" + "".join(lines))
