import pytest
import torch
from safetensors.torch import load_file, save_file

from fastunlearn.errors import FastUnlearnError
from fastunlearn.models.lenet import LeNet, read_lenet


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LeNet(widths=(4, 6)).eval()


def test_original_widths_have_the_parameters_of_the_paper():
    # LeCun 1998's layers with full connections in the second convolution:
    # 6·25 + 6, 16·6·25 + 16, 400·120 + 120, 120·84 + 84, 84·10 + 10
    count = sum(p.numel() for p in LeNet(widths=(6, 16)).parameters())
    assert count == 156 + 2416 + 48120 + 10164 + 850


def test_logits_are_the_head_on_the_features(model):
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    features = model.features(x)
    assert features.shape == (3, 84)
    assert features.min() >= 0
    assert torch.allclose(model(x), features @ model.head.weight.T + model.head.bias, atol=1e-6)


def test_features_against_the_layers_written_out(model):
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    c1, c2, f1, f2 = (layer for layer in model.body if hasattr(layer, "weight"))
    h = torch.nn.functional.conv2d(x, c1.weight, c1.bias).relu()
    h = h.reshape(2, 4, 14, 2, 14, 2).amax((3, 5))
    h = torch.nn.functional.conv2d(h, c2.weight, c2.bias).relu()
    h = h.reshape(2, 6, 5, 2, 5, 2).amax((3, 5)).reshape(2, 150)
    h = (h @ f1.weight.T + f1.bias).relu()
    h = (h @ f2.weight.T + f2.bias).relu()
    assert torch.allclose(model.features(x), h, atol=1e-6)


def test_gradients_reach_the_image(model):
    x = torch.zeros(1, 1, 32, 32, requires_grad=True)
    model(x)[0, 3].backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 32, 32), (1, 32, 32), (2, 1, 32, 31)])
def test_wrong_shape(model, shape):
    with pytest.raises(ValueError, match=r"LeNet: x must be \[N, 1, 32, 32\], got "):
        model(torch.zeros(shape))


def test_save_and_load_keep_layout_weights_and_metadata(tmp_path):
    model = LeNet(in_channels=3, n_classes=7, widths=(4, 5))
    model.save(tmp_path / "c.safetensors", {"note": "hello"})
    again = LeNet.load(tmp_path / "c.safetensors")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert read_lenet(tmp_path / "c.safetensors")[0]["note"] == "hello"
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_channels_last_weights_survive_the_file(tmp_path, model):
    expected = model(torch.ones(1, 1, 32, 32))
    model.to(memory_format=torch.channels_last).save(tmp_path / "c.safetensors")
    assert torch.allclose(LeNet.load(tmp_path / "c.safetensors")(torch.ones(1, 1, 32, 32)), expected, atol=1e-6)


def _error(path):
    with pytest.raises(FastUnlearnError) as caught:
        LeNet.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_missing_file(tmp_path):
    assert "no such classifier file" in _error(tmp_path / "c.safetensors")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_file(tmp_path, model, share):
    path = tmp_path / "c.safetensors"
    model.save(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    assert "truncated or damaged" in _error(path)


def test_another_safetensors_file(tmp_path):
    path = tmp_path / "c.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    assert "not a LeNet file" in _error(path)


@pytest.mark.parametrize("change", [{"widths": "4,7"}, {"widths": "four"}, {"n_classes": "9"}])
def test_layout_and_weights_that_disagree(tmp_path, model, change):
    path = tmp_path / "c.safetensors"
    model.save(path)
    metadata = {**read_lenet(path)[0], **change}
    save_file(load_file(path), path, metadata)
    assert "do not fit their layout" in _error(path)


def test_layout_without_a_field(tmp_path, model):
    path = tmp_path / "c.safetensors"
    save_file(model.state_dict(), path, {"format": "fastunlearn-lenet"})
    assert "do not fit their layout" in _error(path)


def test_an_unwritable_place(tmp_path, model):
    (tmp_path / "c.safetensors").mkdir()
    with pytest.raises(FastUnlearnError, match="cannot write"):
        model.save(tmp_path / "c.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]
