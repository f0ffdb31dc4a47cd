"""Losses of trained runs on held-out rows, and the units in which they are shown."""

import numpy as np

BITS_PER_NAT = 1 / np.log(2)
