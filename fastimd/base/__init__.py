"""The ground floor: settings, messages as bytes, errors, the log and the metrics."""
