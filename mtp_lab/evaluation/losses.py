"""Losses of trained runs on held-out rows, and the units they are shown in."""

import numpy as np

BITS_PER_NAT = 1 / np.log(2)
