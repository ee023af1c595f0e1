"""Faults under load: what breaks one thing at a time, what is lost meanwhile, and how long it takes to recover."""
