import base64
import io
import os
import pickle
import zlib
from collections import OrderedDict

import numpy as np
import pytest

from motfm_jax.data import unpickle

# pickle.dumps by torch 2.13 of what test_torch_tensors_are_read_without_torch expects
TORCH = (
    "c-rljJ#W)M7{_hLrjVwn>c-YF5mJ=KPH?8uQdOW6Z)NdPSy%hgm^yasI~NrxQkK4evh~;)82K1{6eK1#R-i~cu^s"
    "9}F{)r`rJnM)oy*_n%g^^b&kf{vU*?6l_4!a?A$B~z&HKDORGco}C45+7erR>7X2cwq^5K#hlAXwLZIcm?`k}dB="
    "ciy_NNf~N@okHy>tow&hkn=GIbei>YyGY$2m|SD(LH;=`F;82$7gq{1L^VC0v!8+P&O7}9=*_KzU8~-J_)Jgdw~c"
    "BV*!3~9mZT@63=$97f2^Y5jxpHkC@bXO=wW)2Xfg^pp$m|kOc~oi~@XfJQmzQvLTPg@V(t&4#`mj&nz2rBXct4K("
    "OM!P~3!xvlmHcF%XU0;Av_1YPD8<MOAgRsRzlpRxb()sPu#d@^ct%I}m1hMO-Zj*)~{(!+rRG2A~h1PoU2rVNDPg"
    "LCc`p8b9P)90^E71tcGHR6;TmkNKP7Jn(Ue#Q+bylKH2hO+sRCI2HrSl`YQTzM<U3bdPuD%AMkR<tl)G<juscs|{"
    "7HYkKVh*w4LF*u_-iCZ(Fy^00T7#%LAG#gry&AN;z?V6}Qn(<Z=*xnL77fE6=PQ&^Qs2G7kdVc5nD$B9Jta2FDS("
    "sn}1U|Dvs+fLD)U3zp6VX}F-pwXzWG%vvJ+?!!1=zo^kAs;EjPu_RPt2A=2Q|3RUObN*VRhocWgyQDWo==H=jrM="
    "4k&FsQuws#Xl*N0iheL>SMnc|EGP{KH?$Z=|=_+8~@S`1<<VU{RoGeGuUm}0x1@4pO=G*G{JmxA*=Yf;>>Nw5_Z5"
    "QvRN%QBWhqvzgZZ5i3L)R{vG-GeJ;LNHv3hDOPK?>)`<%a{C;XF7^O`obLLN1)d3vi~lEkYchz%?76QG{vrH=|QQ"
    "*8"
)


def torch_pickle():
    return zlib.decompress(base64.b85decode(TORCH))


def load(tmp_path, data):
    path = tmp_path / "data.pkl"
    path.write_bytes(data)
    return unpickle.load(path)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "protocol, core",
    [
        *((protocol, "numpy._core") for protocol in range(6)),
        *((protocol, "numpy.core") for protocol in range(4)),  # later ones count the letters
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(20)[::3],
        np.arange(5, dtype=">f8"),
        np.zeros((0, 3), np.uint8),
        np.array(3.5),
        np.array([True, False]),
        np.array(["abc", "d"]),
        np.float16(0.5),
        np.int32(-7),
        np.bool_(True),
    ],
    ids=repr,
)
def test_arrays_and_scalars(tmp_path, protocol, core, value):
    data = pickle.dumps(value, protocol).replace(b"numpy._core", core.encode())
    loaded = load(tmp_path, data)
    np.testing.assert_array_equal(loaded, value)
    assert np.asarray(loaded).dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
    assert isinstance(loaded, type(value))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers(tmp_path, protocol):
    value = {
        "list": [1, 2.5, None, True, "text", 2**80, 1j],
        "set": {1, 2},
        "frozen": frozenset("ab"),
        "tuple": (b"bytes", b""),
        "ordered": OrderedDict(a=1),
    }
    assert load(tmp_path, pickle.dumps(value, protocol)) == value


def test_torch_tensors_are_read_without_torch(tmp_path):
    entry = load(tmp_path, torch_pickle())["train"][0]
    values = np.arange(12, dtype=np.float32)
    expected = {
        "half": np.array([0.5], np.float16),
        "view": values[2:10:2],
        "transposed": values.reshape(3, 4).T,
        "parameter": np.ones(2),
        "flag": np.array(True),
        "empty": np.zeros((0, 3), np.uint8),
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(entry["metadata"][name], array, strict=True)
    np.testing.assert_array_equal(entry["image"], values.reshape(1, 3, 4), strict=True)
    assert entry["mask"].dtype == np.int32
    assert entry["mask"].tolist() == [[[0, 1, 1, 0], [0, 2, 2, 0], [0, 0, 0, 0]]]
    assert entry["class"] == 1


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function, name",
    [
        (os.system, "posix.system"),
        (eval, "eval"),
        (getattr, "getattr"),
        (open, "io.open"),
        (np.load, "numpy.load"),
        (np.fromfile, "fromfile"),
        (io.BytesIO, "_io.BytesIO"),
    ],
)
def test_calls_are_refused_and_not_made(tmp_path, protocol, function, name):
    ran = tmp_path / "ran"
    arguments = {os.system: f"touch {ran}", eval: f"open({str(ran)!r}, 'w')"}
    hostile = Calls(function, arguments.get(function, str(ran)))
    for value in (hostile, {"train": [{"image": [hostile]}]}):
        with pytest.raises(ValueError, match=rf"data\.pkl: it refers to \S*{name}"):
            load(tmp_path, pickle.dumps(value, protocol))
    assert not ran.exists()


def test_a_call_nested_in_an_array_or_a_torch_storage_is_refused(tmp_path):
    ran = tmp_path / "ran"
    hostile = Calls(os.system, f"touch {ran}")
    objects = np.array([hostile, None], dtype=object)
    with pytest.raises(ValueError, match="type 'O8'"):
        load(tmp_path, pickle.dumps(objects))
    inner = pickle.dumps(hostile, protocol=2)
    data = b"\x80\x04ctorch.storage\n_load_from_bytes\nB" + len(inner).to_bytes(4, "little") + inner
    with pytest.raises(ValueError, match=r"refers to posix\.system"):
        load(tmp_path, data + b"\x85R.")
    assert not ran.exists()


FLOATS = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI3\nNtQ"  # torch's reference to a storage


def torch_storage(replaced=None, by=b""):
    """What torch.storage._load_from_bytes is called with; one of the five pickles exchanged."""
    inner = [
        pickle.dumps(unpickle.TORCH_MAGIC, 2),
        pickle.dumps(1001, 2),
        pickle.dumps(
            {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}, 2
        ),
        b"\x80\x02" + FLOATS + b".",
        pickle.dumps(["0"], 2),
    ]
    if replaced is not None:
        inner[replaced] = by
    values = np.array([1, 2, 3], np.float32)
    data = b"".join(inner) + len(values).to_bytes(8, "little") + values.tobytes()
    return b"ctorch.storage\n_load_from_bytes\n(" + pickle.dumps(data, 3)[2:-1] + b"tR"


def tensor_entry(storage):
    """A data set whose image is a tensor on this storage."""
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I0\n(I3\nt(I1\ntI00\nNtR"
    return b"\x80\x03}Vtrain\n]}Vimage\n" + tensor + b"sas."


def test_a_torch_storage_by_hand_is_read(tmp_path):
    image = load(tmp_path, tensor_entry(torch_storage()))["train"][0]["image"]
    np.testing.assert_array_equal(image, np.array([1, 2, 3], np.float32), strict=True)


@pytest.mark.parametrize("replaced", range(5))
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "wrap",
    [
        lambda hostile: hostile,
        lambda hostile: {"little_endian": True, "x": [hostile]},
        lambda hostile: (hostile, 3),
    ],
)
def test_no_pickle_inside_a_torch_storage_is_executed(tmp_path, replaced, protocol, wrap):
    ran = tmp_path / "ran"
    hostile = pickle.dumps(wrap(Calls(os.system, f"touch {ran}")), protocol)
    data = tensor_entry(torch_storage(replaced, hostile))
    with pytest.raises(ValueError, match=r"data\.pkl: it refers to posix\.system"):
        load(tmp_path, data)
    assert not ran.exists()
    pickle.loads(hostile)
    assert ran.exists()  # the payload is one


@pytest.mark.parametrize("replaced", range(5))
def test_a_torch_storage_within_a_torch_storage_executes_nothing(tmp_path, replaced):
    ran = tmp_path / "ran"
    hostile = pickle.dumps(Calls(os.system, f"touch {ran}"), 2)
    nested = b"\x80\x03" + torch_storage(replaced, hostile) + b"."
    for outer in range(5):
        with pytest.raises(ValueError, match=r"data\.pkl: it refers to posix\.system"):
            load(tmp_path, tensor_entry(torch_storage(outer, nested)))
    assert not ran.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02(Vmodule\nctorch\nFloatStorage\nV0\nVcpu\nI3\nNtQ.",
        b"\x80\x02(Vstorage\ncos\nsystem\nV0\nVcpu\nI3\nNtQ.",
        b"\x80\x02(Vstorage\nVFloatStorage\nV0\nVcpu\nI3\nNtQ.",
        b"\x80\x02(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI1000000000\nNtQ.",
    ],
)
def test_references_inside_a_torch_storage_are_to_tensors_alone(tmp_path, pickled):
    with pytest.raises(ValueError, match=r"data\.pkl: "):
        load(tmp_path, tensor_entry(torch_storage(3, pickled)))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_is_read_pickles_again_without_this_program(tmp_path, protocol):
    value = {"a": [np.arange(3), np.asfortranarray(np.ones((2, 3)))], "b": np.float32(2)}
    again = pickle.dumps(load(tmp_path, pickle.dumps(value, 4)), protocol)
    assert b"motfm_jax" not in again
    np.testing.assert_equal(pickle.loads(again), value)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"\x80\x04cos\nsystem\n.", r"refers to os\.system"),
        (b"(ios\nsystem\n.", r"refers to os\.system"),  # the opcode of old instances
        (b"\x80\x04\x8c\x08builtins\x8c\x0bsets.system\x93.", "refers to builtins"),  # dotted names
        (b"Psomewhere\n.", "outside the file"),
        (b"\x80\x02]q\x00Q.", "outside the file"),
        (b"\x80\x02\x82\x01.", "extension"),
        (b"cbuiltins\nbytearray\n(I1000000000000\ntR.", "cannot be read"),  # a bomb of a mere count
        (b"\x80\x02Nr\x00\x00\x00\x7f.", "numbers an object 2130706432"),  # a table that long
        (b"Np2130706432\n.", "numbers an object 2130706432"),
        (b"cnumpy\nndarray\n((I1000000000000\ntR.", "cannot be read"),
        (b"cnumpy\ndtype\n(Vf4\ntR(I3\nV<\nNNNI64\nI-1\nI0\ntb.", None),  # its size is not believed
    ],
)
def test_crafted_streams(tmp_path, data, message):
    if message is None:
        assert load(tmp_path, data).dtype == np.float32
        return
    with pytest.raises(ValueError, match=message):
        load(tmp_path, data)


def crafted_array(shape, data, code="f4"):
    """An array whose pickled state says what we like."""
    kind = b"cnumpy\ndtype\n(V" + code.encode() + b"\nI0\nI1\ntR"
    call = b"cnumpy._core.numeric\n_frombuffer\n"
    data, shape = (pickle.dumps(part, 3)[2:-1] for part in (data, shape))  # no header, no stop
    return b"\x80\x03" + call + b"(" + data + kind + shape + b"VC\ntR."


@pytest.mark.parametrize(
    "shape, data, code",
    [
        ((3,), bytes(8), "f4"),
        ((10**9,), bytes(8), "f4"),
        ((-1,), bytes(8), "f4"),
        ((2.0,), bytes(8), "f4"),
        ((1,), bytes(8), "O8"),
        ((1,), bytes(8), "V8"),
        ((1,), [1, 2], "f4"),
        ((1,), bytes(8), "f4,f4"),
    ],
)
def test_arrays_that_do_not_fit_their_bytes_are_refused(tmp_path, shape, data, code):
    with pytest.raises(ValueError, match=r"data\.pkl"):
        load(tmp_path, crafted_array(shape, data, code))
    np.testing.assert_array_equal(load(tmp_path, crafted_array((2,), bytes(8))), np.zeros(2, "f4"))


@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (0, (4,), (1,)),
        (3, (1,), (1,)),
        (0, (2,), (3,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (1000,), (0,)),
        (0, (1, 1), (1,)),
        (0, (1.0,), (1,)),
    ],
)
def test_torch_views_must_lie_in_their_storage(offset, shape, strides):
    storage = np.arange(3.0)
    with pytest.raises((ValueError, unpickle.Refused)):
        unpickle._load_tensor(storage, offset, shape, strides)
    np.testing.assert_array_equal(unpickle._load_tensor(storage, 1, (2,), (1,)), [1, 2])


def test_every_truncation_is_said(tmp_path):
    for data in (pickle.dumps({"train": [{"image": np.zeros((2, 2))}]}), torch_pickle()):
        for length in range(0, len(data), 7):
            with pytest.raises(ValueError, match=r"data\.pkl: cannot be read .* damaged"):
                load(tmp_path, data[:length])


def test_random_damage_is_a_value_error_or_harmless(tmp_path):
    rng, outcomes = np.random.default_rng(0), []
    for data in (pickle.dumps({"a": np.arange(9.0)}, 2), torch_pickle()):
        for _ in range(300):
            bad = bytearray(data)
            for position in rng.integers(0, len(bad), 3):
                bad[position] = rng.integers(256)
            try:
                load(tmp_path, bytes(bad))
            except ValueError:
                outcomes.append("refused")
            else:
                outcomes.append("read")
    assert outcomes.count("refused") > 100


def test_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        unpickle.load(tmp_path / "none.pkl")
    with pytest.raises(ValueError, match=r"torch\.save"):
        load(tmp_path, b"PK\x03\x04rest")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path, b"not a pickle")
