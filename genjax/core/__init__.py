"""Shared types, named keys, tree masks and registries. Imports jax only."""
