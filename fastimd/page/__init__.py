"""The chat page: HTML, CSS and JavaScript, served as they are."""
