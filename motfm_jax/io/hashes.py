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
    """`hash_arrays` of each part: of the arrays whose names are equal up to the first "/"."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        parts.setdefault(name.partition("/")[0], {})[name] = array
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(parts, pool.map(hash_arrays, parts.values())))


def hash_json(value: Any) -> str:
    """BLAKE2b of a JSON-able value: 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def hash_file(path: Path) -> str:
    """BLAKE2b of a file's bytes: 40 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
