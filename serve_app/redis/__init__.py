"""The connection to the Redis that REDIS_URL names. Its users: `cache.redis` and `jobs.queue`."""
