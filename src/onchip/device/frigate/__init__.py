"""Frigate: its configuration for a model, a check of a user's own, and a detector that it asks."""
