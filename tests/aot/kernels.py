"""Reads an optimised program of XLA:GPU: its kernels, the bytes they move, their FLOP, a roofline.

    python tests/aot/kernels.py FOLDER/*.hlo.txt

Every instruction outside fusions is a kernel. It reads its operands and writes its result once. A
fusion reads of an operand what it slices from it, and, without a sum, no more elements than it
writes. A loop counts as often as it runs.
"""

import collections
import dataclasses
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FLOP_PER_S, BYTES_PER_S = 790e12, 3.35e12  # of an H100, dense bfloat16
UNKNOWN_TRIPS = 10  # of a loop whose length XLA does not know
ITEM = dict(pred=1, s8=1, u8=1, s16=2, u16=2, bf16=2, f16=2, s32=4, u32=4, f32=4, s64=8, u64=8)
ITEM |= dict(f64=8, c64=8, token=0)
ARRAY = re.compile(rf"({'|'.join(ITEM)})\[([0-9,]*)\]")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.+)$")
HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+)")
FREE = {
    "all-reduce-done",
    "async-done",
    "bitcast",
    "constant",
    "copy-done",
    "custom-call-done",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "after-all",
}
CONVOLUTIONS = {
    "__cudnn$convForward": "convolution",
    "__cudnn$convBiasActivationForward": "convolution",
    "__cudnn$convBackwardInput": "convolution, gradient of input",
    "__cudnn$convBackwardFilter": "convolution, gradient of kernel",
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      name, op: of it.
      type: of its result, as text.
      operands: names.
      inside: the text between its parentheses.
      attributes: the text after them.
      root: whether it is its computation's result.
    """

    name: str
    op: str
    type: str
    operands: tuple[str, ...]
    inside: str
    attributes: str
    root: bool

    @property
    def target(self) -> str:
        """Of a custom call."""
        return self._named(r'custom_call_target="([^"]+)"')

    @property
    def calls(self) -> str:
        """The computation of a fusion."""
        return self._named(r"calls=%?([\w.\-]+)")

    @property
    def body(self) -> str:
        """The computation of a loop or call."""
        return self._named(r"(?:body|to_apply|calls)=%?([\w.\-]+)")

    @property
    def trips(self) -> int:
        """How often a loop runs; 0 if XLA does not know."""
        return int(self._named(r'"known_trip_count":\{"n":"(\d+)"') or 0)

    @property
    def layout(self) -> str:
        """Of a convolution: input_kernel->output."""
        return self._named(r"dim_labels=([\w>\-]+)")

    @property
    def source(self) -> str:
        """Where in our code it comes from."""
        return self._named(r'op_name="([^"]*)"')

    def _named(self, pattern: str) -> str:
        found = re.search(pattern, self.attributes)
        return found.group(1) if found else ""


Computation = dict[str, Instruction]


class Kernel(NamedTuple):
    """One launch.

    Attributes:
      kind: of work.
      times: how often a run of the program launches it.
      bytes: that a launch reads and writes.
      flop: of a launch.
      instruction: itself.
    """

    kind: str
    times: int
    bytes: int
    flop: float
    instruction: Instruction

    @property
    def seconds(self) -> float:
        """Of a launch, by the card's peak rates."""
        return max(self.flop / FLOP_PER_S, self.bytes / BYTES_PER_S)


def shapes(type: str) -> list[tuple[str, list[int]]]:
    """Types and extents of the arrays in a type."""
    return [(kind, [int(d) for d in dims.split(",") if d]) for kind, dims in ARRAY.findall(type)]


def size(type: str) -> int:
    """Bytes of a type."""
    return sum(ITEM[kind] * math.prod(dims) for kind, dims in shapes(type))


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """A program's computations by name, and the name of the one that is run."""
    computations: dict[str, Computation] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")):
            is_entry, name = HEADER.match(line).groups()
            current = computations[name] = {}
            entry = name if is_entry else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := INSTRUCTION.match(line)):
            root, name, rest = found.groups()
            current[name] = _instruction(name, rest, bool(root))
    return computations, entry


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    end = _closing(rest) if rest[0] == "(" else rest.index(" ")
    type, rest = rest[:end], rest[end + 1 :]
    op, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    inside = rest[: end - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, op.strip(), type, operands, inside, rest[end:], root)


def _closing(text: str) -> int:
    """The end of the parenthesis that a text begins with."""
    depth = 0
    for index, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if not depth:
            return index + 1
    raise ValueError(f"no closing parenthesis: {text[:80]}")


def kernels(computations: dict[str, Computation], name: str, times: int = 1) -> Iterator[Kernel]:
    """All launches of a computation."""
    computation = computations[name]
    for one in computation.values():
        if one.op == "while":
            yield from kernels(computations, one.body, times * (one.trips or UNKNOWN_TRIPS))
        elif one.op in ("call", "async-start"):
            yield from kernels(computations, one.body, times)
        elif one.op not in FREE:
            yield _kernel(computations, computation, one, times)


def _kernel(
    computations: dict[str, Computation], computation: Computation, one: Instruction, times: int
) -> Kernel:
    moved = sum(size(computation[name].type) for name in one.operands) + size(one.type)
    if one.op == "fusion":
        body = computations[one.calls]
        called = [each for each in body.values() if each.op == "custom-call"]
        if called:  # a library's call on a slice of a long array
            kind, flop, _ = _library_call(body, called[0])
        else:
            kind, flop = _fusion_kind(body), 0.0
        return Kernel(kind, times, _fusion_bytes(body), flop, one)
    if one.op == "custom-call":
        kind, flop, workspace = _library_call(computation, one)
        return Kernel(kind, times, moved - workspace, flop, one)
    kind = "copy" if one.op in ("copy", "copy-start", "transpose") else one.op
    return Kernel(kind, times, moved, 0.0, one)


def _fusion_kind(body: Computation) -> str:
    ops = {each.op for each in body.values()} - {"parameter", "bitcast", "constant", "tuple"}
    for kind, signs in (
        ("concatenation", {"concatenate"}),
        ("reduction", {"reduce"}),
        ("copy", {"transpose", "copy"}),
    ):
        if ops & signs:
            return kind
    return "cast" if "convert" in ops and ops <= {"convert", "broadcast"} else "elementwise"


def _fusion_bytes(body: Computation) -> int:
    users = collections.defaultdict(list)
    for each in body.values():
        for name in each.operands:
            users[name].append((each, name))

    def uses(name: str) -> list[tuple[Instruction, str]]:
        found = []
        for user, operand in users[name]:
            found += uses(user.name) if user.op in ("bitcast", "convert") else [(user, operand)]
        return found

    root = next(each for each in body.values() if each.root)
    elements = max(math.prod(dims) for _, dims in shapes(root.type))
    moved, reduces = 0, any(each.op in ("reduce", "scatter") for each in body.values())
    for each in body.values():
        if each.op != "parameter":
            continue
        full, using = size(each.type), uses(each.name)
        ops = {user.op for user, _ in using}
        if not reduces:  # one element for each of the result
            full = min(full, elements * ITEM[shapes(each.type)[0][0]])
        if using and ops <= {"dynamic-slice", "slice", "gather"}:
            full = min(full, sum(size(user.type) for user, _ in using))
        elif ops == {"dynamic-update-slice"} and all(u.operands[0] == name for u, name in using):
            full = 0
        moved += full
    for each in [body[name] for name in root.operands] if root.op == "tuple" else [root]:
        while each.op == "bitcast":
            each = body[each.operands[0]]
        part = each.op == "dynamic-update-slice"
        moved += size(body[each.operands[1]].type if part else each.type)
    return moved


def _library_call(computation: Computation, one: Instruction) -> tuple[str, float, int]:
    """Kind, FLOP and bytes of workspace of a call of cuDNN or cuBLAS."""
    results = shapes(one.type)
    kind, dims = results[-1]
    scratch = one.type[0] == "(" and kind in ("u8", "s8") and len(dims) == 1
    workspace = math.prod(dims) if scratch else 0
    operands = [shapes(computation[name].type)[0][1] for name in one.operands[:2]]
    if one.target in CONVOLUTIONS:
        kind, out = CONVOLUTIONS[one.target], results[0][1]
        outputs = re.search(r"_(\w+)->", one.layout).group(1).index("o")
        # The kernel, and the array at whose every position it is applied.
        kernel, applied = {
            "convolution": (operands[1], out),
            "convolution, gradient of input": (operands[1], operands[0]),
            "convolution, gradient of kernel": (out, operands[1]),
        }[kind]
        flop = 2 * math.prod(applied) * math.prod(kernel) / kernel[outputs]
    elif "cublas" in one.target:
        kind, out = "product", results[0][1]
        summed = re.search(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]', one.attributes).group(1)
        over = [operands[0][int(axis)] for axis in re.findall(r"\d+", summed)]
        flop = 2 * math.prod(out) * math.prod(over)
    elif "fmha" in one.target:
        backward = "Backward" in one.target
        kind = "attention, backward" if backward else "attention"
        (rows, queries, heads, depth), (_, keys, *_) = operands
        flop = (10 if backward else 4) * rows * heads * queries * keys * depth
    else:
        kind, flop = one.target, 0.0
    return kind, flop, workspace


def summary(text: str) -> dict[str, Any]:
    """Totals of a program, and of each kind of kernel [launches, bytes, FLOP]."""
    computations, entry = parse(text)
    found = list(kernels(computations, entry))
    kinds: dict[str, list[float]] = {}
    for each in found:
        sums = kinds.setdefault(each.kind, [0, 0, 0])
        for place, value in enumerate((1, each.bytes, each.flop)):
            sums[place] += each.times * value
    loops = [
        one.trips
        for computation in computations.values()
        for one in computation.values()
        if one.op == "while"
    ]
    return {
        "launches": sum(each.times for each in found),
        "bytes": sum(each.times * each.bytes for each in found),
        "flop": sum(each.times * each.flop for each in found),
        "roofline_s": sum(each.times * each.seconds for each in found),
        "loops": loops,
        "layouts": dict(
            collections.Counter(
                each.instruction.layout for each in found if each.instruction.layout
            )
        ),
        "kinds": dict(sorted(kinds.items(), key=lambda kind: -kind[1][1])),
    }


def main(paths: list[str]) -> None:
    for path in paths:
        found = summary(Path(path).read_text())
        print(
            f"{path}: {found['launches']:,} launches, {found['bytes'] / 1e9:.1f} GB, "
            f"{found['flop'] / 1e12:.2f} TFLOP, roofline {1e3 * found['roofline_s']:.1f} ms, "
            f"loops {found['loops']}"
        )
        for kind, (launches, moved, flop) in found["kinds"].items():
            print(f"  {kind:34} {launches:7,} {moved / 1e9:9.2f} GB {flop / 1e12:9.3f} TFLOP")
        for layout, count in found["layouts"].items():
            print(f"  {layout}: {count}")


if __name__ == "__main__":
    main(sys.argv[1:])
