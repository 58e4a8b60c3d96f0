import base64
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


ARRAYS = [
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
]


@pytest.mark.parametrize(
    "protocol, core",
    [(0, "numpy._core"), (2, "numpy._core"), (4, "numpy._core"), (5, "numpy._core")]
    + [(2, "numpy.core"), (3, "numpy.core")],  # later protocols store the names' lengths
)
def test_arrays_and_scalars(tmp_path, protocol, core):
    data = pickle.dumps(ARRAYS, protocol).replace(b"numpy._core", core.encode())
    for loaded, value in zip(load(tmp_path, data), ARRAYS, strict=True):
        np.testing.assert_array_equal(loaded, value)
        assert np.asarray(loaded).dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
        assert isinstance(loaded, type(value))


@pytest.mark.parametrize("protocol", [0, 2, 5])
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


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "function, name",
    [(os.system, "posix.system"), (eval, "builtins.eval"), (np.load, "numpy.*load")],
)
def test_calls_are_refused_and_not_made(tmp_path, protocol, function, name):
    ran = tmp_path / "ran"
    command = {os.system: f"touch {ran}", eval: f"open({str(ran)!r}, 'w')"}
    hostile = Calls(function, command.get(function, str(ran)))
    for value in (hostile, {"train": [{"image": [hostile]}]}):
        with pytest.raises(ValueError, match=rf"data\.pkl: it refers to {name};"):
            load(tmp_path, pickle.dumps(value, protocol))
    assert not ran.exists()


def test_a_call_in_an_array_of_objects_is_refused(tmp_path):
    hostile = np.array([Calls(os.system, f"touch {tmp_path / 'ran'}"), None], dtype=object)
    with pytest.raises(ValueError, match="array of type object"):
        load(tmp_path, pickle.dumps(hostile))
    assert not (tmp_path / "ran").exists()


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
def test_no_pickle_inside_a_torch_storage_is_executed(tmp_path, replaced):
    ran = tmp_path / "ran"
    hostile = pickle.dumps((Calls(os.system, f"touch {ran}"), 3), 2)
    nested = b"\x80\x03" + torch_storage(replaced, hostile) + b"."  # a storage in a storage
    for inner in (hostile, nested):
        with pytest.raises(ValueError, match=r"data\.pkl: it refers to posix\.system"):
            load(tmp_path, tensor_entry(torch_storage(replaced, inner)))
    assert not ran.exists()
    pickle.loads(hostile)
    assert ran.exists()  # trusted, it does something


@pytest.mark.parametrize(
    "reference, message",
    [
        (b"\x80\x02(Vmodule\nctorch\nFloatStorage\nV0\nVcpu\nI3\nNtQ.", "of an unknown kind"),
        (b"\x80\x02(Vstorage\ncos\nsystem\nV0\nVcpu\nI3\nNtQ.", r"refers to os\.system"),
        (b"\x80\x02(Vstorage\nVFloatStorage\nV0\nVcpu\nI3\nNtQ.", "of an unknown kind"),
        (b"\x80\x02(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI1000000000\nNtQ.", "buffer"),
    ],
)
def test_references_inside_a_torch_storage_are_to_its_values_alone(tmp_path, reference, message):
    with pytest.raises(ValueError, match=rf"data\.pkl: .*{message}"):
        load(tmp_path, tensor_entry(torch_storage(3, reference)))


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
        # numpy.ndarray((1,), "O", b"AAAAAAAA") takes the bytes for a pointer.
        (b"cnumpy\nndarray\n((I1\ntVO\nVAAAAAAAA\ntR.", "cannot be read"),
    ],
)
def test_crafted_streams_are_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, data)


def test_the_state_of_a_dtype_is_not_believed(tmp_path):
    """Its flags could turn numbers into pointers, in this array and in every later one."""
    data = b"cnumpy\ndtype\n(Vi8\ntR(I3\nV<\nNNNI-1\nI-1\nI63\ntb."
    assert not load(tmp_path, data).dtype.hasobject and not np.dtype("i8").hasobject


def crafted_array(shape, data, code="f4"):
    """An array whose pickled shape, bytes and type are these."""
    kind = b"cnumpy\ndtype\n(V" + code.encode() + b"\nI0\nI1\ntR"
    call = b"cnumpy._core.numeric\n_frombuffer\n"
    data, shape = (pickle.dumps(part, 3)[2:-1] for part in (data, shape))  # no header, no stop
    return b"\x80\x03" + call + b"(" + data + kind + shape + b"VC\ntR."


@pytest.mark.parametrize(
    "shape, data, code",
    [
        ((3,), bytes(8), "f4"),
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
    [(0, (4,), (1,)), (3, (1,), (1,)), (0, (2,), (3,)), (-1, (1,), (1,)), (0, (2,), (-1,))],
)
def test_torch_views_must_lie_in_their_storage(offset, shape, strides):
    storage = np.arange(3.0)
    with pytest.raises(ValueError):
        unpickle._tensor(storage, offset, shape, strides)
    np.testing.assert_array_equal(unpickle._tensor(storage, 1, (2,), (1,)), [1, 2])
    np.testing.assert_array_equal(unpickle._tensor(storage, 1, (2,), (0,)), [1, 1])  # expanded


def test_truncated_files_are_refused(tmp_path):
    for data in (pickle.dumps({"train": [{"image": np.zeros((2, 2))}]}), torch_pickle()):
        for length in range(0, len(data), 37):
            with pytest.raises(ValueError, match=r"data\.pkl: cannot be read .* damaged"):
                load(tmp_path, data[:length])


@pytest.mark.nightly
def test_random_damage_is_a_value_error_or_harmless(tmp_path):
    rng, refused = np.random.default_rng(0), 0
    for data in (pickle.dumps({"a": np.arange(9.0)}, 2), torch_pickle()):
        for _ in range(300):
            bad = bytearray(data)
            for position in rng.integers(0, len(bad), 3):
                bad[position] = rng.integers(256)
            try:
                load(tmp_path, bytes(bad))
            except ValueError:
                refused += 1
    assert refused > 100


def test_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        unpickle.load(tmp_path / "none.pkl")
    with pytest.raises(ValueError, match=r"torch\.save"):
        load(tmp_path, b"PK\x03\x04rest")
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path, b"not a pickle")
