"""A mutation tester: it breaks one place of the core at a time, and its tests must notice."""
