"""Networks: pure functions of arrays, in 2-D and 3-D."""
