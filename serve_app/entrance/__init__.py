"""Who gets in: API keys, HAProxy and its limits, the middleware in front of Serve, and what is refused at once."""
