"""What is done: a job, one instant, a backfill, a training set."""
