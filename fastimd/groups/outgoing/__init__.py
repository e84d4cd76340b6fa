"""What a backend is told: events and messages, over Redis, until it has taken them."""
