"""Predictions that are known already, or just being made for another request: in Redis, in memory, or shared."""
