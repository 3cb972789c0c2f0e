"""Rockchip's NPUs: our plan or the SDK's own quantization, the simulator, and the board."""
