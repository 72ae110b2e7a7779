from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.runtime.rows import all_finite

VALUES = st.one_of(st.floats(width=32), st.sampled_from([3e38, -3e38, np.inf, -np.inf, np.nan]))


@pytest.mark.filterwarnings("error")
@given(x=arrays.arrays(np.float32, arrays.array_shapes(max_dims=3), elements=VALUES))
def test_rows_are_finite_if_each_value_is_though_their_sum_may_not_be(x: np.ndarray) -> None:
    assert all_finite(x) == np.isfinite(x).all()


def test_no_rows_are_finite() -> None:
    assert all_finite(np.empty((0, 3), dtype=np.float32))
