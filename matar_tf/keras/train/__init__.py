"""Training: callbacks, trainers, schedules, batch norm statistics."""
