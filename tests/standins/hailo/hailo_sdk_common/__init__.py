"""Plays the part of Hailo's compiler that its tools share."""
