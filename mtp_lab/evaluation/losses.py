"""x"""


import numpy as np

BITS_PER_NAT = 1 / np.log(2)
