"""Files and folders that are whole or absent, locks, and folders whose work can be resumed.

Everything is written under a hidden name, `.TOKEN.NAME`, in the same folder and renamed at the end.
A kill leaves such a draft at most.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

DRAFT = re.compile(r"^\.[0-9a-f]{8}\.")  # what whole_file and whole_folder put before a name


def sync(path: Path) -> None:
    """Returns once a file or folder is on the disk itself, safe from a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` for a folder and everything in it."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def _draft(path: Path) -> Path:
    """An unused path beside `path`, with its suffix."""
    return path.with_name(f".{secrets.token_hex(4)}.{path.name}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to; it replaces `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    try:
        yield draft
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill; it becomes `path` when the block ends without an error.

    Args:
      path: links are followed; an empty folder is always replaced.
      replace: replace whatever is there.

    Raises:
      FileExistsError: something is there when the block ends, and `replace` is not set.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft, old = _draft(path), _draft(path)
    draft.mkdir()
    try:
        yield draft
        sync_tree(draft)
        if replace and path.exists():
            path.rename(old)
        try:
            draft.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise FileExistsError(f"{path}: was written by another process meanwhile") from error
        sync(path.parent)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Holds the operating system's lock on a file, which is created for it and deleted after.

    A process that dies gives up its locks; the file that it leaves does no harm.

    Args:
      path: the lock file; its folder is created if needed.
      wait: wait for another process that holds the lock.

    Yields:
      whether the lock is held: False where the file system has no locks.

    Raises:
      ValueError: another process holds the lock and `wait` is not set; the folder is not writable.
    """
    path = Path(path)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ValueError(
                f"{path.parent}: cannot be written ({error.strerror}); use another folder"
            ) from error
        with open(descriptor, "r+", errors="replace") as file:
            is_locked = _lock(file, path, wait)
            if is_locked and not _is_at(descriptor, path):
                continue  # the process that held the lock has deleted its file
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                yield is_locked
            finally:
                path.unlink(missing_ok=True)
            return


def _lock(file: Any, path: Path, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        holder = file.read(200).strip() or "another process"
        raise ValueError(
            f"{path.parent}: in use by {holder}; wait for it, stop it, or use another folder"
        ) from None
    except OSError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that `path` names now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def read_json(path: Path, cure: str = "restore it from a copy, or make it again") -> Any:
    """The content of a JSON file.

    Raises:
      ValueError: it cannot be read; the message ends with `cure`.
    """
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); {cure}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(value, indent=2) + "\n")


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of nested settings: ("train.lr", 1e-4), ... ."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str] = ()
) -> list[str]:
    """One entry per field that differs between nested JSON-able settings: "train.lr was 1, is 2".

    Args:
      ignore: fields that may differ.
    """
    before, after = (dict(leaves(json.loads(json.dumps(tree)))) for tree in (old, new))
    changed = [
        name
        for name in sorted(before.keys() | after.keys())
        if name not in ignore
        and (name in before, before.get(name)) != (name in after, after.get(name))
    ]
    return [f"{name} was {_shown(before, name)}, is {_shown(after, name)}" for name in changed]


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return repr(fields[name]) if name in fields else "absent"


def check_same(
    path: Path, old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str] = ()
) -> None:
    """Raises ValueError if what is at `path` has other settings; arguments as in `differences`."""
    if changed := differences(old, new, ignore):
        raise ValueError(
            f"{path}: was made with other settings ({'; '.join(changed)}); use the same settings, "
            "or another folder, or delete the old results with --overwrite"
        )


@contextlib.contextmanager
def claimed(
    path: Path,
    settings: Mapping[str, Any],
    recall: Callable[[Path], Mapping[str, Any] | None],
    own: Sequence[str],
    ignore: Collection[str] = (),
) -> Iterator[bool]:
    """Takes a folder whose work can be resumed after a kill. Foreign files in it stay.

    Args:
      path: the folder; created if needed.
      settings: everything that its content depends on, JSON-able.
      recall: folder -> the settings of its content, or None if nothing there is to be resumed. It
        raises ValueError if the content is not ours. It is called with and without the lock.
      own: regular expressions of the names that may be deleted, in the order of deletion. What
        `recall` needs to know the folder as ours comes last.
      ignore: settings that may differ from those before.

    Yields:
      whether there is work to resume. If not, everything in `own` has been deleted. The caller
      writes the settings for `recall` first of all.

    Raises:
      ValueError: a file at `path`, foreign content, other settings, or another process at work.
    """
    path = Path(path)
    _resumes(path, settings, recall, ignore)  # before anything is touched
    with locked(path / "lock") as is_locked:
        if not is_locked:
            raise ValueError(
                f"{path}: this file system has no locks, so two processes could write here at "
                "once; use a folder on another one"
            )
        resumes = _resumes(path, settings, recall, ignore)
        for pattern in own:
            for entry in path.iterdir():
                name = DRAFT.sub("", entry.name)
                if re.fullmatch(pattern, name) and (name != entry.name or not resumes):
                    _delete(entry)
        yield resumes


def _resumes(
    path: Path,
    settings: Mapping[str, Any],
    recall: Callable[[Path], Mapping[str, Any] | None],
    ignore: Collection[str],
) -> bool:
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file; a folder is needed")
    before = recall(path)
    if before is not None:
        check_same(path, before, settings, ignore)
    return before is not None


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
