"""The job queue in Redis, from both sides: `submit` for the API, `claims` for workers. Imports no classifier code."""
