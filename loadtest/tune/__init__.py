"""Searches the settings of a service, given as a YAML file, for those that serve an objective best on this machine."""
