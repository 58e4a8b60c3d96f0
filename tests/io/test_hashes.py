"""Digests of arrays."""

import numpy as np

from motfm_jax.io.hashes import hash_arrays, hash_parts


def test_parts_are_the_first_components_of_names():
    arrays = {name: np.full(3, i) for i, name in enumerate(("params/a", "step", "params/b/c"))}
    before = hash_parts(arrays)
    assert list(before) == ["params", "step"]
    assert before == hash_parts(dict(reversed(arrays.items())))
    for name, changed in (("params/b/c", "params"), ("step", "step")):
        after = hash_parts({**arrays, name: np.zeros(3)})
        assert [part for part in before if after[part] != before[part]] == [changed]


def test_a_digest_depends_on_names_shapes_types_and_values():
    array = np.arange(4)
    others = [{"b": array}, {"a": array[None]}, {"a": array.astype(float)}, {"a": array + 1}]
    digests = [hash_arrays(arrays) for arrays in ({"a": array}, *others)]
    assert len(set(digests)) == 5 and all(len(digest) == 32 for digest in digests)
