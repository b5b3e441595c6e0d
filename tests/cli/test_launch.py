"""The environment that torchrun sets."""

import pytest


@pytest.mark.parametrize(
    "changed",
    [
        {"RANK": None},
        {"RANK": "2"},
        {"WORLD_SIZE": "two"},
        {"LOCAL_RANK": ""},
        {"MASTER_PORT": "65536"},
        {"MASTER_ADDR": None},
    ],
)
def test_an_environment_that_is_not_torchruns(monkeypatch, cli, changed):
    places = {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}
    places |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 29500}
    for name, value in (places | changed).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(
            name, str(value)
        )
    status, _, errors = cli("--epochs", 1)
    assert status == 2
    assert "as of several processes, and " in errors
    for name, value in changed.items():
        assert (f"and {name}={value};" if value else f"and no {name};") in errors
