"""What every op of the form target ← step(target, source, factor), over lists and in place, is held to.

Each op's test file subclasses `ListUpdate`, names its function and writes the formula out.
"""

import itertools
from typing import ClassVar

import pytest
import torch
from harness import DTYPES, LAYOUTS, assert_within
from torch import Tensor
from torch._subclasses import FakeTensorMode

SHAPES = [(5, 3), (7,), (), (1,), (0,), (2, 0, 3), (16, 8, 3, 3), (40_001,)]  # two block boundaries in the last


def make(shapes=SHAPES, dtype=torch.float32, seed=0) -> tuple[list[Tensor], list[Tensor]]:
    """Targets ≥ 0, and sources."""
    rng = torch.Generator().manual_seed(seed)
    targets = [torch.randn(s, generator=rng).abs().to(dtype) for s in shapes]
    return targets, [t + torch.randn(t.shape, generator=rng).to(dtype) for t in targets]


class ListUpdate:
    """The tests; `factor` is the default of those that are not about it."""

    function: ClassVar = None
    reference: ClassVar = None
    operator: ClassVar = None
    factor: float

    @staticmethod
    def formula(target: Tensor, source: Tensor, factor: float) -> Tensor:
        """The op on float64 tensors, written out, sharing nothing with the package."""
        raise NotImplementedError

    def check(self, function, targets, sources, factor):
        exact = [self.formula(t.double(), s.double(), factor) for t, s in zip(targets, sources, strict=True)]
        eager = [t.clone() for t in targets]
        type(self).reference(eager, sources, factor)
        kept = [s.clone() for s in sources]
        function(targets, sources, factor)
        # All tensors together: where terms nearly cancel, the size of the terms is the error's measure.
        for dtype in {t.dtype for t in targets}:
            flat = (
                torch.cat([x.flatten() for x, t in zip(xs, targets, strict=True) if t.dtype == dtype])
                for xs in (targets, exact, eager)
            )
            assert_within(f"targets in {dtype}", *flat)
        assert all(torch.equal(s, k) for s, k in zip(sources, kept, strict=True)), "a source was written to"

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("factor", [0.0, 0.5, 0.999, 1.0])
    def test_formula(self, implementation, dtype, factor):
        self.check(implementation, *make(dtype=dtype), factor)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("partner", ["alike", "contiguous"])
    def test_layouts(self, implementation, layout, partner):
        targets, sources = make([(6, 5, 4, 3), (3,), (2, 3, 1, 5)])
        targets = [LAYOUTS[layout if layout != "expanded" else "sliced"](t) for t in targets]
        sources = [LAYOUTS[layout](s) if partner == "alike" else s.contiguous() for s in sources]
        self.check(implementation, targets, sources, self.factor)

    def test_many_tiny_tensors_of_every_dtype(self, implementation):
        parts = [make([(i % 4,) for i in range(200)], dtype, seed=i) for i, dtype in enumerate(DTYPES)]
        targets, sources = (list(itertools.chain(*lists)) for lists in zip(*parts, strict=True))
        self.check(implementation, targets, sources, self.factor)

    def test_only_the_target_is_written(self, implementation):
        buffer = torch.full((40_001 + 128,), float("nan"))
        inside = buffer[64:-64]
        inside.fill_(1.0)
        implementation([inside], [torch.full_like(inside, 3.0)], self.factor)
        assert (inside == inside[0]).all()
        assert buffer[:64].isnan().all()
        assert buffer[-64:].isnan().all()

    def test_threads_change_nothing(self):
        results, threads = [], torch.get_num_threads()
        try:
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                targets, sources = make([(200_003,), (5,)])
                type(self).function(targets, sources, self.factor)
                results.append(targets)
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    def test_tensors_that_ask_for_gradients_are_fine(self):
        expected = self.formula(torch.ones(3), torch.full((3,), 2.0), self.factor)
        source = torch.full((3,), 2.0, requires_grad=True)
        for target in (torch.ones(3), torch.ones(3, requires_grad=True)):
            type(self).function([target], [source], self.factor)
            torch.testing.assert_close(target.detach(), expected)
            assert target.grad_fn is None

    def test_autograd_notices_a_changed_target(self):
        target = torch.ones(3)
        factor = torch.ones(3, requires_grad=True)
        product = (target * factor).sum()
        type(self).function([target], [torch.zeros(3)], self.factor)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()

    def test_nothing_to_do(self):
        type(self).function([], [], self.factor)
        empty = torch.zeros(0)
        type(self).function([empty], [torch.zeros(0)], self.factor)
        assert empty.shape == (0,)

    @pytest.mark.parametrize(
        ("lists", "error", "message"),
        [
            (([torch.zeros(2)], [torch.zeros(3)]), ValueError, r"\[0\] must be float32 \(2,\) on cpu"),
            (([torch.zeros(2)], [torch.zeros(2).double()]), ValueError, r"got float64 \(2,\)"),
            (([torch.zeros(2)], []), ValueError, "must hold 1 tensors"),
            ((torch.zeros(2), [torch.zeros(2)]), TypeError, "must be a list of tensors"),
            (([torch.zeros(2, dtype=torch.int64)], [torch.zeros(2)]), TypeError, "must be float32, float64"),
        ],
    )
    def test_wrong_lists(self, lists, error, message):
        function = type(self).function
        with pytest.raises(error, match=f"{function.__name__}: .*{message}"):
            function(*lists, self.factor)

    @pytest.mark.parametrize(
        ("target", "source", "error", "message"),
        [
            (torch.ones(2), torch.ones(3), ValueError, r"\[1\] must be float32 \(2,\) on cpu"),
            (torch.ones(2), torch.ones(2).half(), ValueError, r"\[1\] must be float32 \(2,\) on cpu"),
            (torch.ones(2), torch.ones(2, device="meta"), ValueError, r"\[1\] must be float32 \(2,\) on cpu"),
            (*[torch.ones(2, dtype=torch.int64)] * 2, TypeError, r"params\[1\] must be float32, float64"),
            (torch.ones(2), 1.0, TypeError, r"\[1\] must be a tensor, got float"),
        ],
    )
    def test_a_wrong_pair_is_seen_before_anything_is_written(self, target, source, error, message):
        first, function = torch.ones(2), type(self).function
        with pytest.raises(error, match=f"^{function.__name__}: .*{message}"):
            function([first, target], [torch.zeros(2), source], self.factor)
        assert first.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("lists", [([torch.ones(2)], [torch.ones(1)]), ([], [torch.ones(1)])])
    def test_fakes_refuse_what_kernels_refuse(self, lists):
        with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(ValueError, match=type(self).function.__name__):
            type(self).function(*lists, self.factor)

    def test_opcheck(self):
        torch.library.opcheck(type(self).operator, (*make([(5, 3), (7,)]), self.factor))

    def test_compiles(self):
        function = type(self).function
        compiled = torch.compile(lambda t, s: function(t, s, self.factor), fullgraph=True, backend="aot_eager")
        targets, sources = make([(5, 3), (7,)])
        expected = [t.clone() for t in targets]
        function(expected, sources, self.factor)
        compiled(targets, sources)
        assert all(torch.equal(t, e) for t, e in zip(targets, expected, strict=True))

    def test_a_wrong_factor_turns_the_comparison_red(self):
        with pytest.raises(AssertionError, match="targets in"):
            self.check(lambda t, s, factor: type(self).function(t, s, factor + 0.01), *make(), self.factor)
