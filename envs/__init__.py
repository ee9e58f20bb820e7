"""Worlds to act in: environments, their scripted experts, and the one acting loop. Gymnasium and numpy, no torch."""
