"""The light endpoint: users from a database, one page or one user at a time."""
