"""LiteRT (TensorFlow Lite): our plan as an integer .tflite file, and the runtime that runs it."""
