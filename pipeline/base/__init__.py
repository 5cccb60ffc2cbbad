"""What everything else stands on: settings, errors, retries, stopping, logs, and what is declared of the views."""
