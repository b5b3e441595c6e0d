"""Recognise and read JSON lines, Parquet and Arrow files, by blocks of rows.

A field of a nested object is named by its way, as `user.id`. Shapes: m rows of a block.
"""

import ast
import json
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from cli.errors import UserError
from sources.files import Content
from sources.layout import Block, Layout
from sources.tables import TEXT, row_texts

SAMPLED = 100  # objects that are looked at
ROWS = 1 << 17  # rows of a block of Parquet


def json_layout(plain, text):
    """The Layout of JSON lines, or of lines of Python dictionaries.

    plain (Layout): what is known of the file
    text: its beginning

    The columns are the fields of the first objects; a sample is None where one lacks a field.
    Raises UserError if the first line holds no object.
    """
    lines = [line for line in text.split(plain.newline)[: SAMPLED + 1] if line.strip()]
    lines = lines[:SAMPLED] if len(lines) == 1 else lines[: min(SAMPLED, len(lines) - 1)]
    first = _object(plain.path, lines[0], plain.skip_lines + 1)
    others = (_parsed_object(line) for line in lines[1:])  # the reader reports broken lines
    objects = [found for found in (first, *others) if isinstance(found, dict)]
    fields = list(map(_flat, objects))
    lists = {name for found in objects for name, value in found.items() if isinstance(value, list)}
    names = list(dict.fromkeys(name for other in fields for name in other))
    samples = tuple(tuple(map(other.get, names)) for other in fields)
    return replace(
        plain,
        kind="json",
        names=tuple(names),
        header=True,
        samples=samples,
        lists=tuple(sorted(lists)),
    )


def read_json(layout, positions, broken=None, short_floats=False):
    """Yield the rows of JSON lines as Blocks; ids as texts or whole numbers.

    layout (Layout)
    positions: of the columns to read
    broken (sources.layout.Broken): takes the lines that are no object, which are left out; None:
        raise
    short_floats: whether a decimal number that is read as text is spelled as short as pyarrow
        spells it, 1 for 1.0; else as in the file

    Raises UserError for a line that is no object.
    """
    names = {position: layout.names[position] for position in positions}
    schema = _schema(layout, names)
    for text, first_line in row_texts(layout):
        lines = [n for n, line in enumerate(text.split(layout.newline)) if line.strip()]
        table = None
        if schema is not None:
            table = _parsed(text, schema, len(lines))
        if table is not None:
            columns = {place: _leaf(table, name) for place, name in names.items()}
        else:  # slow: types that differ between rows, Python's dictionaries, a broken line
            rows = text.split(layout.newline)
            objects = {}
            for line in lines:
                try:
                    number = first_line + line
                    objects[line] = _object(layout.path, rows[line], number, spelled=True)
                except UserError as error:
                    if broken is None:
                        raise
                    broken.add([(number, str(error))])
            lines = list(objects)
            columns = {}
            for place, name in names.items():
                values = [_spelled(_value(found, name), short_floats) for found in objects.values()]
                columns[place] = pa.array(values, pa.binary())
        if lines:
            yield Block(
                {place: as_text(layout, place, column) for place, column in columns.items()},
                lambda row, lines=lines, first=first_line: f"line {first + lines[row]}",
            )


def binary_layout(path, head, compression):
    """The Layout of a Parquet or Arrow file. Raises UserError if it is damaged."""
    kind = "parquet" if head.startswith(b"PAR1") else "arrow"
    layout = Layout(path, kind, compression, header=True)
    schema = _opened(layout)[0]
    names = []
    for field in schema:
        names += _leaf_names(field)
    return replace(layout, names=tuple(names))


def read_binary(layout, positions):
    """Yield the rows of a Parquet or Arrow file as Blocks.

    layout (Layout)
    positions: of the columns to read

    Raises UserError for a damaged file, and for ids that are neither text nor whole numbers.
    """
    names = {position: layout.names[position] for position in positions}
    before = 0
    batches = iter(_opened(layout)[1](list(names.values())))
    while True:
        try:
            batch = next(batches, None)
            if batch is not None and layout.kind == "arrow":
                batch.validate(full=True)  # pyarrow does not check: damage would end the process
        except (pa.ArrowException, OSError) as error:
            _explain(layout, error)
        if batch is None:
            return
        columns = {place: _leaf(batch, name) for place, name in names.items()}
        if batch.num_rows:
            yield Block(
                {place: as_text(layout, place, column) for place, column in columns.items()},
                lambda row, before=before: f"row {before + row + 1}",
            )
        before += batch.num_rows


def as_text(layout, position, column):
    """A column with ids as TEXT where it holds texts or whole numbers; else as it is.

    Whole numbers are spelled in decimal digits. A missing value becomes the empty text.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_integer(kind)
    ):
        return column
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    texts = column.dictionary
    if pa.types.is_integer(texts.type) or pa.types.is_string_view(texts.type):
        texts = texts.cast(pa.string())
    texts = texts.cast(pa.binary())
    codes = column.indices.cast(pa.int32())
    if codes.null_count or texts.null_count:
        return pc.fill_null(
            pa.DictionaryArray.from_arrays(codes, texts).cast(pa.binary()), b""
        ).cast(TEXT)
    return pa.DictionaryArray.from_arrays(codes, texts)


def _opened(layout):
    """(schema, function(names) -> batches of these columns)"""
    try:
        if layout.compression:
            with Content(layout.path) as content:
                source = pa.BufferReader(content.read())
        else:
            source = pa.memory_map(str(layout.path))
        if layout.kind == "parquet":
            file = pa.parquet.ParquetFile(source, page_checksum_verification=True)
            return file.schema_arrow, lambda names: file.iter_batches(ROWS, columns=names)
        if source.read(6) == b"ARROW1":
            source.seek(0)
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(number) for number in range(file.num_record_batches))
            return file.schema, lambda names: batches
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return stream.schema, lambda names: stream
    except (pa.ArrowException, OSError) as error:
        _explain(layout, error)


def _explain(layout, error):
    """Raise a UserError for an error of pyarrow."""
    kind = {"parquet": "Parquet", "arrow": "Arrow"}[layout.kind]
    reason = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
    raise UserError(f"{layout.path} is a damaged {kind} file ({reason}); fetch it again") from None


def _leaf_names(field, before=""):
    """Names of the fields in a field of a schema: its own, or those of a nested one."""
    name = before + field.name
    if not pa.types.is_struct(field.type):
        return [name]
    inner = (field.type.field(number) for number in range(field.type.num_fields))
    return [leaf for each in inner for leaf in _leaf_names(each, f"{name}.")]


def _leaf(table, name):
    """The column of a table or batch with a name, perhaps of a nested object, as an array."""
    names = table.schema.names
    if name in names:
        column = table.column(name)
    else:
        root = next(root for root in names if name.startswith(f"{root}."))
        way = name[len(root) + 1 :].split(".")
        column = pc.struct_field(table.column(root), way)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _schema(layout, names):
    """The pyarrow schema of the columns {position: name}, or None if their types vary."""
    tree = {}
    for position, name in names.items():
        values = [row[position] for row in layout.samples if row[position] is not None]
        kinds = {type(value) for value in values}
        if kinds <= {int, float} and float in kinds:
            kind = pa.float64()
        elif kinds == {int}:
            kind = pa.int64()
        elif kinds == {str}:
            kind = pa.string()
        elif kinds == {bool}:
            kind = pa.bool_()
        else:
            return None
        *way, last = name.split(".")
        branch = tree
        for step in way:
            branch = branch.setdefault(step, {})
        branch[last] = kind

    def fields(branch):
        return [
            pa.field(name, pa.struct(fields(kind)) if isinstance(kind, dict) else kind)
            for name, kind in branch.items()
        ]

    return pa.schema(fields(tree))


def _parsed(text, schema, n_rows):
    """The pyarrow Table of JSON lines, or None if they are no UTF-8, or not of the schema."""
    try:
        text.decode()  # pyarrow does not look at fields that it leaves out
        table = pa.json.read_json(
            pa.BufferReader(text),
            read_options=pa.json.ReadOptions(block_size=len(text) + 1),
            parse_options=pa.json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
    except (UnicodeDecodeError, pa.ArrowException):
        return None
    return table if table.num_rows == n_rows else None


def _object(path, line, number, spelled=False):
    """The object of a line, as `_parsed_object` returns it. Raises UserError if it is none."""
    found = _parsed_object(line, spelled)
    if found is None and line.decode("utf-8", "replace").encode() != line:
        raise UserError(f"{path}, line {number}: no UTF-8 text; convert the file to UTF-8")
    if not isinstance(found, dict):
        start = line.strip()[:40].decode("utf-8", "replace")
        raise UserError(
            f"{path}, line {number}: {start!r} is no whole JSON object; a line holds one"
        )
    return found


def _parsed_object(line, spelled=False):
    """What a line holds; a dictionary if it is right. spelled: numbers as the texts of the file

    Lines of Python dictionaries, as in old data of Steam and Amazon, are read as literals.
    """
    as_is = {"parse_int": str, "parse_float": Float} if spelled else {}
    try:
        return json.loads(line, **as_is)
    except (ValueError, RecursionError):
        return _python_literal(line)


def _python_literal(line):
    """The value of a line that begins as Python writes a dictionary, {'name'; else None."""
    if not re.match(rb"\s*\{\s*u?'", line):
        return None
    try:
        return ast.literal_eval(line.decode().strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _flat(found):
    """{name: value} of an object's fields; fields of nested objects have names as user.id."""
    flat = {}
    for name, value in found.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": leaf for inner, leaf in _flat(value).items()}
        elif not isinstance(value, list):
            flat[name] = value
    return flat


def _value(found, name):
    """The value of a field by its name, or None."""
    if name in found:
        return found[name]
    root, _, rest = name.partition(".")
    inner = found.get(root)
    return _value(inner, rest) if rest and isinstance(inner, dict) else None


class Float(str):
    """A decimal number, as it is spelled."""


def _spelled(value, short_floats):
    """A value as bytes, or None."""
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, bool):
        value = str(value).lower()
    elif short_floats and isinstance(value, float | Float):
        value = pa.scalar(float(value)).cast(pa.string()).as_py()
    return str(value).encode("utf-8", "surrogatepass")
