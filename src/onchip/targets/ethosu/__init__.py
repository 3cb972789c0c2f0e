"""Arm's Ethos-U NPUs, through Vela."""
