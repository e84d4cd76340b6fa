"""Redis Cluster: groups and users are spread over masters by slot.

What belongs to one group lies in the slot of its list, what belongs to one user in that of its key;
so a script finds all of its keys in one place. The rooms above know none of this.
"""
