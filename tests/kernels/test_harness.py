"""The parts of the harness that only a machine with a card would use otherwise, with the CPU as the other device."""

import torch
from harness import gradients_agree, on_device


def test_a_moved_tensor_keeps_its_strides_and_what_surrounds_it():
    buffer = torch.arange(24.0)
    inside = buffer.as_strided((2, 3), (8, 2), 3)

    def look(x):
        assert x.stride() == (8, 2)
        assert x.data_ptr() != inside.data_ptr()
        return x.as_strided((24,), (1,), 0)

    assert torch.equal(on_device(look, "cpu")(inside), buffer)


def test_a_moved_function_has_gradients_of_any_order():
    x = torch.randn(3, 2, dtype=torch.float64).T.requires_grad_()
    gradients_agree(on_device(lambda x: (x**3, None)[0], "cpu"), x)


def test_a_function_without_results_changes_its_arguments():
    def double(tensors, factor):
        tensors[0].mul_(factor)

    here, untouched = torch.ones(4), torch.ones(4)
    on_device(double, "cpu")([here, untouched], 2)
    assert here.tolist() == [2.0] * 4
    assert untouched.tolist() == [1.0] * 4
