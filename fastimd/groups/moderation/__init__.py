"""Who may speak and be in a group: what its moderators decide, held on every daemon."""
