"""The stress kit: it knows the service only by its HTTP interface and never imports serve_app."""
