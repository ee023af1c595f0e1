"""Searches that measure one load after the other: for now, the largest that holds an objective."""
