"""Random damage: to the bytes of a file, to its values, and to what stands in its place.

Every function takes a random.Random, and makes the same damage from the same one.
"""

import copy
import csv
import io
import json
import shutil

import numpy as np
import pandas as pd
import torch

# fmt: off
SNIPPETS = [
    b'"', b'""', b"'", b",", b";", b"\t", b"::", b":", b"|", b" ", b"\n", b"\r\n", b"\r", b"\0",
    b"\xff", b"\xe9", b"\xc3\xa9", b"\xef\xbb\xbf", b"NA", b"1", b"-", b".", b"{", b"}", b"\\",
    b"#", b"user,item\n", b"userId,movieId,rating,timestamp\n", b"\n\n", b"1.0",
]
PLAIN = [
    None, True, False, -1, 0, 1, 7, 2**31 - 1, 2**31, 2**63, 2**70, -(2**63), 0.5, -0.0, 1e-320,
    1e308, float("nan"), float("inf"), "", "x", "nan", "../outside", "/", "demo", "\x1b]0;a\x07",
    "a\nb", "\0", "a" * 5000, [], {}, [1], ["x"], [[]], [None], {"a": 1}, {"": {}}, [0] * 1000,
]
# fmt: on
DTYPES = (torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)
ARRAY_TYPES = ("int8", "int32", "int64", "uint64", "float32", "float64", "complex64", "U3", "O")


def mutated(content, rng):
    """The bytes after one to three changes."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place = rng.randrange(len(content) + 1)
        # Half of the changes are near the beginning, where a format is recognised.
        place = min(place, rng.randrange(60)) if rng.random() < 0.5 else place
        change = rng.choice(CHANGES)
        content = bytearray(change(content, place, rng))
    return bytes(content)


def flip(content, place, rng):
    if place < len(content):
        content[place] ^= 1 << rng.randrange(8)
    return content


def delete(content, place, rng):
    del content[place : place + rng.choice([1, 1, 2, 5, 20])]
    return content


def insert(content, place, rng):
    content[place:place] = rng.choice(SNIPPETS)
    return content


def truncate(content, place, rng):
    return content[: max(place, 1)]


def lines_changed(change):
    """A change of the list of lines."""

    def changed(content, place, rng):
        lines = bytes(content).splitlines(keepends=True)
        if len(lines) > 1:
            change(lines, rng)
        return b"".join(lines)

    return changed


def duplicate(lines, rng):
    line = rng.choice(lines)
    lines.insert(rng.randrange(len(lines) + 1), line)


def swap(lines, rng):
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]


def join(lines, rng):
    place = rng.randrange(len(lines) - 1)
    lines[place] = lines[place].rstrip(b"\r\n")


def drop_first(lines, rng):
    del lines[0]


def shuffle_first(lines, rng):
    """The fields of the first line in another order."""
    sign = next((sign for sign in (b"::", b"\t", b",", b" ") if sign in lines[0]), b" ")
    fields = lines[0].rstrip(b"\n").split(sign)
    rng.shuffle(fields)
    lines[0] = sign.join(fields) + b"\n"


CHANGES = [flip, flip, delete, delete, insert, insert, insert, truncate]
CHANGES += map(lines_changed, (duplicate, swap, join, drop_first, shuffle_first))


def forged(value, rng, odd):
    """Change one entry in nested dicts and lists. Returns what was changed, a text.

    odd: function(entry) -> another one in its place
    """

    def other_than(entry):
        return copy.deepcopy(odd(entry))  # a list may be changed later

    inside, place = [value], ""
    while True:
        value = inside[-1]
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        place += f".{key}"
        if not isinstance(value[key], (dict, list)) or not value[key] or rng.random() < 0.3:
            break
        inside.append(value[key])
    change = rng.choice(("replace", "replace", "replace", "remove", "swap", "add"))
    if change == "remove":
        del value[key]
    elif change == "swap":  # with any other entry on the way there
        other = rng.choice(inside)
        second = rng.choice(list(other) if isinstance(other, dict) else range(len(other)))
        value[key], other[second] = other[second], value[key]
        place += f" and {second}"
    elif change == "add":
        if isinstance(value, dict):
            value["other"] = other_than(value[key])
        else:
            value.append(other_than(None))
    else:
        value[key] = other_than(value[key])
        place += f" = {_short(value[key])}"
    return f"{change} {place}"


def _short(value):
    if isinstance(value, torch.Tensor):
        return f"tensor {tuple(value.shape)} of {value.dtype}"
    return f"{value!r:.60}"


def odd_entry(rng):
    """A function(entry) -> another entry of a checkpoint in its place."""

    def odd(entry):
        if isinstance(entry, torch.Tensor) and rng.random() < 0.8:
            return odd_tensor(entry.clone(), rng)
        if isinstance(entry, (int, float)) and rng.random() < 0.3:
            return entry + rng.choice((-1, 1, 0.5, 10**6))
        kinds = (torch.zeros(0), torch.zeros(3), torch.tensor(1.0), torch.float32, b"x", (1, 2), 1j)
        return rng.choice(PLAIN + list(kinds))

    return odd


def odd_tensor(tensor, rng):
    """Another tensor: of other numbers, another shape or another type."""
    change = rng.randrange(8)
    if change == 0:
        return tensor.to(rng.choice(DTYPES))
    if change == 1:
        return tensor[: len(tensor) // 2] if tensor.dim() else tensor[None]
    if change == 2:
        return tensor.flatten() if tensor.dim() != 1 else tensor[:, None]
    if change == 3:
        return torch.cat([tensor, tensor]) if tensor.dim() else tensor.expand(5)
    if change == 4:
        return tensor[None].expand(1000, *tensor.shape)
    if change == 5:
        return tensor.mT if tensor.dim() > 1 else torch.zeros_like(tensor)
    if tensor.numel() and tensor.dtype != torch.bool:
        flat = tensor.view(-1) if tensor.is_contiguous() else tensor.flatten()
        numbers = [0, 1, 100, 255]
        if tensor.dtype != torch.uint8:
            numbers += [-1, 2**31 - 1]
        if tensor.is_floating_point():
            numbers += [float("nan"), float("inf"), 1e30, -1e30]
        flat[rng.randrange(len(flat))] = rng.choice(numbers)
        if change == 7:
            flat[:] = rng.choice(numbers)
        return flat.view(tensor.shape)
    return tensor


def forge_checkpoint(path, rng):
    """Write a whole checkpoint of other entries. Returns what was changed."""
    state = torch.load(path, weights_only=True)
    said = [forged(state, rng, odd_entry(rng)) for _ in range(rng.choice((1, 1, 1, 2)))]
    torch.save(state, path)
    return "; ".join(said)


def forge_array(path, rng):
    """Write a whole array of NumPy of another type, shape or numbers."""
    array = np.load(path)
    change = rng.randrange(5)
    if change == 0:
        said = rng.choice(ARRAY_TYPES)
        array = array.astype(said)
    elif change == 1:
        said = "half"
        array = array[: len(array) // 2]
    elif change == 2:
        said = "two dimensions"
        array = np.stack([array, array])
    elif change == 3:
        said = "descending"
        array = array[::-1]
    else:
        array = array.copy()
        number, place = rng.choice((-1, 0, 1, 7, 10**6, 2**31 - 1)), rng.randrange(array.size)
        said = f"{number} at {place}"
        array.reshape(-1)[place] = number
    np.save(path, array)
    return said


def forge_json(path, rng):
    """Write JSON of other entries."""
    content = json.loads(path.read_text())
    said = forged(content, rng, lambda entry: rng.choice(PLAIN))
    path.write_text(json.dumps(content))
    return said


def forge_table(path, rng):
    """Write a CSV file of which one or two fields are others."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    said = []
    for _ in range(rng.choice((1, 1, 2))):
        row = rng.randrange(len(rows))
        column, value = rng.randrange(len(rows[row])), rng.choice(PLAIN)
        rows[row][column] = str(value)
        said.append(f"row {row}, field {column} = {_short(value)}")
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return "; ".join(said)


def forge_parquet(path, rng):
    """Write a Parquet file with another column."""
    table = pd.read_parquet(path)
    name = rng.choice(list(table.columns))
    change = rng.choice(("texts", "absent", "nan", "half", "repeated", "renamed", "huge"))
    if change == "texts":
        table[name] = "x"
    elif change == "absent":
        table = table.drop(columns=name)
    elif change == "renamed":
        table = table.rename(columns={name: "other"})
    elif change == "half":
        table = table[: len(table) // 2]
    elif change == "repeated":
        table = pd.concat([table, table])
    else:
        table[name] = np.nan if change == "nan" else 1e300
    table.to_parquet(path, index=False)
    return f"{change} {name}"


FORGERS = {
    ".pt": forge_checkpoint,
    ".npy": forge_array,
    ".json": forge_json,
    ".csv": forge_table,
    ".parquet": forge_parquet,
}


def replace(path, rng, others):
    """Put something else in the place of a file. others: files of which one may be taken."""
    change = rng.choice(("empty", "absent", "folder", "loop", "other", "other", "longer"))
    if change == "longer":
        path.write_bytes(path.read_bytes() * 2)
        return "twice its content"
    if change == "other":
        other = rng.choice(others)
        shutil.copyfile(other, path) if other != path else path.write_bytes(b"")
        return f"the content of {other.name} of {other.parent.name}"
    path.unlink()
    if change == "empty":
        path.write_bytes(b"")
    elif change == "folder":
        path.mkdir()
    elif change == "loop":
        path.symlink_to(path)
    return change


def damage(path, rng, others):
    """Damage the file at `path` in one of these ways. Returns (way, what was done), texts."""
    way = rng.choice(
        ("bytes", "values", "values", "replaced")
        if path.suffix in FORGERS
        else ("bytes", "bytes", "bytes", "replaced")
    )
    if way == "values":
        return way, FORGERS[path.suffix](path, rng)
    if way == "replaced":
        return way, replace(path, rng, others)
    before = path.read_bytes()
    path.write_bytes(mutated(before, rng))
    return way, f"{len(before)} bytes"
