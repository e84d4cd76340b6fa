"""What every other folder may use: settings, messages as bytes, errors, the log and the metrics."""
