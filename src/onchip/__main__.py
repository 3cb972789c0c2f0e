"""`python -m onchip` is the same as `onchip`."""

from onchip.cli import main

main()
