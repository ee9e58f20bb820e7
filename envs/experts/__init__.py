"""Scripted policies that solve a task from the observation history alone; one module per environment family."""
