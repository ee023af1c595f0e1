"""Sends spoilt pictures and forms to a service and tells what came back: `python -m loadtest fuzz`."""
