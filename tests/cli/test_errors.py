"""Which process reports an error."""

from cli.errors import Diverged, UserError, message_of, should_report


def test_who_tells_of_an_error(monkeypatch):
    gone = RuntimeError("[/x/y.cc:538] Connection closed by peer [10.9.0.1]:4321. And more")
    assert message_of(gone) is None  # in one process that is a bug
    for name, value in {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert message_of(gone).startswith(
        "another process failed (Connection closed by peer [10.9.0.1]:4321);"
    )
    for rank, local, own, common, lost in ((0, 0, 1, 1, 1), (1, 1, 1, 0, 0), (2, 0, 1, 0, 1)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert [should_report(error) for error in (UserError("own"), Diverged("nan"), gone)] == [
            own,
            common,
            lost,
        ]
