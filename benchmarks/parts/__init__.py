"""What the scripts in benchmarks/ are made of."""
