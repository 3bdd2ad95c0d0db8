"""The HTTP service: routes, what guards them, and the server."""
