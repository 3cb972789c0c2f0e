"""Plays HailoRT's Python binding."""
