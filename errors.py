"""A user's mistakes, told in one line."""


class UserError(Exception):
    """A mistake of the user or of the machine: its text says what, where and what to do. Exit status 2."""


def explain(error):
    """The line for an error that a user can do something about; None for what is a bug of this program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; check the path, its permissions and the free disk space"
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return "out of memory; lower --dim, --batch_size or --N"
    return None
