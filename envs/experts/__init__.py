"""Scripted policies that solve a task from the observation history alone; one module per environment family."""


def none() -> None:
    """Nobody: what an environment has for which no expert is named."""
