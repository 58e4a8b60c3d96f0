"""Digests of arrays and of JSON."""

import concurrent.futures
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """BLAKE2b of names, shapes, types and values, sorted by name: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def hash_batches(name: str, shape: tuple[int, ...], batches: Iterable[np.ndarray]) -> str:
    """`hash_arrays` of one array [N, ..] that comes in batches [n, ..]."""
    digest = hashlib.blake2b(digest_size=16)
    for number, batch in enumerate(batches):
        if number == 0:
            digest.update(f"{name} {shape} {batch.dtype}\n".encode())
        digest.update(np.ascontiguousarray(batch).data)
    return digest.hexdigest()


def hash_parts(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """A digest per part, the arrays whose names are equal up to the first "/"; uses all cores."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = pool.map(lambda item: hash_arrays(dict([item])), sorted(arrays.items()))
    parts: dict[str, list[str]] = {}
    for name, digest in zip(sorted(arrays), digests):
        parts.setdefault(name.partition("/")[0], []).append(digest)
    return {part: hash_json(digests) for part, digests in parts.items()}


def hash_json(value: Any) -> str:
    """BLAKE2b of a JSON-able value: 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def hash_file(path: Path) -> str:
    """BLAKE2b of a file's bytes: 40 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
