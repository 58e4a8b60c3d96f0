"""Feeds damaged and invented files to the readers, and keeps those that break one.

    .venv/bin/pip install atheris                      # guided by coverage; without it, mutation
    .venv/bin/python tests/faults/fuzz.py --minutes=60 --out=findings
    .venv/bin/python tests/faults/fuzz.py --minutes=60 --entry png pickle --out=findings

A reader may read a file, or raise a ValueError that names it, in MOST_SECONDS and with
MOST_MEGABYTES more than before. Anything else is a finding: another exception, a message without
the file, a crash, too long, too much memory. One finding of each kind is saved, with its traceback.
Each entry runs in its own process, which is restarted after a crash. Prints executions, seconds and
findings of each entry; exit code 1 if there are findings.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import itertools
import json
import logging
import os
import pickle
import pickletools
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

MOST_SECONDS, MOST_MEGABYTES = 5, 512  # of one reading; seconds of the processor
MOST_BYTES = 4096  # of an input
GRACE = 600  # seconds past its time that a process may take, which other work may starve
SIZE, LABELS = (4, 4), ("background", "one", "two")
GZIP_MAGIC, PNG_MAGIC = b"\x1f\x8b", b"\x89PNG\r\n\x1a\n"
# Fragments that random bytes rarely contain.
WORDS = (
    *(
        b'NaN 1e400 -1 [ { } ": null true &a *a 2001-99-99 model_args: IHDR IDAT PLTE tRNS '
        b"IEND zTXt iTXt eXIf acTL R. "
    ).split(),
    b"<<: ",
    b"!!bool ",
    b"!!int ",
    b"!!float ",
    b"!!timestamp ",
    b"!!binary ",
    b"!!set ",
    b"!!omap ",
    b"- ",
    b"? ",
    b"\n  ",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"\x85R",
    b"\x93",
    b"\x94",
    b"\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
)


class TooSlow(BaseException):
    """No reader catches it."""


class Entry(NamedTuple):
    """A kind of file.

    Attributes:
      suffix: of its name, from its bytes.
      read: what is done to it.
      seeds: small whole ones.
    """

    suffix: Callable[[bytes], str]
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]


class Nameless(Exception):
    """An error of the user that does not say in which file it is."""


@contextlib.contextmanager
def refusals_pass(path: Path) -> Iterator[None]:
    """Lets a ValueError pass that names the file (or a field, where it is a run's config)."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        if path.stem not in message and not message.startswith("config"):
            raise Nameless(message) from error


def read_nifti(path: Path) -> None:
    from motfm_jax.data import camus, decathlon, nifti
    from motfm_jax.data.dataset_json import Entry as Pair
    from motfm_jax.data.orientation import Reading
    from motfm_jax.sampling.inputs import read_masks

    nifti.read(path)
    reading = Reading("pixdim", resample_masks=True)
    for read in (
        lambda path: nifti.read(path, "sform"),
        lambda path: camus.read_frame(camus.Frame("p", "2CH", "ED", path), False, reading),
        lambda path: decathlon.read_volume(Pair("p", path, path), ("T1w",), range(9), reading),
        lambda path: read_masks([path], LABELS, SIZE, "pad"),
        lambda path: read_masks([path], LABELS, (4, 4, 4), "stretch"),
    ):
        with refusals_pass(path):
            read(path)


def nifti_seeds() -> list[bytes]:
    import nibabel

    seeds = []
    for shape, dtype in (((4, 4), np.uint8), ((2, 3, 4), np.int16), ((2, 2, 2, 1), np.float32)):
        values = (np.arange(np.prod(shape)) % 3).reshape(shape).astype(dtype)
        for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
            seeds.append(kind(values, np.diag([1, 2, 3, 1])).to_bytes())
    return seeds + [gzip.compress(seed, mtime=0) for seed in seeds[:3]]


def read_pickle(path: Path) -> None:
    from motfm_jax.data.pickles import PickleSet

    data = path.read_bytes()
    with contextlib.suppress(Exception):  # a damaged stream; what comes before is looked at
        for sign, argument, _ in pickletools.genops(data):
            if sign.name.endswith("PUT") and int(argument) > len(data):
                return  # Python's unpickler makes room for that many objects
    for split, size in itertools.product(("train", "valid"), (SIZE, (2, 2, 2))):
        with refusals_pass(path):
            source = PickleSet(path, split, size)
            for index in range(min(len(source), 4)):
                source[index], source.entry(index)


def pickle_seeds() -> list[bytes]:
    image, mask = np.ones((1, 4, 4), np.float32), np.eye(4, dtype=np.uint8)[None]
    entry = {"image": image, "mask": mask, "class": "a", "metadata": {"spacing_mm": [1.0, 2.0]}}
    values = {"train": [entry], "valid": [{"image": np.asfortranarray(image[0]), "class": 1}]}
    one_hot = {"train": [{"image": np.ones((2, 2, 2), ">i2"), "class": np.array([0, 1])}]}
    return [pickle.dumps(value, protocol) for value in (values, one_hot) for protocol in (0, 2, 4)]


def read_yaml(path: Path) -> None:
    from motfm_jax.interop import original

    original.translate(original.read_yaml(path), str(path))


def yaml_seeds() -> list[bytes]:
    whole = """
model_args: {spatial_dims: 2, in_channels: 1, out_channels: 1, num_res_blocks: [2, 2],
  num_channels: [8, 16], attention_levels: [false, true], norm_num_groups: 8, num_head_channels: 8,
  resblock_updown: true, with_conditioning: true, cross_attention_dim: 4, mask_conditioning: true}
data_args: {pickle_path: a.pkl, image_norm: {mode: minmax, scope: sample, range: [0, 1]}}
train_args: {num_epochs: 2, lr: 0.0003, batch_size: 2, precision: 32-true}
solver_args: {method: midpoint, step_size: 0.2}
"""
    return [whole.encode(), b"model_args:\n  num_channels: &a [8]\n  attention_levels: *a\n"]


def read_json(path: Path) -> None:
    from motfm_jax import cli, settings

    folder = path.with_suffix(".run")
    folder.mkdir()
    try:
        (folder / "config.json").write_bytes(path.read_bytes())
        settings.check(cli._saved_config(["--resume", f"--workdir={folder}"]))
    finally:
        shutil.rmtree(folder)


def json_seeds() -> list[bytes]:
    from motfm_jax import settings

    whole = settings.default().to_dict()
    parts = [{name: whole[name]} for name in ("data", "model", "train")]
    return [json.dumps(values).encode() for values in (whole, *parts)]


def read_png(path: Path) -> None:
    from motfm_jax.sampling.inputs import read_masks

    read_masks([path], LABELS, SIZE, "pad")


def png_seeds() -> list[bytes]:
    from PIL import Image

    values = np.eye(4, dtype=np.uint8)
    palette = Image.fromarray(values).convert("P")
    pictures = [
        Image.fromarray(values),
        palette,
        Image.fromarray(values > 0),
        Image.fromarray(values.astype(np.uint16)),
        palette.convert("RGBA"),
    ]
    seeds = []
    for picture in pictures:
        stream = io.BytesIO()
        picture.save(stream, "png")
        seeds.append(stream.getvalue())
    return seeds


ENTRIES = {
    "nifti": Entry(
        lambda data: ".nii.gz" if data[:2] == GZIP_MAGIC else ".nii", read_nifti, nifti_seeds
    ),
    "pickle": Entry(lambda _: ".pkl", read_pickle, pickle_seeds),
    "yaml": Entry(lambda _: ".yaml", read_yaml, yaml_seeds),
    "json": Entry(lambda _: ".json", read_json, json_seeds),
    "png": Entry(lambda _: ".png", read_png, png_seeds),
}


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums they should have, or bytes as they are."""
    if not data.startswith(PNG_MAGIC):
        return data
    whole, position = [PNG_MAGIC], len(PNG_MAGIC)
    while position + 8 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4])
        whole += [data[position:end], zlib.crc32(data[position + 4 : end]).to_bytes(4)]
        position = end + 4
    return b"".join(whole)


def judge(read: Callable[[Path], object], path: Path) -> tuple[str, str] | None:
    """What is wrong with the way a file is read: its kind, which is one for one cause, and the
    details; None where nothing is."""

    def stop(*_):
        raise TooSlow

    def peak() -> float:  # of this program: the usual ru_maxrss counts its parent's too
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

    before = peak()
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        with refusals_pass(path):
            read(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        cause = error.__cause__ if isinstance(error, Nameless) else error
        frames = traceback.extract_tb(cause.__traceback__)
        ours = [frame for frame in frames if "motfm_jax" in frame.filename]
        places = {
            f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*ours[-1:], frames[-1])
        }
        return f"{type(error).__name__} {' '.join(sorted(places))}", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    more = peak() - before
    return ("memory", f"{more:.0f} MiB more") if more > MOST_MEGABYTES else None


class Session:
    """One entry's executions in this process: counts them and saves findings.

    Args:
      entry: its name.
      work: a folder of its own; the file that is being read is in it.
      out: folder of the findings.
    """

    def __init__(self, entry: str, work: Path, out: Path):
        self.entry, self.work, self.out = entry, work, out
        self.executions = 0
        self.begin = time.perf_counter()

    def execute(self, data: bytes) -> None:
        suffix, read, _ = ENTRIES[self.entry]
        if self.entry == "png" and self.executions % 2:
            data = with_checksums(data)
        path = self.work / f"input{self.executions}{suffix(data)}"
        path.write_bytes(data)
        found = judge(read, path)
        path.unlink()
        self.executions += 1
        if found:
            save(self.out, self.entry, *found, data)
        if found or self.executions % 64 == 0:
            self.report()

    def report(self) -> None:
        new = self.work / "executions.new"  # this process may be ended at any moment
        new.write_text(str(self.executions))
        new.replace(self.work / "executions")


def save(out: Path, entry: str, kind: str, details: str, data: bytes) -> None:
    """A finding, unless one of its kind is there."""
    name = f"{entry}-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
    if not (out / f"{name}.txt").exists():
        (out / f"{name}.bin").write_bytes(data)
        (out / f"{name}.txt").write_text(f"{entry}: {kind}\n{details}\n")


def mutations(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Without end: seeds with a few of their bytes changed, cut out, repeated, or of two mixed."""
    draw = random.Random(seed)
    yield from seeds
    while True:
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 1, 2, 4, 16))):
            at = draw.randrange(len(data) + 1)
            to = min(len(data), at + draw.choice((1, 2, 4, 8, 64)))
            how = draw.randrange(6)
            if how == 0 and at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            elif how == 1:
                data[at:to] = draw.randbytes(to - at)
            elif how == 2:
                del data[at:to]
            elif how == 3:
                data[at:at] = data[at:to] * draw.choice((1, 2, 50))
            elif how == 4:
                data[at : draw.choice((at, to))] = draw.choice(WORDS)
            else:
                other = draw.choice(seeds)
                data[at:] = other[draw.randrange(len(other)) :]
        yield bytes(data[:MOST_BYTES])


def fuzz(name: str, work: Path, out: Path, seconds: float, engine: str, seed: int) -> None:
    """Runs one entry in this process."""
    warnings.simplefilter("ignore")
    logging.disable()
    sys.setrecursionlimit(1000)  # coverage must not make it another
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))  # whatever happens
    if engine == "atheris":
        guided(name, work, out, seconds, seed)
    files = mutations(ENTRIES[name].seeds(), seed)
    session = Session(name, work, out)
    while time.perf_counter() - session.begin < seconds:
        session.execute(next(files))
    session.report()


def guided(name: str, work: Path, out: Path, seconds: float, seed: int) -> None:
    """The same by atheris, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=["motfm_jax", "nibabel", "PIL", "yaml", "json"]):
        seeds = ENTRIES[name].seeds()
        for data in seeds:  # imports what reading needs
            (work / "first").write_bytes(data)
            path = (work / "first").rename(work / f"first{ENTRIES[name].suffix(data)}")
            judge(ENTRIES[name].read, path)
            path.unlink()
    corpus = work / "corpus"
    corpus.mkdir()
    for index, data in enumerate(seeds):
        (corpus / f"seed{index}").write_bytes(data)
    words = "".join(f'"{"".join(f"{chr(92)}x{byte:02x}" for byte in word)}"\n' for word in WORDS)
    (work / "words").write_text(words)
    session = Session(name, work, out)

    def execute(data: bytes) -> None:
        session.execute(data)
        if time.perf_counter() - session.begin > seconds:
            session.report()
            os._exit(0)

    options = {
        "dict": work / "words",
        "max_len": MOST_BYTES,
        "seed": seed + 1,
        "timeout": 3600,
        "rss_limit_mb": 0,
        "len_control": 0,
        "artifact_prefix": f"{work}/",
    }
    atheris.Setup(
        ["fuzz", *(f"-{key}={value}" for key, value in options.items()), str(corpus)], execute
    )
    atheris.Fuzz()


def run(name: str, out: Path, seconds: float, engine: str, seed: int) -> tuple[int, float]:
    """One entry in processes of its own: executions and seconds. A crash is a finding."""
    executions, begin = 0, time.perf_counter()
    end = begin + seconds
    while time.perf_counter() < end:
        with tempfile.TemporaryDirectory() as folder:
            work, left = Path(folder), end - time.perf_counter()
            call = [
                sys.executable,
                __file__,
                f"--inside={work}",
                f"--entry={name}",
                f"--out={out}",
                f"--minutes={left / 60}",
                f"--engine={engine}",
                f"--seed={seed}",
            ]
            try:
                with open(work / "log", "wb") as log:
                    code = subprocess.run(
                        call, stdout=log, stderr=log, timeout=left + GRACE
                    ).returncode
            except subprocess.TimeoutExpired:
                code = "no end"
            if (work / "executions").exists():
                executions += int((work / "executions").read_text())
            if code != 0:
                log = (work / "log").read_text(errors="replace")[-4000:]
                at = [path for path in work.glob("input*.*") if path.is_file()]
                if not at:  # it did not come to an input
                    raise RuntimeError(f"{name}: exit code {code}\n{log}")
                save(out, name, f"exit code {code}", log, at[0].read_bytes())
        seed += 1
    return executions, time.perf_counter() - begin


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3, help="of each entry")
    parser.add_argument("--entry", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--engine", choices=("auto", "atheris", "mutation"), default="auto")
    parser.add_argument("--out", type=Path, required=True, help="folder for the findings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    seconds = args.minutes * 60
    if args.inside:
        fuzz(args.entry[0], args.inside, out, seconds, args.engine, args.seed)
        return 0
    engine = args.engine
    if engine == "auto":
        has_atheris = subprocess.run([sys.executable, "-c", "import atheris"], capture_output=True)
        engine = "mutation" if has_atheris.returncode else "atheris"
    for name in args.entry:
        executions, took = run(name, out, seconds, engine, args.seed)
        findings = sorted(out.glob(f"{name}-*.txt"))
        print(
            f"{name}: {executions} executions in {took:.0f} s by {engine}, "
            f"{len(findings)} findings",
            flush=True,
        )
        for path in findings:
            print(f"  {path.with_suffix('.bin')}: {path.read_text().splitlines()[0]}", flush=True)
    return any(out.glob("*.txt"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
