"""Workers of the candidates that `job_queues` compares: each is run by file, with the candidate's own command.

What they have in common: QUEUE_URL is the Redis, QUEUE_LEASE_S the time after which a silent worker has lost its task
(empty: as the library ships), QUEUE_LOG where each begin and end is noted; `python FILE send COUNT SECONDS` sends.
"""
