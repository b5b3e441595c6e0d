"""--mode describe: what is in a data set of clicks, in numbers."""

from reports.description import Description, aligned


def describe(data):
    """The Description of Clicks: the rows and clicks of each split, the values of each field."""
    sizes = dict(zip(data.fields, data.sizes, strict=True))
    numbers = {
        "rows": sum(stop - start for start, stop in data.splits.values()),
        "skipped": data.skipped,
        "splits": {split: count_clicks(data, *span) for split, span in data.splits.items()},
        "values": sizes | {name: sizes[field] for name, field in data.histories.items()},
    }
    return Description(numbers, text_of(numbers))


def count_clicks(data, start, stop):
    """{"rows", "clicks", "share": clicks of a row, or None} of the rows from `start` on."""
    clicks = int(data.labels(start, stop).sum())
    share = clicks / (stop - start) if stop > start else None
    return {"rows": stop - start, "clicks": clicks, "share": share}


def text_of(numbers):
    """The numbers as tables."""
    splits = [["split", "rows", "clicks", "share"]]
    for split, found in numbers["splits"].items():
        share = "" if found["share"] is None else f"{found['share']:.2%}"
        splits.append([split, f"{found['rows']:,}", f"{found['clicks']:,}", share])
    values = [["field", "values"]]
    values += [[field, f"{size:,}"] for field, size in numbers["values"].items()]
    note = "One value of a field stands for all that training does not know or has too seldom."
    return f"{aligned(splits)}\n\n{aligned(values)}\n{note}"
