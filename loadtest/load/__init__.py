"""What makes the load: Locust with one row per request, when requests start, and the pictures that they carry."""
