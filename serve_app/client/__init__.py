"""`python -m serve_app.client`: classifies files, folders and URLs through the service's API.

It speaks HTTP only and imports nothing else of the service: it starts at once and runs without Ray. One item goes
`items` → `contents` (a file, or `downloads` for a URL) → `service` (asked with `patience`) → `Outcome` → `answers`;
`predictions` sends pictures one by one, `jobs` in batches.
"""
