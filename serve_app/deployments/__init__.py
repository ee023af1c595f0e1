"""The two Ray Serve applications and the launcher. The only folder that imports Ray."""
