"""Load: many writers on one MLflow store, ten thousand items, hours of training, 64 trials. Each stops by itself."""
