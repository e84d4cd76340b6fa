"""The Redis wire on Trio: connections, appends, scripts, and the embedded server."""
