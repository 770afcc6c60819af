"""Kaggle's side: what its notebooks hold, what it is told about them, and its official command."""
