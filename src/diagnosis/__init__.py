"""What this machine is and what would go wrong on it: `./run.sh doctor`."""
