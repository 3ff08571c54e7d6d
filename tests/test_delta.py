import json
import os
import tracemalloc
import zlib

import pytest
import torch
from safetensors.torch import load, save

from fastunlearn import delta
from fastunlearn.bundle import Bundle
from fastunlearn.config import read_yaml
from fastunlearn.delta import FORMAT, Snapshot, apply_delta, save_delta
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback
from fastunlearn.files import state_sha256

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OTHERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float8_e4m3fn, torch.complex64]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def any_bits(dtype, shape, seed):
    """A tensor of random bit patterns: denormals, infinities and NaN with every payload among them."""
    width = torch.empty(0, dtype=dtype).element_size()
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(256, (*shape, width), dtype=torch.uint8, generator=generator)
    return data.view(dtype).reshape(shape)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and state_sha256({"": a}) == state_sha256({"": b})


def round_trip(base, result, path):
    save_delta(base, result, path)
    again = apply_delta(base, path)
    assert again.networks.keys() == result.networks.keys()
    for network, state in result.networks.items():
        assert list(again.networks[network]) == list(state)
        assert all(same_bits(again.networks[network][name], tensor) for name, tensor in state.items())
    assert again.files == result.files
    return again


def networks(**tensors):
    return Snapshot({"net": tensors})


@pytest.mark.parametrize("dtype", [*FLOATS, *OTHERS, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (2, 0), (0,), (1000,)], ids=str)
def test_any_bit_pattern_comes_back(dtype, shape, tmp_path):
    base, result = networks(x=any_bits(dtype, shape, 0)), networks(x=any_bits(dtype, shape, 1))
    round_trip(base, result, tmp_path / "d")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_special_values_come_back_from_each_other(dtype, tmp_path):
    info, bits = torch.finfo(dtype), BITS[torch.empty(0, dtype=dtype).element_size()]
    numbers = [0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, info.max, info.min, info.tiny, info.smallest_normal]
    values = torch.tensor(numbers, dtype=dtype)
    nans = torch.tensor([torch.inf, -torch.inf], dtype=dtype).view(bits) + torch.tensor([[1], [3]], dtype=bits)
    values = torch.cat([values, nans.reshape(-1).view(dtype)])
    assert values.isnan().sum() == 4
    before, after = torch.cartesian_prod(torch.arange(len(values)), torch.arange(len(values))).T
    round_trip(networks(x=values[before]), networks(x=values[after]), tmp_path / "d")


def test_booleans_and_other_layouts_come_back(tmp_path):
    base = networks(mask=torch.tensor([True, False, True]), w=torch.randn(4, 6, 3, 3))
    moved = base.networks["net"]["w"] * 1.01
    result = networks(mask=torch.tensor([False, False, True]), w=moved.to(memory_format=torch.channels_last))
    again = round_trip(base, result, tmp_path / "d")
    assert again.networks["net"]["mask"].tolist() == [False, False, True]
    strided = moved.transpose(0, 1).contiguous().transpose(0, 1)
    round_trip(base, networks(mask=base.networks["net"]["mask"], w=strided), tmp_path / "e")


def test_order_of_integers_is_that_of_floats():
    values = torch.tensor([-torch.inf, -2.0, -1.0, -1e-42, -0.0, 0.0, 1e-42, 1.0, 2.0, torch.inf])
    integers = delta._ordered(delta._words(values), torch.float32).tolist()
    assert integers == sorted(integers)
    neighbour = torch.tensor([1.0]).nextafter(torch.tensor([2.0]))
    step = delta._ordered(delta._words(neighbour), torch.float32) - delta._ordered(
        delta._words(torch.tensor([1.0])), torch.float32
    )
    assert step == 1
    assert integers[5] - integers[4] == 1


def test_unchanged_tensors_cost_nothing(tmp_path):
    torch.manual_seed(0)
    base = networks(**{f"w{i}": torch.randn(10_000) for i in range(20)})
    save_delta(base, base, tmp_path / "none")
    assert (tmp_path / "none").stat().st_size < 500
    changed = networks(**{**base.networks["net"], "w3": base.networks["net"]["w3"] + 1})
    round_trip(base, changed, tmp_path / "one")
    assert list(load((tmp_path / "one").read_bytes())) == ["tensor/net/w3"]
    assert (tmp_path / "one").stat().st_size < 40_000


def test_what_apply_returns_shares_nothing_with_the_base(tmp_path):
    base = networks(w=torch.zeros(3))
    save_delta(base, base, tmp_path / "d")
    apply_delta(base, tmp_path / "d").networks["net"]["w"].add_(1)
    assert base.networks["net"]["w"].sum() == 0


def test_the_same_delta_is_the_same_file(tmp_path):
    base, result = small()
    for name in "ab":
        save_delta(base, result, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_size_on_a_perturbed_gan(tmp_path):
    """Weights that moved by 3% of their spread, the average with them, take no more than unlearned ones do (65%)."""
    bundle = Bundle("mnist32")
    base = Snapshot.of_bundle(bundle)
    torch.manual_seed(0)
    weights, average = {}, {}
    for name, tensor in base.networks["generator"].items():
        scale = tensor.std(correction=0)
        weights[name] = tensor + 0.03 * scale * torch.randn_like(tensor)
        average[name] = weights[name] + 0.003 * scale * torch.randn_like(tensor)
    judge = {k: t + 0.03 * t.std(correction=0) * torch.randn_like(t) for k, t in base.networks["discriminator"].items()}
    result = Snapshot({"generator": weights, "generator_ema": average, "discriminator": judge})
    save_delta(base, result, tmp_path / "d")
    raw = sum(tensor.nbytes for tensor in result.tensors().values())
    assert (tmp_path / "d").stat().st_size < 0.70 * raw
    assert "generator_ema" in json.dumps(facts_of(tmp_path / "d")["references"])


def small():
    torch.manual_seed(0)
    base = Snapshot(
        {"g": {"w": torch.randn(50), "b": torch.zeros(2)}, "g_ema": {"w": torch.randn(50), "b": torch.ones(2)}},
        {"card.md": b"the base's", "statistics.npz": b"12", "empty": b""},
    )
    w = base.networks["g"]["w"] * 1.1
    result = Snapshot(
        {"g": {"w": w, "b": torch.zeros(2)}, "g_ema": {"w": w + 1e-6, "b": torch.ones(2)}},
        {"card.md": b"its own", "statistics.npz": b"12", "empty": b"", "new": b""},
    )
    return base, result


def facts_of(path):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"][FORMAT])


def rewrite(path, change_facts=None, change_tensors=None):
    facts, tensors = facts_of(path), load(path.read_bytes())
    facts = change_facts(facts) if change_facts else facts
    if change_tensors:
        change_tensors(tensors)
    path.write_bytes(save(tensors, {FORMAT: facts if isinstance(facts, str) else json.dumps(facts)}))


def refusal(base, path):
    with pytest.raises(FastUnlearnError) as error:
        apply_delta(base, path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def test_networks_average_is_counted_from_the_network_and_files_survive(tmp_path):
    base, result = small()
    round_trip(base, result, tmp_path / "d")
    assert facts_of(tmp_path / "d")["references"] == {"g_ema/w": "g/w"}
    stored = {name for name in load((tmp_path / "d").read_bytes()) if name.startswith("file/")}
    assert stored == {"file/card.md", "file/new"}


def test_another_base_is_refused_with_both_hashes(tmp_path):
    base, result = small()
    save_delta(base, result, tmp_path / "d")
    message = refusal(result, tmp_path / "d")
    assert state_sha256(base.tensors())[:12] in message
    assert state_sha256(result.tensors())[:12] in message
    bent = Snapshot({**base.networks, "g": {**base.networks["g"], "b": torch.tensor([0.0, -0.0])}}, base.files)
    assert "is the difference to base" in refusal(bent, tmp_path / "d")


def test_a_base_with_other_files_is_refused_where_they_are_needed(tmp_path):
    base, result = small()
    save_delta(base, result, tmp_path / "d")
    other_card = Snapshot(base.networks, {**base.files, "card.md": b"reworded"})
    assert apply_delta(other_card, tmp_path / "d").files == result.files
    for files in ({**base.files, "statistics.npz": b"13"}, {}):
        assert "needs the base's " in refusal(Snapshot(base.networks, files), tmp_path / "d")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": torch.zeros(3)}, r"net/b must be as in the base, float32 \[2\], got absent"),
        (
            {"w": torch.zeros(3), "b": torch.zeros(2), "c": torch.zeros(1)},
            r"net/c must be as in the base, absent, got float32 \[1\]",
        ),
        (
            {"w": torch.zeros(1, 3), "b": torch.zeros(2)},
            r"net/w must be as in the base, float32 \[3\], got float32 \[1, 3\]",
        ),
        (
            {"w": torch.zeros(3, dtype=torch.int32), "b": torch.zeros(2)},
            r"net/w must be as in the base, float32 \[3\], got int32 \[3\]",
        ),
    ],
)
def test_other_networks_are_refused(tensors, message, tmp_path):
    with pytest.raises(FastUnlearnError, match=message):
        save_delta(networks(w=torch.zeros(3), b=torch.zeros(2)), networks(**tensors), tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_missing_and_foreign_files(tmp_path):
    base, _ = small()
    assert "no such delta file" in refusal(base, tmp_path / "d")
    (tmp_path / "d").write_bytes(b"not this")
    assert "not a safetensors file" in refusal(base, tmp_path / "d")
    (tmp_path / "d").write_bytes(save({"w": torch.zeros(2)}))
    assert "a safetensors file, but not a delta" in refusal(base, tmp_path / "d")


def test_truncated_anywhere(tmp_path):
    base, result = small()
    save_delta(base, result, tmp_path / "d")
    data = (tmp_path / "d").read_bytes()
    for n in range(0, len(data), 7):
        (tmp_path / "d").write_bytes(data[:n])
        assert "truncated" in refusal(base, tmp_path / "d")


def test_a_changed_byte_anywhere_is_refused_or_changes_nothing(tmp_path):
    base, result = small()
    save_delta(base, result, tmp_path / "d")
    data, want, refused = (tmp_path / "d").read_bytes(), state_sha256(result.tensors()), 0
    for i in range(len(data)):
        for flip in (0x01, 0x80):
            (tmp_path / "d").write_bytes(data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :])
            try:
                again = apply_delta(base, tmp_path / "d")
            except FastUnlearnError as error:
                refused += "\n" not in str(error)
            else:
                assert state_sha256(again.tensors()) == want
                assert set(again.files.values()) == set(result.files.values())
    assert refused > 1.9 * len(data)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (lambda f: {**f, "version": 2}, "is delta version 2, this fastunlearn reads 1"),
        (lambda f: {**f, "result_sha256": "0" * 64}, "the result has another hash"),
        (lambda f: {**f, "result_sha256": 3}, "metadata are not those of a delta"),
        (lambda f: {**f, "references": {"g_ema/w": "g/b"}}, "g_ema/w refers to no tensor like it"),
        (lambda f: {**f, "references": {"g/w": "g_ema/w"}}, "g/w refers to no tensor like it"),
        (lambda f: {**f, "references": ["g/w"]}, "metadata are not those of a delta"),
        (lambda f: {**f, "references": {"g/w": []}}, "metadata are not those of a delta"),
        (lambda f: {**f, "files": {**f["files"], "card.md": "0"}}, "card.md has another hash"),
        (lambda f: {k: v for k, v in f.items() if k != "files"}, "metadata are not those of a delta"),
        (lambda f: {**f, "version": "x\n" * 1000}, r"is delta version 'x\nx\nx"),
        (lambda f: {**f, "files": {"a\nb": "0"}}, "metadata are not those of a delta"),
        (lambda f: {**f, "files": {"a" * 300: "0"}}, "metadata are not those of a delta"),
        (lambda f: "[" * 100_000, "metadata are not those of a delta"),
        (lambda f: "{", "metadata are not those of a delta"),
        (lambda f: "3", "metadata are not those of a delta"),
    ],
)
def test_edited_metadata(facts, message, tmp_path):
    base, result = small()
    save_delta(base, result, tmp_path / "d")
    rewrite(tmp_path / "d", change_facts=facts)
    assert message in refusal(base, tmp_path / "d")


MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{'*a' + str(i - 1)}, *a{i - 1}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        MERGES,
        "[" * 10_000,
        "a: " + "1" * 5000,
        "a: 2001-99-99",
        "a: !!bool x",
        "a: !!timestamp x",
        "- " * 300_000,
        "\xff",
    ],
    ids=["merges", "deep", "number", "date", "bool", "timestamp", "long", "bytes"],
)
def test_a_config_that_is_no_plain_yaml(text, tmp_path):
    with pytest.raises(FastUnlearnError, match=r"its config\.yaml is not readable YAML"):
        delta._with_base(text.encode("latin1"), Bundle("mnist32"), "", tmp_path / "d")
    (tmp_path / "config.yaml").write_bytes(text.encode("latin1"))
    with pytest.raises(FastUnlearnError, match="not a readable YAML file"):
        read_yaml(tmp_path / "config.yaml")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "d")
    assert "is a pipe" in refusal(small()[0], tmp_path / "d")
    with pytest.raises(FastUnlearnError, match="is a pipe"):
        Feedback.load(tmp_path / "d")


def stream(data):
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tensor/g/w", stream(zlib.compress(bytes(199))), "does not hold 200 bytes"),
        ("tensor/g/w", stream(zlib.compress(bytes(201))), "does not hold 200 bytes"),
        ("tensor/g/w", stream(zlib.compress(bytes(200)) + b"more"), "does not hold 200 bytes"),
        ("tensor/g/w", stream(zlib.compress(bytes(200))[:-1]), "does not hold 200 bytes"),
        ("tensor/g/w", stream(zlib.compress(bytes(200))), "another hash"),
        ("tensor/g/w", stream(b"not zlib"), "incorrect header check"),
        ("tensor/g/w", torch.empty(0, dtype=torch.uint8), "does not hold 200 bytes"),
        ("tensor/g/w", torch.zeros(50), "metadata are not those of a delta"),
        ("tensor/g/w", torch.zeros(5, 10, dtype=torch.uint8), "metadata are not those of a delta"),
        ("tensor/g/other", stream(zlib.compress(bytes(200))), "a tensor that the base has not"),
        ("file/card.md", stream(b"edited"), "card.md has another hash"),
    ],
)
def test_edited_payloads(name, value, message, tmp_path):
    base, result = small()
    save_delta(base, result, tmp_path / "d")
    rewrite(tmp_path / "d", change_tensors=lambda tensors: tensors.update({name: value}))
    assert message in refusal(base, tmp_path / "d")


def test_a_bomb_is_not_inflated(tmp_path):
    base, result = small()
    save_delta(base, result, tmp_path / "d")
    bomb = stream(zlib.compress(bytes(200_000_000), 9))
    assert len(bomb) < 200_000
    rewrite(tmp_path / "d", change_tensors=lambda tensors: tensors.update({"tensor/g/w": bomb}))
    refusal(base, tmp_path / "d")  # what is allocated once only
    tracemalloc.start()
    try:
        assert "does not hold 200 bytes" in refusal(base, tmp_path / "d")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_nothing_is_left_of_a_delta_that_cannot_be_written(tmp_path):
    base, result = small()
    with pytest.raises(FastUnlearnError, match="cannot write"):
        save_delta(base, result, tmp_path)
    assert list(tmp_path.iterdir()) == []
