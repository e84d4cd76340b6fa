"""The daemon's HTTP: the routes of Fast-IM, the page, and the operator's admin address."""
