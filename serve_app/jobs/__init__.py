"""Durable jobs: pictures taken at once and classified when the engine has time, kept in Redis. Knows nothing of Ray."""
