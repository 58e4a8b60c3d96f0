"""Programs of a GPU, compiled where tests/aot/setup.sh has set up what that needs."""

import json
import os
import subprocess
from pathlib import Path

import kernels
import pytest

HOME = Path(os.environ.get("MOTFM_AOT", "~/.cache/motfm-aot")).expanduser()
COMPILE = Path(__file__).parent / "compile.sh"
LAST, AXES = "bf_oi->bf", str.maketrans("", "", "012")  # channels last, without spatial axes

PROGRAM = """\
HloModule program

%body (state: (s32[], bf16[2,8,8,4])) -> (s32[], bf16[2,8,8,4]) {
  %state = (s32[], bf16[2,8,8,4]) parameter(0)
  %count = s32[] get-tuple-element(%state), index=0
  %x = bf16[2,8,8,4] get-tuple-element(%state), index=1
  %kernel = bf16[4,3,3,4] constant({...})
  %call = (bf16[2,8,8,4], u8[512]) custom-call(%x, %kernel), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %y = bf16[2,8,8,4] get-tuple-element(%call), index=0
  ROOT %next = (s32[], bf16[2,8,8,4]) tuple(%count, %y)
}

%crop (whole: bf16[2,8,8,4]) -> bf16[1,8,8,4] {
  %whole = bf16[2,8,8,4] parameter(0)
  %part = bf16[1,8,8,4] slice(%whole), slice={[0:1], [0:8], [0:8], [0:4]}
  ROOT %twice = bf16[1,8,8,4] add(%part, %part)
}

ENTRY %main (first: (s32[], bf16[2,8,8,4])) -> bf16[1,8,8,4] {
  %first = (s32[], bf16[2,8,8,4]) parameter(0)
  %loop = (s32[], bf16[2,8,8,4]) while(%first), condition=%go, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
  %last = bf16[2,8,8,4] get-tuple-element(%loop), index=1
  ROOT %fusion = bf16[1,8,8,4] fusion(%last), kind=kLoop, calls=%crop
}
"""


def test_kernels_are_counted_with_their_loops_bytes_and_flop():
    found = kernels.summary(PROGRAM)
    assert (found["launches"], found["loops"]) == (8, [7])
    image, kernel = 2 * 8 * 8 * 4 * 2, 4 * 3 * 3 * 4 * 2
    assert found["kinds"]["convolution"] == [
        7,
        7 * (2 * image + kernel),  # the workspace is not moved
        7 * 2 * (2 * 8 * 8 * 4) * 9 * 4,
    ]
    assert found["kinds"]["elementwise"] == [1, image, 0]  # half is read, half is written
    assert found["layouts"] == {"b01f_o01i->b01f": 1}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiles programs: (name, *flags) -> (what its JSON says, its kernels)."""
    if not (HOME / "venv").is_dir():
        pytest.skip(f"no {HOME}: run bash tests/aot/setup.sh, or set MOTFM_AOT")
    out = tmp_path_factory.mktemp("programs")

    def compile_one(program, *flags):
        subprocess.run(["bash", COMPILE, f"--out={out}", *flags, program], check=True)
        name = program.replace(":", "_b")
        found = json.loads((out / f"{name}.json").read_text())
        computations, entry = kernels.parse((out / f"{name}.hlo.txt").read_text())
        return found, list(kernels.kernels(computations, entry))

    return compile_one


@pytest.mark.nightly
@pytest.mark.parametrize("network, size", [("camus", (64, 64)), ("brain", (32, 32, 32))])
def test_a_gpu_trains_by_flash_attention_and_channels_last(compiled, network, size):
    found, _ = compiled(f"{network}_train:1", f"--set=data.size={size}")
    kinds = found["kinds"]
    assert kinds["attention"][0] >= kinds["attention, backward"][0] > 0
    assert {layout.translate(AXES) for layout in found["layouts"]} == {LAST}
    images = 5 * 4 * 64**3  # bytes: all else is the state, and comes back in its place
    assert found["argument_bytes"] - found["donated_bytes"] < images


@pytest.mark.nightly
def test_two_gpus_sum_gradients_while_the_backward_pass_goes_on(compiled):
    _, launched = compiled("brain_train:1", "--devices=2", "--set=data.size=(32, 32, 32)")
    messages = [n for n, each in enumerate(launched) if each.instruction.op == "all-reduce-start"]
    gradients = [n for n, each in enumerate(launched) if "gradient of kernel" in each.kind]
    assert 4 < len(messages) < 40
    assert sum(n > messages[0] for n in gradients) > len(gradients) / 4


@pytest.mark.nightly
def test_a_gpu_samples_in_a_loop_of_known_length_without_casting_weights(compiled):
    found, launched = compiled("camus_sample:1", "--set=data.size=(64, 64)")
    assert found["loops"] == [10]
    assert {layout.translate(AXES) for layout in found["layouts"]} == {LAST}
    cast = [each.instruction.type for each in launched if each.kind == "cast" and each.times > 1]
    assert cast == ["bf16[1,64,64,1]{3,2,1,0}"]  # the state alone
