"""What makes training fast must leave what it computes as it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.testing import CompileCounter

from lic.data.cache import PackedImages
from lic.data.crops import RandomCrops
from lic.losses.criterion import Criterion
from lic.models.acceleration import CaptureError, free_latents_and_entropy_models, matrix_units
from lic.models.build import LatentTap, build
from lic.recipe import ON_GPU, Acceleration, Optimizer, Precision, TrainingConfig
from lic.training import trainer as training
from lic.training.optimizers import Adam
from lic.training.trainer import Trainer

CONFIG = TrainingConfig(
    lmbda=0.0067, alpha=1e-7, strategy="y+z", batch=2, patch=64, epochs=2, steps_per_epoch=4
)


def trainer(leaves: PackedImages, speed: Acceleration) -> Trainer:
    crops = RandomCrops(leaves, CONFIG.patch, CONFIG.batch, CONFIG.seed, resident=speed.resident_images)
    return Trainer(build("hyperprior", 8), CONFIG, crops, speed=speed)


def final_state(run: Trainer) -> dict[str, torch.Tensor]:
    for _ in range(CONFIG.epochs):
        run.run_epoch()
    return run.model.state_dict()


@pytest.mark.parametrize("name", ["hyperprior", "cheng", "bmshj2018-factorized"])
@pytest.mark.parametrize("trains", [True, False])
def test_a_freed_model_computes_the_same(name: str, trains: bool) -> None:
    images, outputs = torch.rand(2, 3, 64, 64), []
    for freed in (False, True):
        model = build(name, 8).train(trains)
        if freed:
            free_latents_and_entropy_models(model)
        torch.manual_seed(0)
        outputs.append(model(images))
    plain, free = outputs
    assert torch.equal(plain["x_hat"], free["x_hat"])
    for latent, likelihoods in plain["likelihoods"].items():
        assert torch.equal(likelihoods, free["likelihoods"][latent]), latent


@pytest.mark.parametrize("name", ["hyperprior", "cheng"])
def test_autocast_ends_at_the_latents(name: str) -> None:
    model = build(name, 8)
    free_latents_and_entropy_models(model)
    with LatentTap(model) as tap, torch.autocast("cpu", torch.bfloat16):
        output = model(torch.rand(2, 3, 64, 64))
        latents = tap.take()
    assert output["x_hat"].dtype == torch.bfloat16  # so the transforms were in it
    assert latents.z is not None
    tensors = [latents.y, latents.z, *output["likelihoods"].values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


@pytest.mark.parametrize("name", ["hyperprior", "cheng"])
def test_one_compilation_serves_all_rates_weights_and_models_of_a_shape(name: str) -> None:
    """The whole step is one graph, and nothing of a trial but its shapes is in it."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(training._losses, backend=counter, dynamic=False)
    images = torch.rand(2, 3, 64, 64)
    for number in range(3):
        model = build(name, 8, seed=number)
        free_latents_and_entropy_models(model)
        lmbda, alpha = torch.tensor([0.01 * (number + 1), 1e-7 * number]).unbind()
        for _epoch in range(2):
            with LatentTap(model) as tap:
                torch.manual_seed(0)
                terms = compiled(model, tap, Criterion(lmbda, alpha, "y+z"), images, "fp32")
                torch.manual_seed(0)
                plain = training._losses(model, tap, Criterion(lmbda, alpha, "y+z"), images, "fp32")
            torch.testing.assert_close(terms["loss"], plain["loss"])
    assert counter.frame_count == 1
    torch._dynamo.reset()


class Failing(torch.autograd.Function):
    """Fails in the backward pass, as compiled code does where a layout is not the one that it expects."""

    @staticmethod
    def forward(_ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(_ctx: Any, _gradient: torch.Tensor) -> torch.Tensor:
        raise AssertionError("no compiler here\nmore")


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_what_cannot_be_compiled_runs_as_it_is(
    leaves: PackedImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails_in: str
) -> None:
    def broken(*arguments: object) -> dict[str, torch.Tensor]:
        if fails_in == "forward":
            raise TorchDynamoException("no compiler here\nmore")
        terms = training._losses(*arguments)  # type: ignore[arg-type]
        return {**terms, "loss": Failing.apply(terms["loss"])}

    expected = final_state(trainer(leaves, Acceleration()))
    monkeypatch.setattr(training, "_compiled", lambda: broken)
    found = final_state(trainer(leaves, Acceleration(compile=True)))
    assert caplog.messages == ["torch.compile failed; training continues uncompiled (no compiler here)"]
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    "speed", [Acceleration(fused_adam=False), Acceleration(resident_images=True), Acceleration("tf32")]
)
def test_switches_that_change_rounding_at_most(leaves: PackedImages, speed: Acceleration) -> None:
    expected, found = final_state(trainer(leaves, Acceleration())), final_state(trainer(leaves, speed))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_a_masked_convolution_masks_its_weights_where_they_lie() -> None:
    """Compiled code is made for the layout that they had."""
    model = build("cheng", 8).to(memory_format=torch.channels_last)
    free_latents_and_entropy_models(model)
    context: Any = model.context_prediction
    weight = context.weight
    place, strides = weight.data_ptr(), weight.stride()
    model(torch.rand(1, 3, 64, 64))
    assert (weight.data_ptr(), weight.stride()) == (place, strides)
    assert not weight[context.mask == 0].any()


class Replayed:
    """In place of StepGraph where there is no GPU: every step runs as it is."""

    def __call__(self, work: Callable[..., Any], *inputs: torch.Tensor) -> Any:
        return work(*inputs)


def test_what_cannot_be_captured_is_started_as_ever(
    leaves: PackedImages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(Replayed):
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, work: Callable[..., Any], *inputs: torch.Tensor) -> Any:
            self.calls += 1
            if self.calls == 3:
                raise CaptureError("operation not permitted when stream is capturing\nmore")
            return super().__call__(work, *inputs)

    expected = final_state(trainer(leaves, Acceleration()))
    monkeypatch.setattr(training, "StepGraph", Refusing)
    found = final_state(trainer(leaves, Acceleration(graph=True)))
    assert caplog.messages == [
        "CUDA graph capture failed; training continues without graphs (operation not permitted when "
        "stream is capturing)"
    ]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_is_the_same_with_a_graph_and_without(
    leaves: PackedImages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a graph asks of the optimisers, a learning rate on the device among it, stays out of the file."""
    monkeypatch.setattr(training, "StepGraph", Replayed)
    expected, saved = final_state(trainer(leaves, Acceleration())), tmp_path / "checkpoint.pt"
    for first, second in ((True, False), (False, True)):
        run, resumed = trainer(leaves, Acceleration(graph=first)), trainer(leaves, Acceleration(graph=second))
        run.run_epoch()
        run.save(saved)
        resumed.load(saved)
        assert isinstance(resumed.optimiser, Adam)
        assert torch.is_tensor(resumed.optimiser._inner.param_groups[0]["lr"]) == second
        resumed.run_epoch()
        for key, value in expected.items():
            torch.testing.assert_close(resumed.model.state_dict()[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(
    ("optimizer", "parts"), [("adam", 1), ("adam", 2), ("soap", 1), ("muon", 1), ("muon", 2)]
)
def test_a_graph_computes_the_same_steps(leaves: PackedImages, optimizer: Optimizer, parts: int) -> None:
    def trained(speed: Acceleration) -> dict[str, float]:
        config = dataclasses.replace(CONFIG, epochs=3, optimizer=optimizer, batch=4, accumulate=parts)
        crops = RandomCrops(leaves, CONFIG.patch, config.batch, CONFIG.seed, "cuda", True)
        run = Trainer(build("cheng", 8), config, crops, "cuda", speed)
        readings = [run.run_epoch() for _ in range(3)]
        return {k: v for k, v in readings[-1].items() if k != "train_seconds"}

    plain, graphed = (trained(dataclasses.replace(ON_GPU, graph=on)) for on in (False, True))
    assert graphed == pytest.approx(plain, rel=0.02)


def test_bf16_trains_as_fp32_does(leaves: PackedImages) -> None:
    plain, fast = (trainer(leaves, Acceleration(precision)).run_epoch() for precision in ("fp32", "bf16"))
    assert fast["loss"] != plain["loss"]
    assert fast["loss"] == pytest.approx(plain["loss"], rel=0.01)
    assert fast["decorrelation"] == pytest.approx(plain["decorrelation"], rel=0.05)


@pytest.mark.parametrize(("fails_in", "skipped"), [(("bf16",), 0), (("bf16", "fp32"), 1)])
def test_a_batch_that_fails_in_bf16_is_done_again_in_fp32(
    leaves: PackedImages, monkeypatch: pytest.MonkeyPatch, fails_in: tuple[str, ...], skipped: int
) -> None:
    run, done = trainer(leaves, Acceleration("bf16")), []
    step, losses = run._train_step, training._losses

    def watched(tap: LatentTap, number: int, precision: Precision) -> torch.Tensor:
        done.append((number, precision))
        return step(tap, number, precision)

    def failing(*arguments: object) -> dict[str, torch.Tensor]:
        terms = losses(*arguments)  # type: ignore[arg-type]
        number, precision = done[-1]
        return {k: v * math.nan for k, v in terms.items()} if number == 1 and precision in fails_in else terms

    monkeypatch.setattr(run, "_train_step", watched)
    monkeypatch.setattr(training, "_losses", failing)
    readings = run.run_epoch()
    assert done == [(0, "bf16"), (1, "bf16"), (2, "bf16"), (3, "bf16"), (1, "fp32")]
    assert readings["skipped_steps"] == skipped
    assert all(math.isfinite(value) for value in readings.values())
    assert all(value.isfinite().all() for value in run.model.state_dict().values())


def test_matrix_units_are_as_they_were() -> None:
    def now() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = now()
    with pytest.raises(KeyError), matrix_units(tf32=True):
        assert now() == (True, True)
        with matrix_units(tf32=False):
            assert now() == (False, False)
        raise KeyError
    assert now() == before
