"""Kaggle's side: what its notebooks hold, their metadata, and its official command."""
