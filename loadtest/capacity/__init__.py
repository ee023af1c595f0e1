"""Searches the largest load that holds an objective."""
