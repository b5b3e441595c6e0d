"""Whether the values of columns are UTF-8 text, in all files of a data set."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cli.errors import UserError


class Encodings:
    """Looks at the values of columns. A value is hashed by its bytes: in two encodings it is two.

    latin: {column: the first value that is not UTF-8, and where}
    """

    def __init__(self):
        self.utf8, self.latin = set(), {}

    def add(self, layout, block, name, column):
        """Look at the next values of a column.

        layout (Layout), block (sources.layout.Block): where they are
        name: of the column
        column: a pyarrow array of type TEXT

        Raises UserError for a value that is not UTF-8 in a column where others are, beyond ASCII.
        """
        values = column.dictionary
        try:
            if not pc.all(pc.string_is_ascii(values.cast(pa.string()))).as_py():
                self.utf8.add(name)
        except pa.ArrowInvalid:
            kinds = [_kind(value) for value in values.to_pylist()]
            if "utf-8" in kinds:
                self.utf8.add(name)
            first = kinds.index("latin-1")
            row = int(np.argmax(column.indices.to_numpy() == first))
            value = values[first].as_py().decode("latin-1")[:40]
            self.latin.setdefault(name, f"{layout.path.name}, {block.line(row)}: {value!r}")
        if name in self.utf8 and name in self.latin:
            raise UserError(
                f"{layout.path}: some values of {name} are UTF-8 text, and others are not "
                f"({self.latin[name]}, read as Latin-1); convert the files to UTF-8"
            )


def _kind(value):
    """The encoding of bytes: "ascii", "utf-8" or, if they are none of these, "latin-1"."""
    try:
        return "ascii" if value.isascii() else value.decode() and "utf-8"
    except UnicodeDecodeError:
        return "latin-1"
