"""Hailo's chips: what onchip plans by itself, and Hailo's own compiler and runtime behind it."""
