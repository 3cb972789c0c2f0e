"""Plays the little of TensorFlow that feeds the compiler: datasets from a generator, and no more."""

import numpy as np

from tensorflow import config as config
from tensorflow import data as data
from tensorflow._values import Tensor as Tensor
from tensorflow._values import TensorSpec as TensorSpec

__version__ = "2.18.0"
float32 = np.dtype("float32")
uint8 = np.dtype("uint8")
