"""Large CPU results lie in memory of earlier ones, and nobody else notices."""

import gc
import os
import pickle
import threading

import pytest
import torch
from fastunlearn.kernels import registry

from fastunlearn import ops

LARGE = (4, 16, 128, 128)  # 4 MB

pytestmark = pytest.mark.skipif(
    bool(registry.LOAD_ERROR) or torch.__version__ < (2, 11) or not hasattr(os, "fork"),
    reason="needs the compiled kernels, PyTorch 2.11 and mmap",
)


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    ops.empty_cache()
    yield
    ops.empty_cache()


def result(value: float, shape=LARGE) -> torch.Tensor:
    return ops.bias_act(torch.full(shape, value), act="linear")


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_used_again():
    first = result(1.0)
    address = first.data_ptr()
    del first
    assert result(2.0).data_ptr() == address


def test_only_once_nobody_uses_it():
    first = result(1.0)
    view = first[1:, :, ::2]
    array = first.numpy()
    del first
    second = result(2.0)
    assert second.data_ptr() != array.ctypes.data
    del view
    third = result(3.0)
    assert (array == 1).all()
    assert (second == 2).all()
    assert (third == 3).all()


def test_a_graph_keeps_what_it_saved():
    x = torch.randn(LARGE, requires_grad=True)
    y = ops.bias_act(x, act="lrelu")
    expected = torch.autograd.grad(torch.nn.functional.leaky_relu(x, 0.2).square().sum() * 2, x)[0]
    loss = y.square().sum()
    del y
    others = [result(float(i)) for i in range(3)]
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)
    assert [o.unique().item() for o in others] == [0, 1, 2]


def test_sizes_do_not_mix():
    small = result(1.0, (1, 16, 128, 128))
    del small
    assert ops.empty_cache() == 1 << 20
    grown = [result(float(n), (n, 16, 128, 128)) for n in range(1, 9)]
    assert [g.unique().item() for g in grown] == list(range(1, 9))
    kept = sum(g.nbytes for g in grown)
    del grown
    assert kept <= ops.empty_cache() <= kept * 9 / 8


def test_what_is_small_is_not_kept():
    small = result(1.0, (1, 1, 128, 128))
    del small
    assert ops.empty_cache() == 0


def test_empty_cache_gives_pages_back():
    tensors = [result(1.0, (64, 16, 128, 128)) for _ in range(3)]  # 64 MB each
    full = resident()
    del tensors
    assert ops.empty_cache() >= 3 << 26
    assert resident() <= full - (3 << 26) + (8 << 20)
    assert ops.empty_cache() == 0


def test_no_more_than_a_gigabyte_is_kept():
    tensors = [result(1.0, (128, 16, 128, 128)) for _ in range(9)]
    del tensors  # 1.125 GB
    assert 1 << 29 < ops.empty_cache() <= 1 << 30


def test_memory_formats_and_types():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.randn(LARGE).to(dtype, memory_format=torch.channels_last)
        y = ops.bias_act(x, act="linear")
        assert (y.dtype, y.shape, y.stride()) == (x.dtype, x.shape, x.stride())
        torch.testing.assert_close(y, x, rtol=0, atol=0)


def test_threads():
    wrong = []

    def work(seed):
        for i in range(20):
            value = float(seed * 20 + i)
            tensor = result(value)
            if not (tensor == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_fork_while_others_allocate():
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            result(1.0)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                ops.empty_cache()  # needs the lock
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    finally:
        stop.set()
        thread.join()


def test_what_people_do_with_tensors(tmp_path):
    y = result(3.0)
    torch.save(y, tmp_path / "y.pt")
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), y)
    torch.testing.assert_close(pickle.loads(pickle.dumps(y)), y)
    torch.testing.assert_close(torch.from_dlpack(y), y)
    assert torch.from_dlpack(y).data_ptr() == y.data_ptr()
    shared = result(4.0).share_memory_()
    assert shared.is_shared()
    assert (shared == 4).all()
    y.add_(1).mul_(2)
    assert (y == 8).all()
