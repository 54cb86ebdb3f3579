"""torch_compile: compiled fusions compute the same, and what cannot be compiled runs as it is."""

import pytest
import torch

from recbole_prism.errors import PRISMError
from recbole_prism.training.compiling import compile_fusion
from tests.test_fusion import histories, make

QUIET = {"lambda_unique": 0, "lambda_synergy": 0, "lambda_redundancy": 0}  # their noise would differ from run to run


@pytest.fixture(autouse=True)
def fresh_dynamo():
    yield
    torch._dynamo.reset()
    torch._dynamo.config.suppress_errors = False


def outcome(fusion, n):
    pooled, ids = histories(n)
    pooled.requires_grad_()
    fused = fusion(pooled, ids)
    fused.vector.square().sum().backward()
    return [fused.vector, fused.weights, pooled.grad, *(p.grad for p in fusion.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("fusion", "backend"), [("prism", "aot_eager"), ("gate", True)])  # C++ takes its time
def test_compiled_is_the_same_for_any_number_of_histories(fusion, backend):
    plain, compiled = make(fusion=fusion, **QUIET).train(), make(fusion=fusion, **QUIET).train()
    compile_fusion(compiled, backend)
    for n in (6, 9):
        torch.testing.assert_close(outcome(compiled, n), outcome(plain, n))
        plain.zero_grad()
        compiled.zero_grad()
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_expert_losses_are_compiled_too():
    fusion = make().train()
    compile_fusion(fusion, "eager")
    fused = fusion(*histories())
    sum(fused.losses.values()).backward()
    assert len(fused.losses) == 4
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in fusion.experts.parameters())


def test_what_cannot_be_compiled_runs_as_it_is():
    def fails(graph, example_inputs):
        raise RuntimeError("no compiler")

    torch._dynamo.register_backend(fails, "fails")
    plain, compiled = make(**QUIET), make(**QUIET)
    compile_fusion(compiled, "fails")
    torch.testing.assert_close(outcome(compiled, 6), outcome(plain, 6))


def test_an_unknown_backend_is_named():
    with pytest.raises(PRISMError, match="torch_compile: no backend 'inducter'.*did you mean 'inductor'"):
        compile_fusion(make(), "inducter")


def test_a_model_reads_the_key(build):
    _, model, _ = build("PRISM_SASRec", torch_compile="aot_eager")
    assert model.fusion._compiled_call_impl is not None
    _, model, _ = build("PRISM_SASRec")
    assert model.fusion._compiled_call_impl is None
