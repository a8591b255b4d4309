"""What the hub library raises, and whose fault it is."""

from __future__ import annotations

import errno
from pathlib import Path

import huggingface_hub
import pytest

from build_engine import fetch
from contract.errors import BuildError


@pytest.mark.parametrize(
    ("error", "is_the_networks"),
    [
        (OSError("no route to the hub"), True),
        (ConnectionError(errno.ECONNREFUSED, "Connection refused"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.EROFS, "Read-only file system", "/cache/x"), False),
    ],
)
def test_a_fault_of_this_machines_disk_is_not_blamed_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, is_the_networks: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises((BuildError, OSError)) as caught:
        fetch.fetch("some/model", tmp_path)
    assert isinstance(caught.value, BuildError) is is_the_networks
    assert not is_the_networks or "check the network and HF_TOKEN" in str(caught.value)
