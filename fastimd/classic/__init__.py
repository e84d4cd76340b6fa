"""The dialect of Fast-IM: the chat socket of one group, and the group-list socket of one user."""
