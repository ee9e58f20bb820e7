"""A policy outside this repository: its step as a program, and the folder that it travels in."""
