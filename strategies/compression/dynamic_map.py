"""The dynamic map of 8-bit optimisers (arXiv 2110.02861), as constants.

bitsandbytes computes it with `torch.linspace`, whose last bits hang on the processor's vector
instructions. Both ends of a federation must decode to equal bits, so the numbers are written down.
"""

import base64

import torch
from torch import Tensor

_POSITIVE = (
    "t6MTNZQaWjb/BQI3BkKyNzSANziz74o4Sx+6OAvXIzkF54w5g+LHOQFvATrB7B46gGo8Oj7oWTr/ZXc6ne+nOvyp"
    "8Totsh07XI9CO4psZzvdJIY7dJOYOw0CqzukcL07O9/PO9NN4jtqvPQ7gZUDPM3MDDwYBBY8ZDsfPEjhOjzD9Wg8"
    "H4WLPF2Pojyambk816PQPBWu5zxSuP48SOEKPWdmFj2F6yE9o3AtPcP1OD3hekQ9AABQPR+FWz09Cmc9XY9yPXsU"
    "fj3NzIQ9XY+KPetRkD17FJY9CtebPZqZoT0qXKc9uB6tPUjhsj3Xo7g9Z2a+PfcoxD2F68k9NDPbPQAA+D1mZgo+"
    "zcwYPjMzJz6amTU+AABEPmZmUj7NzGA+MzNvPpmZfT4AAIY+NDONPmZmlD6amZs+zMyiPgAAqj4zM7E+Zma4PpqZ"
    "vz7MzMY+AADOPjMz1T5mZtw+mpnjPszM6j4AAPI+MjP5PjMzAD/MzAM/ZmYHPwAACz+amQ4/NDMSP83MFT9mZhk/"
    "AAAdP5qZID80MyQ/zcwnP2ZmKz8AAC8/mpkyPzQzNj/NzDk/ZmY9PwAAQT+amUQ/MzNIP83MSz9mZk8/AABTP5qZ"
    "Vj8zM1o/zcxdP2ZmYT8AAGU/mploPzMzbD/NzG8/ZmZzPwAAdz+amXo/MzN+Pw=="
)
"""The 127 numbers between 0 and 1, ascending, as little-endian float32 in base64."""


def dynamic_map() -> Tensor:
    """All 256 numbers, float32, ascending in [-1, 1]: those, their negatives, 0 and 1."""
    data = bytearray(base64.b64decode(_POSITIVE))
    positive = torch.frombuffer(data, dtype=torch.float32)
    return torch.cat([-positive.flip(0), torch.zeros(1), positive, torch.ones(1)])
