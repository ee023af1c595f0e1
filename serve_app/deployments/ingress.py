"""The former place of the middleware, which environment files written for version 0.1.0 name."""

from serve_app.entrance.middleware import middlewares

__all__ = ["middlewares"]
