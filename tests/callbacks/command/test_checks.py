"""Errors that are shown, and the one kind that is not."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from callbacks.command.quiet import quieten


@pytest.fixture(autouse=True)
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    quieten()
    yield


def told(error: Exception) -> None:
    """As multiprocessing's helper thread tells of what went wrong in it."""
    try:
        raise error
    except Exception:
        sys.excepthook(*sys.exc_info())


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError("over"), ValueError("wrong")])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_of_a_killed_worker_only_the_loader_tells(
    capfd: pytest.CaptureFixture[str], error: Exception, elsewhere: bool
) -> None:
    if elsewhere:
        thread = threading.Thread(target=told, args=(error,))
        thread.start()
        thread.join()
    else:
        told(error)
    silent = elsewhere and not isinstance(error, ValueError)
    assert ("Traceback" in capfd.readouterr().err) == (not silent)
