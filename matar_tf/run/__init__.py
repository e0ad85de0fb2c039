"""One retargeting run, from an artifact and targets to fronts and files."""
