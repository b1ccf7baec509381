"""Searches over a sampler (spaces, methods), and sweeps of runs with their scaling laws."""
