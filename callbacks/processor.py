"""Processor time of a run: of its own process, and of those that simulate and load for it."""

from __future__ import annotations

import psutil


def cpu_seconds() -> float:
    """Seconds of processor time until now, of this process and of all that it has started, also of those that ended."""
    me = psutil.Process()
    return sum(_seconds(process) for process in (me, *me.children(recursive=True)))


def _seconds(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:4])  # its own and those of its ended children, user and system
    except psutil.NoSuchProcess:  # it has just ended: its parent has its time now
        return 0.0
