"""What is kept in Redis. The only package that imports redis; knows nothing of HTTP, models or Ray."""
