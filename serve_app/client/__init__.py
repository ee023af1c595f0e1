"""`python -m serve_app.client`: classifies files, folders and URLs through the service's API.

It uses HTTP only and imports no other part of the service, so it starts quickly and runs without Ray. The path of one
item: `items` → `contents` (a file, or `downloads` for a URL) → `service` (called with `patience`) → `Outcome` →
`answers`. `predictions` sends pictures one by one, `jobs` in batches.
"""
