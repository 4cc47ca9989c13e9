"""What holds for all tests: no Hub is reached but the loopback one, and the user's cache is not written to."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub


# Read by the libraries when they are imported, hence before anything else.
HUB = LoopbackHub(Path(tempfile.mkdtemp(prefix="algodistill-hub-"))).start()
home = Path(os.environ.get("ALGODISTILL_TEST_HF_HOME") or tempfile.mkdtemp(prefix="algodistill-tests-"))
os.environ.update(HUB.environment(home, token=None), HF_TOKEN_PATH=str(home / "no-token"), MPLBACKEND="agg")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty Hub, for this process and those that it starts with `hub.environment`; one may write as `tester`."""
    HUB.reset()
    monkeypatch.setenv("HF_TOKEN", "hf_writer_token")
    yield HUB
    HUB.reset()
