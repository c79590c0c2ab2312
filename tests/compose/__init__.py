"""The files that start the service in containers: read, and really started."""
