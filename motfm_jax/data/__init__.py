"""Files to batches, and the table of data sources.

To add a source, write a class and put it into `SOURCES` under the name that `config.data.source`
will give. Its instances are one split each (see `source.Source`). The class brings

  dims: the spatial ranks it can have, such as (2,); None for any.
  needs_root: whether config.data.root must be set.
  has_channels: True if flow.source_channel can name one of its channels. Optional.
  classes: () on the class itself if the source never has classes. Optional.
  from_config(data, split): a split ("train", "valid" or "test") from the fields of config.data,
    read as attributes. With `has_channels` it also takes source_channel="".
  check_config(data): raises ValueError for fields that cannot work. Optional.
  check(root, progress): an `examination.Report` for `prepare check`. It may take a third argument,
    data: the fields of config.data. Optional.

    motfm_jax.data.SOURCES["mine"] = Mine
"""

from motfm_jax.data.camus import Camus
from motfm_jax.data.decathlon import Decathlon
from motfm_jax.data.folder import Folder
from motfm_jax.data.phantom import PhantomBrain, PhantomEcho
from motfm_jax.data.pickles import PickleSet
from motfm_jax.data.source import FromPython
from motfm_jax.fields import one_of

SOURCES: dict[str, type] = {
    "phantom_echo": PhantomEcho,
    "phantom_brain": PhantomBrain,
    "camus": Camus,
    "decathlon": Decathlon,
    "folder": Folder,
    "pickle": PickleSet,
    "python": FromPython,
}


def find_source(name: str) -> type:
    """The class of a name in `SOURCES`; ValueError if there is none."""
    needed = one_of(name, SOURCES)
    if needed:
        raise ValueError(
            f"config.data.source={name!r}: {needed}; your own is registered by "
            "motfm_jax.data.SOURCES[NAME] = CLASS"
        )
    return SOURCES[name]
