"""Files that are not what they say: one line, nothing executed, memory bounded by the file."""

import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from fastunlearn.errors import FastUnlearnError
from fastunlearn.models.checkpoints import load_checkpoint, nvidia
from fastunlearn.models.checkpoints.container import read_contents
from fastunlearn.models.checkpoints.conversion import plain
from fastunlearn.models.checkpoints.unpickler import GLOBALS, LEGACY_MAGIC, MAX_OPCODES, PersistentObject


def refusal(path):
    """The one line with which a file is refused."""
    with pytest.raises(FastUnlearnError) as error:
        load_checkpoint(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert len(line) < 500
    return line


def pickled(tmp_path, body, protocol=2):
    path = tmp_path / "x.pkl"
    path.write_bytes(bytes([0x80, protocol]) + body)
    return path


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda mark: Call(os.system, f"touch {mark}"), "posix.system"),
        (lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"), "eval"),
        (lambda mark: Call(getattr, os, "system"), "getattr"),
        (lambda mark: Call(Path, str(mark)), "Path"),
        (lambda mark: Call(bytearray, 10**12), "bytearray"),
        (lambda mark: Call(subprocess.Popen, ["touch", str(mark)]), "Popen"),
        (lambda mark: Call(torch.load, str(mark)), "torch.serialization.load"),
        (lambda mark: Call(torch.empty, 10**12), "getattr"),
        (lambda mark: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calls_are_refused_by_name_and_not_made(tmp_path, call, name, protocol, zipped):
    mark = tmp_path / "executed"
    path = tmp_path / "x.pt"
    try:
        content = pickle.dumps({"g": call(mark)}, protocol)
    except TypeError:  # a module cannot be pickled: write the call of getattr by hand
        content = b"\x80\x02cbuiltins\ngetattr\n"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", content)
    else:
        path.write_bytes(content)
    assert name in refusal(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"cos\nsystem\n" + text("true") + b"\x85R.", "asks for os.system"),
        (b"(" + text("true") + b"ios\nsystem\n.", "opcode 0x69"),
        (b"cos\nsystem\n(" + text("true") + b"o.", "asks for os.system"),
        (b"\x82\x01.", "opcode 0x82"),
        (b"c__builtin__\neval\n.", "asks for __builtin__.eval"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "asks for torch._utils._rebuild_tensor_v2.__globals__"),
        (text("os") + text("system") + b"\x93.", "asks for os.system"),
        (text("os") + b"K\x01\x93.", "name expected"),
        (b"ccollections\nOrderedDict\n" + text("x") + b"R.", "call of something that is no function"),
        (text("x") + b")R.", "call of something that is no function"),
        (b"ccollections\nOrderedDict\n}" + text("function") + b"K\x01sb.", "state for something that has none"),
        (b"cargparse\nNamespace\n)R" + text("x") + b"b.", "damaged"),
        (b"ctorch\nEvilStorage\n.", "asks for torch.EvilStorage"),
        (b"c" + b"a" * 2000 + b"\nx\n.", "endless name"),
        (b"cdnnlib.tflib.network\nNetwork\n.", "is a TensorFlow pickle"),
        (b"}(]K\x01u.", "list as key"),
        (b"}(K\x01u.", "key without value"),
        (b"}((" + b")" * 5 + b"tK\x01u.", "tuple as key"),
        (b"\x8f(]\x90.", "list as key"),
        (b"Kx.", "holds int; no checkpoint"),
        (b"}.", "holds nothing; no checkpoint"),
        (b"]r\xff\xff\xff\x7fj\xff\xff\xff\x7f.", "holds list; no checkpoint"),
        (b"j\xff\xff\xff\x7f.", "damaged"),
        (b"B\xff\xff\xff\xff.", "is truncated"),
        (b"\x8e" + b"\xff" * 7 + b"\x7f.", "is truncated"),
        (b"\x8d" + b"\xff" * 8 + b".", "which no checkpoint needs"),
        (b"\x95" + b"\xff" * 8 + b".", "is truncated"),
        (b"\x96" + b"\xff" * 8 + b".", "opcode 0x96"),
        (b"\x8b\xff\xff\xff\x7f.", "opcode 0x8b"),
        (b"\x8a\xff.", "is truncated"),
        (b"X\x02\x00\x00\x00\xff\xfe.", "damaged"),
        (b"t.", "damaged"),
        (b"a.", "damaged"),
        (b".", "damaged"),
        (b"Q.", "persistent id"),
    ],
)
def test_bodies_made_by_hand(tmp_path, body, message):
    assert message in refusal(pickled(tmp_path, body))


def test_our_functions_are_not_altered_by_a_state(tmp_path):
    before = dict(GLOBALS)
    refusal(pickled(tmp_path, b"ccollections\nOrderedDict\nN}" + text("function") + b"N\x86b."))
    assert before == GLOBALS


def tensor(numel=4, offset=0, size=(4,), stride=(1,), storage_numel=None, dtype="FloatStorage"):
    """A zip checkpoint's data.pkl that rebuilds one tensor."""

    def number(n):
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def numbers(ns):
        return b"(" + b"".join(map(number, ns)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\n" + dtype.encode() + b"\n" + text("0") + text("cpu")
    storage += number(numel if storage_numel is None else storage_numel) + b"tQ"
    arguments = b"(" + storage + number(offset) + numbers(size) + numbers(stride) + b"\x89NtR"
    return b"\x80\x02}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"s."


def archive(path, data_pkl, storage=bytes(16), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as made:
        made.writestr("x/data.pkl", data_pkl)
        made.writestr("x/data/0", storage)
    return path


def test_the_tensor_made_by_hand_is_read(tmp_path):
    values = torch.arange(4.0)
    path = archive(tmp_path / "x.pt", tensor(size=(2,), stride=(2,), offset=1), values.numpy().tobytes())
    assert read_contents(path)["a"].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (5,)}, "lies outside its storage"),
        ({"offset": 1}, "lies outside its storage"),
        ({"offset": 2**62}, "lies outside its storage"),
        ({"offset": -1}, "negative size"),
        ({"stride": (2,)}, "lies outside its storage"),
        ({"stride": (-1,)}, "negative size"),
        ({"size": (2**30,), "stride": (0,)}, "more numbers than the file"),
        ({"size": (2**62, 4), "stride": (0, 1)}, "more numbers than the file"),
        ({"size": (3, 2), "stride": (1, 1)}, "more numbers than the file"),
        ({"size": (1,) * 9, "stride": (1,) * 9}, "tensor expected"),
        ({"size": (2, 2), "stride": (1,)}, "tensor expected"),
        ({"storage_numel": 2**40}, "another size than the pickle says"),
        ({"storage_numel": 3}, "another size than the pickle says"),
        ({"dtype": "DoubleStorage"}, "another size than the pickle says"),
    ],
)
def test_tensors_that_are_not_there(tmp_path, arguments, message):
    assert message in refusal(archive(tmp_path / "x.pt", tensor(**arguments)))


def test_one_storage_named_again_and_again(tmp_path):
    one = tensor()[3:-1]
    path = archive(tmp_path / "x.pt", b"\x80\x02}" + one * 100 + b".", bytes(16))
    size = path.stat().st_size
    read_contents(path)
    storage = bytes(1 << 16)
    numel = len(storage) // 4
    many = tensor(numel, 0, (numel,), (1,))[3:-1]
    path = archive(tmp_path / "x.pt", b"\x80\x02}" + many * 10 + b".", storage)
    assert path.stat().st_size > size
    assert "more numbers than the file" in refusal(path)


def test_zip_bombs(tmp_path):
    path = archive(tmp_path / "x.pt", tensor(), bytes(10**7), zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)
    # Deflated, and says that it is as long packed as it is.
    path = archive(tmp_path / "x.pt", tensor())
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 10] = zipfile.ZIP_DEFLATED
    path.write_bytes(raw)
    assert "compressed" in refusal(path)
    # Every entry of the directory names the same bytes.
    path = archive(tmp_path / "x.pt", tensor(), bytes(10**5))
    raw = path.read_bytes()
    start = struct.unpack_from("<I", raw, len(raw) - 6)[0]
    directory = raw[start:-22]
    count = 50
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 2 * count, 2 * count, count * len(directory), start, 0)
    path.write_bytes(raw[:start] + directory * count + end)
    assert "more than the file has room for" in refusal(path)
    path.write_bytes(raw[:-14] + struct.pack("<HHIIH", 65535, 65535, 0, start, 0))
    assert "damaged" in refusal(path)
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 2**40, 2**40, 2**40, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(raw) - 22, 1)
    path.write_bytes(raw[:-22] + wide + locator + raw[-22:])
    assert "which no checkpoint needs" in refusal(path)


def test_zip_files_of_other_kinds(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("readme.txt", "hello")
    assert "not one of torch.save" in refusal(path)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x/data.pkl", b"\x80\x02}.")
        made.writestr("x/constants.pkl", b"\x80\x02).")
    assert "is a TorchScript file" in refusal(path)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("x/data.pkl", b"\x80\x02}.")
        made.writestr("x/byteorder", "big")
    assert "big-endian" in refusal(path)


def test_other_files(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "x.pt"
    for content, message in [
        (b"", "is empty"),
        (b"# a text\n", "is not a checkpoint"),
        (b"\x80", "is not a checkpoint"),
        (b"\x80\x02", "truncated or damaged"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"PK", "truncated"),
        (b"\x89PNG\r\n", "is not a checkpoint"),
        (pickle.dumps({"a": 1}, 0), "is not a checkpoint"),
    ]:
        path.write_bytes(content)
        assert message in refusal(path)
    save_file({"a": torch.zeros(2)}, path)
    assert "is a safetensors file" in refusal(path)
    assert "is a folder" in refusal(tmp_path)
    assert "cannot be read (No such file" in refusal(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_truncated_anywhere_and_damaged_anywhere(tmp_path, kind):
    path, content = tmp_path / "x.pt", {"g_ema": {"a": torch.arange(40.0), "b": torch.zeros(3, 3)}, "step": 4}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, 4))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    assert torch.equal(read_contents(path)["g_ema"]["a"], content["g_ema"]["a"])
    for end in {*range(0, len(whole), 7), *range(len(whole) - 30, len(whole))}:
        path.write_bytes(whole[:end])
        refusal(path)
    rng = torch.Generator().manual_seed(0)
    for at in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[at] = int(torch.randint(256, (), generator=rng))
        path.write_bytes(damaged)
        refusal(path)  # never a checkpoint of a known format: it has no input.input


def run_limited(path, megabytes):
    """Refuse a file in a process that may not have more memory than it has after importing, plus so much."""
    code = f"""
import resource, sys
import fastunlearn.models.checkpoints as c
pages = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + ({megabytes} << 20),) * 2)
try:
    c.load_checkpoint({str(path)!r})
except c.FastUnlearnError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr[-500:]
    return result.stdout


NUMPY_DTYPE = b"cnumpy\ndtype\n"
LOAD = b"ctorch.storage\n_load_from_bytes\n"


def legacy(body, keys=b"]", storages=b""):
    """A file of torch.save's older format, by hand."""
    machine = b"}" + text("little_endian") + b"\x88s"
    return LEGACY_MAGIC + b"".join(b"\x80\x02" + part + b"." for part in (b"M\xe9\x03", machine, body, keys)) + storages


def raw(data):
    return b"B" + struct.pack("<I", len(data)) + data


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ"
STORED = b"]" + text("0") + b"a", struct.pack("<q", 1) + bytes(4)


def twice(n, copy):
    """n times the same pair, of two times the one before."""
    return b")" + b"".join(b"q\x01" + copy for _ in range(n))


def small(n):
    return b"J" + struct.pack("<i", n)


def called_again_and_again(name, argument, n=100_000):
    call = b"h\x01h\x02R" if name != b"cargparse\nNamespace\n" else b"h\x01)Rh\x03b"
    return argument + b"q\x030" + name + b"q\x010h\x03\x85q\x020(" + call * n + b"t."


LIST = b"](" + b"".join(map(small, range(50_000))) + b"e"
DICT = b"}(" + b"".join(small(i) + b"N" for i in range(50_000)) + b"u"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (NUMPY_DTYPE + b")" + b"\x85" * 400_000 + b"\x85R.", "NumPy type"),  # its hash overflows the C stack
        (NUMPY_DTYPE + twice(60, b"h\x01\x86") + b"\x85R.", "NumPy type"),  # its hash takes 2^60 steps
        (b"c_codecs\nencode\n" + text("a") + twice(60, b"h\x01\x86") + b"\x86R.", "latin1 expected"),
        (called_again_and_again(b"cbuiltins\nset\n", LIST), "opcodes"),
        (called_again_and_again(b"ccollections\nOrderedDict\n", DICT), "opcodes"),
        (called_again_and_again(b"cargparse\nNamespace\n", DICT, 50_000), "opcodes"),
        (called_again_and_again(LOAD, raw(legacy(b"N0" * 10_000 + STORAGE, *STORED))), "opcodes"),
    ],
    ids=["deep", "shared", "printed", "set", "dict", "attributes", "pickles"],
)
def test_a_small_file_takes_neither_minutes_nor_gigabytes(tmp_path, body, message):
    assert message in run_limited(pickled(tmp_path, body), 200)


def test_opcodes_of_nested_pickles_are_counted_together(tmp_path):
    """An object is read twice where its storages come after it, so that n nested ones are read 2ⁿ times."""
    nested = legacy(STORAGE, *STORED)
    for _ in range(30):
        nested = legacy(LOAD + raw(nested) + b"\x85R0" + STORAGE, *STORED)
    path = tmp_path / "x.pt"
    path.write_bytes(nested)
    assert len(nested) < 10_000
    assert "opcodes" in run_limited(path, 64) or "more bytes" in refusal(path)


def test_a_source_named_by_many_objects_is_not_hashed_for_each(tmp_path):
    name = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    meta = b"}(" + text("class_name") + text("x") + text("state") + b"}" + text("module_src") + text("a" * 10**6) + b"u"
    begin = time.perf_counter()
    refusal(pickled(tmp_path, called_again_and_again(name, meta)))
    assert time.perf_counter() - begin < 10


def test_arguments_that_are_no_plain_containers(tmp_path):
    """A tensor as an argument would be taken apart into one Python object for each element."""
    path = tmp_path / "x.pt"
    body = tensor(size=(2, 2), stride=(2, 1))
    one = body[body.index(b"ctorch._utils") : -2]
    assert "list expected" in refusal(archive(path, b"\x80\x02ccollections\nOrderedDict\n" + one + b"\x85R."))
    assert "persistent id" in refusal(archive(path, b"\x80\x02" + one + b"Q."))


@pytest.mark.parametrize("value", [2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("where", ["entry", "directory"])
def test_zip_offsets_beyond_any_file(tmp_path, where, value):
    data = archive(tmp_path / "x.pt", tensor()).read_bytes()
    start = struct.unpack_from("<I", data, len(data) - 6)[0]
    directory = bytearray(data[start:-22])
    if where == "entry":
        name = struct.unpack_from("<H", directory, 28)[0]
        struct.pack_into("<HH", directory, 30, 12, 0)
        struct.pack_into("<I", directory, 42, 0xFFFFFFFF)
        directory[46 + name :] = struct.pack("<HHQ", 1, 8, value)
    at = value if where == "directory" else start
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), at)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start + len(directory), 1)
    (tmp_path / "x.pt").write_bytes(data[:start] + directory + wide + locator + data[-22:])
    assert "truncated or damaged" in refusal(tmp_path / "x.pt")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.pt")
    assert "is a pipe" in refusal(tmp_path / "x.pt")


RGB = {"to_rgb1.conv.weight": torch.zeros(1, 3, 1, 1, 1), "to_rgbs.0.conv.weight": torch.zeros(1, 3, 1, 1, 1)}
SMALL = {"input.input": torch.zeros(1, 1, 4, 4), "style.1.weight": torch.zeros(4, 4), **RGB}
SMALL |= {"convs.0.conv.weight": torch.zeros(1, 1, 1, 3, 3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input.input": torch.zeros(1, 0, 4, 4)}, "input.input is missing or of another shape"),
        ({"input.input": torch.zeros(1, 2**40, 0)}, "input.input is missing or of another shape"),
        ({"style.1.weight": torch.zeros(0, 2**40)}, "style.1.weight is missing or of another shape"),
        ({f"to_rgbs.{i}.conv.weight": torch.zeros(1) for i in range(18)}, "images of more than 2048 px"),
        ({f"style.{i}.weight": RGB["to_rgb1.conv.weight"] for i in range(20_000)}, "at most 10,000 tensors"),
        ({3: torch.zeros(1)}, "printable names, got '3'"),
        ({"a\nb": torch.zeros(1)}, r"printable names, got 'a\nb'"),
        ({"a" * 300: torch.zeros(1)}, "printable names"),
        ({"x.kernel": torch.zeros(100_000)}, "must be the filter"),
    ],
)
def test_state_dicts_that_promise_too_much(tmp_path, changes, message):
    torch.save({"g_ema": {**SMALL, **changes}}, tmp_path / "x.pt")
    assert message in refusal(tmp_path / "x.pt")


def test_what_else_a_file_says_is_kept_in_part():
    shared = ["x" * 100] * 100
    for _ in range(6):
        shared = [shared] * 100
    cycle = []
    cycle.append(cycle)
    for value in (shared, {"a": shared, "b": shared}, cycle):
        assert len(repr(plain(value))) < 200_000
    assert plain({"batch": 4, "path": [1, "a", {"b": None}]}) == {"batch": 4, "path": [1, "a", {"b": None}]}


def module(**state):
    return PersistentObject("M", "", {"_parameters": {}, "_buffers": {}, "_modules": {}, **state})


SELF = module()
SELF.state["_modules"]["a"] = SELF
LONG = module(_modules={"a" * 300: module()})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (SELF, "no module of PyTorch"),
        (LONG, "no module of NVIDIA's"),
        (module(_modules=dict.fromkeys("ab", SELF)), "no module of PyTorch"),
        (module(_modules={"a\n": module()}), "no module of NVIDIA's"),
        (module(_parameters=[1]), "no module of PyTorch"),
        (module(_parameters=torch.zeros(2)), "no module of PyTorch"),
        (module(_non_persistent_buffers_set=[1]), "no module of PyTorch"),
        (module(_parameters={3: torch.zeros(1)}), "printable names"),
        (module(c_dim=torch.zeros(2)), "is conditional"),
        (module(c_dim="\n"), "is conditional"),
        (module(architecture=torch.zeros(2)), "architecture skip"),
        (module(activation=torch.zeros(2)), "activation lrelu"),
        (module(conv_clamp=[1]), "conv_clamp must be a positive number"),
        (module(conv_clamp=1 << 1100), "conv_clamp must be a positive number"),
        (module(conv_clamp=True), "conv_clamp must be a positive number"),
    ],
)
def test_attributes_of_no_module(network, message):
    with pytest.raises(FastUnlearnError, match=message) as error:
        nvidia.read({"G_ema": network}, "x.pkl")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("arguments", [{"synthesis_kwargs": 3}, {"mapping_kwargs": [1]}, {"epilogue_kwargs": "x"}])
def test_arguments_beside_nvidias_state_dicts_that_are_no_dicts(arguments):
    state = {"mapping.fc0.weight": torch.zeros(2, 2)}
    with pytest.raises(FastUnlearnError, match="its arguments must be dicts"):
        nvidia.read({"G": state, "G_kwargs": arguments}, "x.pt")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_is_bounded(tmp_path):
    """Each of these would take gigabytes of a reader that believes it."""
    path = tmp_path / "x.pt"
    assert "more numbers" in run_limited(archive(path, tensor(size=(2**33,), stride=(0,))), 64)
    assert "compressed" in run_limited(archive(path, tensor(), bytes(10**8), zipfile.ZIP_DEFLATED), 64)
    assert "opcodes" in run_limited(pickled(tmp_path, b"\x8f" * (16 << 20) + b"."), 256)
    doubling = b"](K\x01" + b"".join(b"q\x01](h\x01h\x01e" for _ in range(1000)) + b"."
    run_limited(pickled(tmp_path, doubling), 64)
    nested = b"(" * 100_000 + b"t" * 100_000 + b"."
    run_limited(pickled(tmp_path, nested), 64)
    encoded = text("a" * (1 << 20)) + b"q\x01" + b"c_codecs\nencode\nh\x01" + text("latin1") + b"\x86R0" * 1
    again = b"c_codecs\nencode\nh\x01" + text("latin1") + b"\x86R"
    assert "more bytes than the file" in run_limited(pickled(tmp_path, encoded + again * 2000 + b"."), 64)


def test_a_model_larger_than_its_file(tmp_path):
    """A constant of many channels promises convolutions that nobody could hold."""
    state = {"input.input": torch.zeros(1, 200_000, 4, 4), "to_rgb1.conv.weight": torch.zeros(1, 3, 1, 1, 1)}
    state |= {"style.1.weight": torch.zeros(4, 4), "convs.0.conv.weight": torch.zeros(1, 200_000, 1, 1, 1)}
    state["to_rgbs.0.conv.weight"] = torch.zeros(1, 3, 1, 1, 1)
    torch.save({"g_ema": state}, tmp_path / "x.pt")
    assert "of another architecture" in run_limited(tmp_path / "x.pt", 256)


def test_opcodes_of_real_checkpoints_are_far_from_the_limit(tmp_path):
    """Two optimisers and three networks of 300 tensors each."""
    content = {name: {f"layer.{i}": torch.zeros(1) for i in range(300)} for name in ("g", "d", "g_ema", "m", "v")}
    torch.save(content, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as made:
        opcodes = sum(1 for _ in pickletools.genops(made.read("x/data.pkl")))
    assert opcodes < MAX_OPCODES / 10
