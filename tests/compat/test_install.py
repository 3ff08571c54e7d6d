"""Before or after the import, nested copies, twice, back again: what is exchanged, and that all of it comes back."""

import copy
import importlib
import inspect
import io
import pickle
import sys
from types import ModuleType

import pytest
import torch

from fastunlearn import ops
from fastunlearn.compat import FAMILIES
from fastunlearn.compat.dropin import Facade
from fastunlearn.errors import FastUnlearnError

DISTANCES = {
    "cleanfid": ["cleanfid.fid"],
    "pytorch_fid": ["pytorch_fid.fid_score"],
    "torch_fidelity": ["torch_fidelity"],
    "torchmetrics": ["torchmetrics.image"],
}


class Calls:
    """Counts the calls of our ops."""

    def __init__(self, monkeypatch):
        self.names = []
        for name in ("upfirdn2d", "bias_act", "conv2d", "conv_transpose2d", "modulated_conv2d", "styled_conv2d"):
            monkeypatch.setattr(ops, name, self._counting(name, getattr(ops, name)))

    def _counting(self, name, function):
        def call(*args, **kwargs):
            self.names.append(name)
            return function(*args, **kwargs)

        return call

    def during(self, function, *args):
        self.names.clear()
        function(*args)
        return set(self.names)


@pytest.fixture
def calls(monkeypatch):
    return Calls(monkeypatch)


def facades():
    return sorted(name for name, module in sys.modules.items() if isinstance(module, Facade))


def globals_of(*prefixes):
    """Every global of the foreign modules, by name."""
    return {
        (name, key): value
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in prefixes
        for key, value in vars(module).items()
        if key not in ("__builtins__", "__cached__")
    }


def ada_image(networks):
    torch.manual_seed(0)
    return networks.Generator()(torch.randn(2, 6))


def rosinality_image(model):
    torch.manual_seed(0)
    return model.Generator(8, 6, 2)([torch.randn(2, 6)])[0]


# ---- before the import -----------------------------------------------------------------------------------------------


def test_ada_before_its_import(foreign, calls):
    family = foreign.family("stylegan2_ada")
    family.install()
    networks = importlib.import_module("training.networks")
    assert facades() == [f"torch_utils.ops.{m}" for m in ("bias_act", "conv2d_resample", "fma", "upfirdn2d")]
    assert {"styled_conv2d", "upfirdn2d", "bias_act"} <= calls.during(ada_image, networks)
    assert {"conv2d", "upfirdn2d", "bias_act"} <= calls.during(networks.Discriminator(), torch.ones(2, 3, 8, 8))


def test_stylegan3_before_its_import(foreign, calls):
    foreign.family("stylegan3", compiled=False)
    with pytest.raises(ImportError, match="pkg_resources"):
        importlib.import_module("training.networks_stylegan3")
    with pytest.raises(ImportError, match="pkg_resources"):
        importlib.import_module("torch_utils.ops.grid_sample_gradfix")
    for name in [name for name in sys.modules if name.startswith(("training", "torch_utils"))]:
        del sys.modules[name]
    importlib.import_module("fastunlearn.compat.stylegan3").install()
    networks = importlib.import_module("training.networks_stylegan3")
    importlib.import_module("torch_utils.ops.grid_sample_gradfix")
    layer = networks.SynthesisLayer()
    assert layer(torch.randn(2, 4, 16, 16), torch.randn(2, 5)).shape == (2, 4, 16, 16)
    older = importlib.import_module("training.networks_stylegan2").SynthesisLayer()
    assert "modulated_conv2d" in calls.during(older, torch.randn(2, 4, 8, 8), torch.randn(2, 4))


def test_rosinality_before_its_import(foreign, calls):
    family = foreign.family("rosinality", compiled=False)
    with pytest.raises(RuntimeError, match="Error building extension"):
        importlib.import_module("model")
    with family.installed():
        model = importlib.import_module("model")
        assert {"upfirdn2d", "bias_act", "conv_transpose2d"} <= calls.during(rosinality_image, model)
        used = calls.during(model.Discriminator(8), torch.ones(2, 3, 8, 8))
        assert {"upfirdn2d", "bias_act", "conv2d"} <= used


def test_lucidrains_before_its_import(foreign, calls):
    family = foreign.family("lucidrains")
    with family.installed():
        package = importlib.import_module("stylegan2_pytorch")
        block = package.GeneratorBlock(6, 4, 5)
        arguments = torch.ones(2, 4, 4, 4), None, torch.ones(2, 6), torch.ones(2, 16, 16, 1)
        assert {"upfirdn2d", "conv2d"} <= calls.during(block, *arguments)
    assert calls.during(block, *arguments) == set()
    assert block.forward.__func__ is package.GeneratorBlock.forward


# ---- after it, and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "least"), [(family, 1 if family in DISTANCES else 3) for family in FAMILIES])
def test_everything_comes_back(foreign, family, least):
    """After an import: globals of all foreign modules, classes' attributes, sys.modules and sys.meta_path."""
    dropin = foreign.family(family)
    for module in {
        "stylegan2_ada": ["training.networks", "torch_utils.ops.grid_sample_gradfix"],
        "stylegan3": ["training.networks_stylegan2", "training.networks_stylegan3", "torch_utils.ops.fma"],
        "rosinality": ["model", "op.conv2d_gradfix"],
        "lucidrains": ["stylegan2_pytorch"],
        **DISTANCES,
    }[family]:
        importlib.import_module(module)
    names = ("training", "torch_utils", "op", "model", "stylegan2_pytorch", *DISTANCES)
    before, modules, finders = globals_of(*names), dict(sys.modules), list(sys.meta_path)
    classes = {cls: dict(vars(cls)) for cls in before.values() if inspect.isclass(cls)}
    sampler = dict(vars(torch.utils.data.Sampler))
    dropin.install()
    dropin.install()
    changed = {key for key, value in globals_of(*names).items() if value is not before[key]}
    changed |= {cls for cls, attributes in classes.items() if dict(vars(cls)) != attributes}
    assert len(changed) >= least
    dropin.uninstall()
    dropin.uninstall()
    after = globals_of(*names)
    assert after.keys() == before.keys()
    assert all(after[key] is before[key] for key in before)
    assert all(dict(vars(cls)) == attributes for cls, attributes in classes.items())
    assert dict(vars(torch.utils.data.Sampler)) == sampler
    assert (sys.modules, sys.meta_path) == (modules, finders)


def test_after_the_import_functions_are_exchanged_where_they_were_imported_to(foreign, calls):
    family = foreign.family("rosinality")
    model = importlib.import_module("model")
    theirs = model.upfirdn2d, model.fused_leaky_relu, model.FusedLeakyReLU
    generator = model.Generator(8, 6, 2)
    z = [torch.randn(2, 6)]
    assert calls.during(generator, z) == set()
    with family.installed():
        assert {"upfirdn2d", "bias_act", "conv_transpose2d"} <= calls.during(generator, z)
        assert model.upfirdn2d is sys.modules["op"].upfirdn2d is sys.modules["op.upfirdn2d"].upfirdn2d
        assert model.upfirdn2d is not theirs[0]
        assert model.FusedLeakyReLU is theirs[2]
    assert calls.during(generator, z) == set()
    assert (model.upfirdn2d, model.fused_leaky_relu) == theirs[:2]


def test_what_was_imported_while_installed_is_the_original_afterwards(foreign, calls):
    family = foreign.family("stylegan2_ada")
    with family.installed():
        from torch_utils.ops import bias_act, conv2d_resample
        from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

        x, f = torch.randn(1, 2, 5, 5), setup_filter([1, 3, 3, 1])
        ours = upfirdn2d(x, f, up=2, padding=2)
        assert calls.during(upfirdn2d, x, f) == {"upfirdn2d"}
    assert facades() == []
    assert not hasattr(sys.modules["torch_utils.ops"], "bias_act")
    assert calls.during(lambda: (upfirdn2d(x, f), bias_act.bias_act(x, act="lrelu"))) == set()
    assert calls.during(conv2d_resample.conv2d_resample, x, torch.ones(1, 2, 3, 3)) == set()
    torch.testing.assert_close(upfirdn2d(x, f, up=2, padding=2), ours)
    assert inspect.getfile(sys.modules["torch_utils.ops.upfirdn2d"]).endswith("nvidia/torch_utils/ops/upfirdn2d.py")
    with family.installed():
        assert calls.during(upfirdn2d, x, f) == {"upfirdn2d"}


def test_what_was_imported_by_name_from_a_loaded_module_is_the_original_afterwards(foreign, calls):
    family = foreign.family("rosinality")
    theirs = importlib.import_module("op").upfirdn2d
    x, kernel = torch.randn(1, 2, 5, 5), torch.ones(2, 2)
    with family.installed():
        model = importlib.import_module("model")
        assert calls.during(model.upfirdn2d, x, kernel) == {"upfirdn2d"}
    assert calls.during(model.upfirdn2d, x, kernel) == set()
    assert sys.modules["op"].upfirdn2d is theirs


@pytest.mark.parametrize("first", ["install", "import"])
def test_modulated_conv2d_imported_while_installed_is_the_original_afterwards(foreign, calls, first):
    family = foreign.family("stylegan2_ada")
    theirs = importlib.import_module("training.networks").modulated_conv2d if first == "import" else None
    arguments = torch.ones(1, 2, 4, 4), torch.ones(2, 2, 1, 1), torch.ones(1, 2)
    with family.installed():
        from training.networks import modulated_conv2d

        assert calls.during(modulated_conv2d, *arguments) == {"modulated_conv2d"}
    assert calls.during(modulated_conv2d, *arguments) == set()
    networks = importlib.import_module("training.networks")
    assert theirs in (None, networks.modulated_conv2d)
    assert not hasattr(networks.modulated_conv2d, "__wrapped__")


def test_rosinality_imported_while_installed_is_the_original_afterwards(foreign, calls):
    family = foreign.family("rosinality")
    with family.installed():
        model = importlib.import_module("model")
    x, kernel = torch.randn(1, 2, 5, 5), torch.ones(2, 2)
    expected = torch.nn.functional.conv2d(x, kernel.expand(2, 1, 2, 2), groups=2)
    assert calls.during(model.upfirdn2d, x, kernel) == set()
    torch.testing.assert_close(model.upfirdn2d(x, kernel), expected)
    from op import upfirdn2d  # the package has it under the name of the module that defines it

    torch.testing.assert_close(upfirdn2d(x, kernel), expected)
    assert calls.during(rosinality_image, model) <= {"bias_act"}  # of our FusedLeakyReLU, which it has imported


def test_failing_originals_say_so_after_uninstall(foreign):
    family = foreign.family("rosinality", compiled=False)
    with family.installed():
        from op import upfirdn2d
    with pytest.raises(RuntimeError, match="Error building extension 'upfirdn2d'"):
        upfirdn2d(torch.ones(1, 1, 4, 4), torch.ones(2, 2))


def test_images_are_the_same_in_every_order(foreign):
    """Without, after the import, before the import."""
    ada = foreign.family("stylegan2_ada")
    networks = importlib.import_module("training.networks")
    plain = ada_image(networks)
    with ada.installed():
        after = ada_image(networks)
    for name in [name for name in sys.modules if name.startswith(("training", "torch_utils"))]:
        del sys.modules[name]
    with ada.installed():
        before = ada_image(importlib.import_module("training.networks"))
    for image in (after, before):
        assert (image - plain).abs().max() <= 1e-4 * plain.abs().max()
    assert not torch.equal(after, plain)  # sums in another order: it ran elsewhere
    assert torch.equal(after, before)


# ---- nested copies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["install", "import"])
def test_nested_copy_of_rosinality(foreign, calls, first):
    family = foreign.family("rosinality")
    foreign.nested("rosinality_built/op", "pkg.models.stylegan2.op")
    foreign.nested("rosinality", "pkg.models.stylegan2", op=".op")
    foreign.nested("rosinality_built/op", "pkg.models.stylegan2.op")
    if first == "install":
        family.install()
    model = importlib.import_module("pkg.models.stylegan2.model")
    family.install()
    assert "op" not in sys.modules
    assert {"upfirdn2d", "bias_act", "conv_transpose2d"} <= calls.during(rosinality_image, model)
    family.uninstall()
    assert calls.during(rosinality_image, model) <= ({"bias_act"} if first == "install" else set())
    assert facades() == []


@pytest.mark.parametrize("first", ["install", "import"])
def test_nested_copy_of_ada(foreign, calls, first):
    family = foreign.family("stylegan2_ada")
    foreign.nested("nvidia/torch_utils", "my.gan.torch_utils")
    foreign.nested("stylegan2_ada/training", "my.gan.training", torch_utils="my.gan.torch_utils")
    if first == "install":
        family.install()
    networks = importlib.import_module("my.gan.training.networks")
    family.install()
    assert "torch_utils" not in sys.modules
    assert "styled_conv2d" in calls.during(ada_image, networks)
    family.uninstall()
    assert calls.during(ada_image, networks) == set()


def test_other_modules_called_model_are_left_alone(foreign):
    """A ModulatedConv2d with other arguments, or one that is no class."""
    family = foreign.family("rosinality", compiled=False)
    (foreign.folder / "one").mkdir()
    (foreign.folder / "two").mkdir()
    (foreign.folder / "one" / "model.py").write_text("class ModulatedConv2d:\n    forward = 1\n")
    (foreign.folder / "two" / "model.py").write_text("def ModulatedConv2d():\n    return 1\n")
    sys.path.insert(0, str(foreign.folder))
    family.install()
    assert importlib.import_module("one.model").ModulatedConv2d.forward == 1
    assert importlib.import_module("two.model").ModulatedConv2d() == 1


# ---- context managers and families together --------------------------------------------------------------------------


def test_context_manager(foreign):
    family = foreign.family("stylegan2_ada")
    ops = importlib.import_module("torch_utils.ops.upfirdn2d")
    theirs = ops.upfirdn2d
    with family.installed():
        assert ops.upfirdn2d is not theirs
        with family.installed():
            pass
        assert ops.upfirdn2d is not theirs
    assert ops.upfirdn2d is theirs
    with pytest.raises(KeyError), family.installed():
        raise KeyError
    assert ops.upfirdn2d is theirs
    family.install()
    with pytest.raises(KeyError), family.installed():
        raise KeyError
    assert ops.upfirdn2d is not theirs


def test_families_that_share_modules_are_refused(foreign):
    ada, stylegan3 = foreign.family("stylegan2_ada"), foreign.family("stylegan3")
    ada.install()
    refusal = r"compat\.stylegan3: torch_utils\.ops\.\w+ is replaced by compat\.stylegan2_ada, uninstall that first"
    with pytest.raises(FastUnlearnError, match=refusal):
        stylegan3.install()
    ada.uninstall()
    with stylegan3.installed(), pytest.raises(FastUnlearnError, match=r"compat\.stylegan2_ada: .*compat\.stylegan3"):
        ada.install()
    ada.install()


def test_families_that_share_nothing_go_together(foreign, calls):
    ada, rosinality = foreign.family("stylegan2_ada"), foreign.family("rosinality", compiled=False)
    with ada.installed(), rosinality.installed(), foreign.family("lucidrains").installed():
        networks, model = importlib.import_module("training.networks"), importlib.import_module("model")
        assert "styled_conv2d" in calls.during(ada_image, networks)
        assert "conv_transpose2d" in calls.during(rosinality_image, model)


# ---- what only the originals have ------------------------------------------------------------------------------------


def test_unknown_attributes_are_named(foreign):
    foreign.family("stylegan2_ada").install()
    module = importlib.import_module("torch_utils.ops.upfirdn2d")
    message = r"torch_utils\.ops\.upfirdn2d\._plugin is not offered by fastunlearn\.compat\.stylegan2_ada"
    with pytest.raises(AttributeError, match=message):
        module._plugin()
    assert not hasattr(module, "__wrapped__")
    with pytest.raises(ImportError, match="_plugin"):
        from torch_utils.ops.upfirdn2d import _plugin  # noqa: F401


@pytest.mark.parametrize("family", ["stylegan2_ada", "stylegan3", "rosinality"])
def test_flags(foreign, family):
    package = "op" if family == "rosinality" else "torch_utils.ops"
    foreign.family(family, compiled=False).install()
    gradfix = importlib.import_module(f"{package}.conv2d_gradfix")
    assert gradfix.enabled
    gradfix.enabled = False
    assert not gradfix.enabled
    assert gradfix.weight_gradients_disabled is False
    with pytest.raises(AttributeError, match=r"conv2d_gradfix\.weight_gradients_disabled can only be read"):
        gradfix.weight_gradients_disabled = True
    with gradfix.no_weight_gradients():
        assert gradfix.weight_gradients_disabled is True
        with gradfix.no_weight_gradients():
            pass
        assert gradfix.weight_gradients_disabled is True
    assert gradfix.weight_gradients_disabled is False
    with pytest.raises(KeyError), gradfix.no_weight_gradients():
        raise KeyError
    assert gradfix.weight_gradients_disabled is False


@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"stride": (2, 1)}], ids=str)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_no_weight_gradients(foreign, name, options):
    foreign.family("stylegan3", compiled=False).install()
    gradfix = importlib.import_module("torch_utils.ops.conv2d_gradfix")
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    weight = torch.randn(4, 4 // options.get("groups", 1), 3, 3, requires_grad=True)

    def gradients():
        y = getattr(gradfix, name)(x, weight, **options)
        return torch.autograd.grad(y.square().sum(), [x, weight], allow_unused=True, create_graph=True)

    plain = gradients()
    with gradfix.no_weight_gradients():
        of_x, of_weight = gradients()
    assert of_weight is None
    torch.testing.assert_close(of_x, plain[0])
    with gradfix.no_weight_gradients(disable=False):
        assert gradients()[1] is not None
    (second,) = torch.autograd.grad(of_x.square().sum(), weight)  # R1: the weight's part of the second order stays
    (expected,) = torch.autograd.grad(plain[0].square().sum(), weight)
    torch.testing.assert_close(second, expected)


def test_no_weight_gradients_of_a_loaded_module(foreign):
    family = foreign.family("rosinality")
    gradfix = importlib.import_module("op.conv2d_gradfix")
    weight = torch.ones(1, 1, 2, 2, requires_grad=True)

    def gradient():
        y = gradfix.conv2d(torch.ones(1, 1, 3, 3, requires_grad=True), weight)
        return torch.autograd.grad(y.sum(), weight, allow_unused=True)[0]

    with family.installed():
        with gradfix.no_weight_gradients():
            assert gradient() is None
        assert gradient() is not None


# ---- pickles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["install", "unpickle"])
def test_networks_out_of_pickles(foreign, calls, first):
    """The module that persistence makes of a pickle's source gets our modulated_conv2d, and the original back."""
    family = foreign.family("stylegan2_ada")
    networks = importlib.import_module("training.networks")
    generator = networks.Generator()
    stored = pickle.dumps(generator)
    z = torch.randn(2, 6)
    expected = generator(z)
    if first == "install":
        family.install()
    loaded = pickle.loads(stored)
    family.install()
    assert type(loaded).__module__.startswith("_imported_module_")
    assert "styled_conv2d" in calls.during(loaded, z)
    torch.testing.assert_close(loaded(z), expected, rtol=1e-4, atol=1e-4)
    again = pickle.loads(pickle.dumps(loaded))
    assert "styled_conv2d" in calls.during(again, z)
    family.uninstall()
    assert calls.during(loaded, z) == set()
    torch.testing.assert_close(loaded(z), expected)
    assert "styled_conv2d" not in calls.during(pickle.loads(stored), z)


# ---- networks --------------------------------------------------------------------------------------------------------


def test_images_and_features_can_be_viewed(foreign):
    foreign.family("stylegan2_ada").install()
    foreign.family("rosinality", compiled=False).install()
    foreign.family("lucidrains").install()
    networks, model = importlib.import_module("training.networks"), importlib.import_module("model")
    image = ada_image(networks)
    assert image.view(2, -1).shape == (2, 192)
    assert networks.Discriminator()(image).shape == (2, 1)
    image = rosinality_image(model)
    assert image.view(2, -1).shape == (2, 192)
    assert model.Discriminator(8)(image).shape == (2, 1)
    block = importlib.import_module("stylegan2_pytorch").GeneratorBlock(6, 4, 5)
    _, rgb = block(torch.ones(2, 4, 4, 4), None, torch.ones(2, 6), torch.ones(2, 16, 16, 1))
    assert rgb.view(2, -1).shape == (2, 3 * 16 * 16)


@pytest.mark.parametrize("family", ["stylegan2_ada", "rosinality"])
def test_r1_and_path_length(foreign, family):
    """Every parameter's gradient of both regularisers, through additions in place, is as without us."""
    dropin = foreign.family(family)
    ada = family == "stylegan2_ada"
    networks = importlib.import_module("training.networks" if ada else "model")
    torch.manual_seed(0)
    g = networks.Generator() if ada else networks.Generator(8, 6, 2)
    d = networks.Discriminator() if ada else networks.Discriminator(8)
    z, real = torch.randn(2, 6, requires_grad=True), torch.randn(2, 3, 8, 8, requires_grad=True)
    direction = torch.randn(2, 3, 8, 8)

    def gradients():
        torch.manual_seed(1)  # rosinality draws noise
        (of_real,) = torch.autograd.grad(d(real).sum(), real, create_graph=True)
        image = g(z) if ada else g([z])[0]
        (of_z,) = torch.autograd.grad((image * direction).sum(), z, create_graph=True)
        loss = of_real.square().sum() + of_z.square().sum() + d(image).sum()
        parameters = dict(g.named_parameters()) | {f"d.{name}": p for name, p in d.named_parameters()}
        return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))

    expected = gradients()
    with dropin.installed():
        got = gradients()
    for name, theirs in expected.items():
        assert (got[name] - theirs).abs().max() <= 1e-3 * theirs.abs().max().clamp(min=1e-3), name


def test_hooks_of_modulated_conv2d_run(foreign):
    family = foreign.family("rosinality")
    model = importlib.import_module("model")
    layer = model.ModulatedConv2d(4, 5, 3, 6)
    seen = []
    layer.register_forward_pre_hook(lambda module, arguments: seen.append("before"))
    layer.register_forward_hook(lambda module, arguments, result: seen.append(tuple(result.shape)))
    layer.modulation.register_forward_hook(lambda module, arguments, result: seen.append("modulation"))
    with family.installed():
        layer(torch.ones(2, 4, 6, 6), torch.ones(2, 6))
    assert seen == ["before", "modulation", (2, 5, 6, 6)]


def test_fused_leaky_relu_module(foreign):
    family = foreign.family("rosinality")
    theirs = importlib.import_module("op").FusedLeakyReLU(3)
    from fastunlearn.compat.rosinality import FusedLeakyReLU

    ours = FusedLeakyReLU(3)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["bias"]
    torch.nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    assert FusedLeakyReLU(3, bias=False).state_dict() == {}
    twin = copy.deepcopy(torch.nn.Sequential(ours))[0]
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        for module in (ours, twin, torch.load(file, weights_only=False)):
            torch.testing.assert_close(module(x), theirs(x))
        twin.bias.zero_()
        assert not torch.equal(twin(x), ours(x))
    with family.installed():
        assert importlib.import_module("op.fused_act").FusedLeakyReLU is type(theirs)


def test_compiles_in_one_graph(foreign):
    foreign.family("stylegan2_ada").install()
    from torch_utils.ops import bias_act, upfirdn2d

    f = upfirdn2d.setup_filter([1, 3, 3, 1])

    def layer(x):
        return bias_act.bias_act(upfirdn2d.upsample2d(x, f), act="lrelu")

    x = torch.randn(1, 2, 5, 5)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x))


# ---- cures of scripts ------------------------------------------------------------------------------------------------


class InfiniteSampler(torch.utils.data.Sampler):
    def __init__(self, dataset):
        super().__init__(dataset)
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


def test_samplers_take_their_dataset(foreign):
    family = foreign.family("stylegan2_ada")
    with family.installed():
        assert list(InfiniteSampler([3, 1])) == [3, 1]
        assert list(torch.utils.data.SequentialSampler([3, 1])) == [0, 1]
    if "__init__" not in vars(torch.utils.data.Sampler):
        with pytest.raises(TypeError):
            InfiniteSampler([3, 1])


@pytest.mark.parametrize("first", ["install", "import"])
def test_torchvisions_range(foreign, monkeypatch, first):
    family = foreign.family("rosinality", compiled=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    foreign.reach("torchvision_double")
    if first == "install":
        family.install()
    utils = importlib.import_module("torchvision.utils")
    family.install()
    assert utils.save_image("x", "file", nrow=2, normalize=True, range=(-1, 1)) == ("file", ("grid", 2, (-1, 1)))
    assert utils.make_grid("x", range=(0, 1))[2] == utils.make_grid("x", value_range=(0, 1))[2] == (0, 1)
    family.uninstall()
    with pytest.raises(TypeError, match="range"):
        utils.save_image("x", "file", range=(-1, 1))


def test_a_module_that_is_not_there_is_still_missing(foreign):
    foreign.family("stylegan2_ada").install()
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        importlib.import_module("nowhere.torch_utils.ops.bias_act")
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        importlib.import_module("torch_utils.ops.nothing")
    assert isinstance(importlib.import_module("torch_utils.ops.fma"), ModuleType)
