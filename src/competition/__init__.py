"""What the task is: tables, folds, metrics, and the submission file."""
