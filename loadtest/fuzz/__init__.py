"""Sends corrupted pictures and forms to a service and reports its answers: `python -m loadtest fuzz`."""
