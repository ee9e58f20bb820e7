"""The ELMUR model and how it learns: torch and lightning only; knows no file, no env, no config."""
