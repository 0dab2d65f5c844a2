"""Values to draw from."""

from __future__ import annotations

import math

from hypothesis import strategies as st

LN2 = math.log(2)


reals = st.lists(st.floats(-100, 100), min_size=2, max_size=30)
