"""`python -m onchip` is the same as `onchip`."""

from onchip.cli import main

if __name__ == "__main__":
    main()
