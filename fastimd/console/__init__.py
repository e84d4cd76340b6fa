"""The operator's console: HTML, CSS and JavaScript, served as they are."""
