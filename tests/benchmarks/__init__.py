"""Benchmark commands, `python -m tests.benchmarks.NAME`; pytest collects none of them.

Each wants a machine with nothing else on it, compares side by side and interleaved, and ends in a table (and, with
--json FILE, every number with its unit). NAME: footprint, lookups, predictions, batching, cache, engines, gpu,
replacing, jobs_beside_predictions, durable_jobs, job_queues, of the service; known_answers, bottlenecks, verdicts and
generators show that the stress kit measures right. Predictions are loaded and measured by the kit (`service.Rounds`).

`oversubscribed.yaml` is a plan: `python -m loadtest run tests/benchmarks/oversubscribed.yaml`.
"""
