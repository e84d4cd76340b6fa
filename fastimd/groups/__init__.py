"""The domain: what is stored of groups and users, who listens here, and the fan-out to them."""
