"""Makes reports from the raw files of a run folder, or from a plain Locust CSV."""
