"""A progress bar on the terminal or in a notebook."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from motfm_jax.core import Progress


@contextmanager
def progress_bar(unit: str = "image", show: bool = True) -> Iterator[Progress | None]:
    """A bar, as the `progress` argument of functions; None if it is not to be shown."""
    if not show:
        yield None
        return
    with tqdm(unit=unit, disable=None, leave=False) as bar:  # None: only on a terminal

        def update(what: str, done: int, total: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        yield update
