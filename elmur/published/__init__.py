"""Runs of the published ELMUR code in our terms: its keys, its weights, its quirks, and how a run is imported."""
