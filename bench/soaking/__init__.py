"""The parts of the soak: people who talk and listen, what is done to the servers, and the judge."""
