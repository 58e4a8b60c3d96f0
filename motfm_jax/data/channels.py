"""Channels of images by their names."""

from collections.abc import Sequence
from pathlib import Path

FIELD = "config.data.channel, in motfm prepare --channel"


def list_channels(names: str | Sequence[str]) -> list[str]:
    """The names of config.data.channel: one, several after commas, or a tuple; [] for "".

    Raises:
      ValueError: something else, or a name twice.
    """
    parts = names.split(",") if isinstance(names, str) else names
    texts = [part.strip() for part in parts if isinstance(part, str)]
    if texts == [""]:
        return []
    if len(texts) != len(parts) or len({text.lower() for text in texts}) != len(texts):
        raise ValueError(
            f"config.data.channel={names!r}: a name, or several different ones, such as "
            '"T1w,FLAIR", needed'
        )
    return texts


def find_channels(
    path: str | Path, channels: Sequence[str], names: Sequence[str], field: str = FIELD
) -> list[int]:
    """Indices of the channels of these names, in any case but whole: T1w is not t1gd.

    Args:
      path: of what has the channels, for messages.
      channels: the names that there are.
      names: in the order needed, as `list_channels` returns them.
      field: which chooses the names, for messages.

    Raises:
      ValueError: no channel of a name, or several.
    """
    known, indices = [each.lower() for each in channels], []
    for name in names:
        number = known.count(name.lower())
        if number != 1:
            came = f"{number or 'no'} channels are called {name!r}" if name else "no channel chosen"
            raise ValueError(
                f"{path}: {came}, it has {', '.join(channels) or 'no names of channels'}; name one "
                f"of them: {field}"
            )
        indices.append(known.index(name.lower()))
    return indices
