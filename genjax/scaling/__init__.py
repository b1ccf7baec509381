"""Searches over a sampler: spaces of candidates, and methods that rank them."""
