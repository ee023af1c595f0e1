"""Benchmark commands, `python -m tests.benchmarks.NAME`; pytest collects none of them.

Each wants a machine with nothing else on it, compares side by side and interleaved, and ends in a table (and, with
--json FILE, every number with its unit). NAME: footprint, lookups, predictions, batching, users100, oversubscribed, of
the service; known_answers and bottlenecks show that the stress kit measures right.
"""
