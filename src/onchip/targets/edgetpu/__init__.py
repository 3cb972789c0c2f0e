"""Google's Coral Edge TPU, through edgetpu_compiler and libedgetpu."""
