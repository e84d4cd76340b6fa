"""Who is in which group, over all daemons and wires, and who types there."""
