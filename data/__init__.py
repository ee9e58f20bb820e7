"""Trajectories: shards on disk, their index, the order in which they are read, and their collection."""
