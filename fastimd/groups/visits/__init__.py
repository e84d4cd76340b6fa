"""The leaves of killed daemons: each daemon notes its visits, and the others tell their ends."""
