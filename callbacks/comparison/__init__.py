"""Models compared fairly: who is compared, what they cost, how their learning rates are chosen, the tables."""
