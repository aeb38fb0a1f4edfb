"""The same sparse training in the loops of others, on real tiny runs."""

import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from netwright.errors import MissingExtraError, UsageError
from netwright.pruning import MaskState, Sparsity
from netwright.pruning.integrations import lightning_callback, trainer_callback
from netwright.pruning.schedules.schedule import granet

STEPS, BATCH = 12, 8


def sparsity() -> Sparsity:
    return Sparsity(0.25, schedule=granet(every=2), seed=1)


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def examples() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS * BATCH, 6, generator=generator)
    return TensorDataset(x, (x[:, :3]).argmax(1))


def by_hand(model: nn.Module) -> tuple[nn.Module, Sparsity]:
    """The reference: a loop of one's own over the data in order."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    callback = sparsity().attach(model, optimizer, STEPS)
    for x, y in DataLoader(examples(), BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        callback.step()
    return model, callback


def assert_same(model: nn.Module, callback: Sparsity) -> None:
    want, reference = by_hand(make())
    assert callback.changes == reference.changes and len(callback.changes) > 4
    state = MaskState.of(model)
    assert state is not None and state.density == pytest.approx(0.25, abs=0.01)
    found = model.state_dict()
    assert all(torch.equal(t, found[n]) for n, t in want.state_dict().items())


class TestLightning:
    @pytest.fixture
    def lightning(self):
        return pytest.importorskip("lightning.pytorch")

    def module(self, lightning, dies: tuple[int, int] | None = None):
        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = make()

            def training_step(self, batch: list[Tensor], index: int) -> Tensor:
                if (self.current_epoch, index) == dies:
                    raise RuntimeError("killed")
                return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.Adam(self.parameters(), lr=0.01)

        return Module()

    def trainer(self, lightning, folder, callbacks, **settings):
        return lightning.Trainer(
            **{"max_epochs": 1, "enable_checkpointing": False, **settings},
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=callbacks,
        )

    def test_it_trains_as_a_loop_of_ones_own(self, lightning, tmp_path):
        callback, module = sparsity(), self.module(lightning)
        trainer = self.trainer(lightning, tmp_path, [lightning_callback(callback, part="model")])
        trainer.fit(module, DataLoader(examples(), BATCH))
        assert_same(module.model, callback)

    def test_the_whole_module_is_the_network_by_itself(self, lightning, tmp_path):
        callback, module = sparsity(), self.module(lightning)
        trainer = self.trainer(
            lightning, tmp_path, [lightning_callback(callback)], accumulate_grad_batches=2, max_epochs=2
        )
        trainer.fit(module, DataLoader(examples(), BATCH))
        state = MaskState.of(module)
        assert set(state.masks) == {"model.0.weight", "model.2.weight"}
        assert state.density == pytest.approx(0.25, abs=0.01)
        assert max(c.step for c in callback.changes) <= STEPS  # two batches a step, two epochs
        assert not any(state.parameter(n)[~m].any() for n, m in state.masks.items())

    def test_a_checkpoint_is_gone_on_from(self, lightning, tmp_path):
        def made(callback, **settings):
            return self.trainer(
                lightning,
                tmp_path,
                [lightning_callback(callback, part="model"), *settings.pop("more", [])],
                max_epochs=3,
                **settings,
            )

        # Lightning begins an epoch anew where it was left in the middle, so it is left at an end.
        data = DataLoader(torch.utils.data.Subset(examples(), range(4 * BATCH)), BATCH)
        want, reference = self.module(lightning), sparsity()
        made(reference).fit(want, data)
        keep = lightning.callbacks.ModelCheckpoint(tmp_path, save_last=True, every_n_epochs=1)
        module = self.module(lightning, dies=(1, 2))
        with pytest.raises(RuntimeError, match="killed"):
            made(sparsity(), more=[keep], enable_checkpointing=True).fit(module, data)
        again, callback = self.module(lightning), sparsity()
        made(callback).fit(again, data, ckpt_path=str(tmp_path / "last.ckpt"))
        assert callback.changes == reference.changes and len(callback.changes) > 4
        found = again.model.state_dict()
        assert all(torch.equal(t, found[n]) for n, t in want.model.state_dict().items())


class Items(Dataset):
    """What Hugging Face's trainer reads: dicts."""

    def __init__(self) -> None:
        self.data = examples()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = self.data[index]
        return {"x": x, "labels": y}


class Answers(nn.Module):
    """A network that gives its loss, as Hugging Face's trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        answer = self.model(x)
        return {"loss": nn.functional.cross_entropy(answer, labels), "logits": answer}


class TestTransformers:
    @pytest.fixture
    def transformers(self):
        pytest.importorskip("accelerate")
        return pytest.importorskip("transformers")

    def trainer(self, transformers, folder, callbacks, model=None, items=None, **settings):
        class InOrder(transformers.Trainer):
            def _get_train_sampler(self, *args):
                return torch.utils.data.SequentialSampler(self.train_dataset)

        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=0.01,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            max_grad_norm=0.0,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
            **{"save_strategy": "no", **settings},
        )
        return InOrder(model or Answers(), arguments, train_dataset=items or Items(), callbacks=callbacks)

    def test_it_trains_as_a_loop_of_ones_own(self, transformers, tmp_path):
        callback, model = sparsity(), Answers()
        self.trainer(transformers, tmp_path, [trainer_callback(callback)], model).train()
        want = Answers()
        optimizer = torch.optim.AdamW(want.parameters(), lr=0.01, weight_decay=0.0)
        reference = sparsity().attach(want, optimizer, STEPS)
        for x, y in DataLoader(examples(), BATCH):
            optimizer.zero_grad()
            want(x, y)["loss"].backward()
            optimizer.step()
            reference.step()
        assert callback.changes == reference.changes and len(callback.changes) > 4
        found = model.state_dict()
        assert all(torch.equal(t, found[n]) for n, t in want.state_dict().items())
        assert MaskState.of(model).density == pytest.approx(0.25, abs=0.01)

    def test_a_checkpoint_is_gone_on_from(self, transformers, tmp_path):
        whole, callback = Answers(), sparsity()
        settings = {"save_strategy": "steps", "save_steps": 5, "save_total_limit": 3}
        trainer = self.trainer(transformers, tmp_path, [trainer_callback(callback)], whole, **settings)
        trainer.train()
        assert (tmp_path / "checkpoint-5" / "netwright_sparsity.pt").is_file()
        again, other = Answers(), sparsity()
        rest = self.trainer(transformers, tmp_path, [trainer_callback(other)], again, **settings)
        rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
        assert other.changes == callback.changes
        found = again.state_dict()
        assert all(torch.equal(t, found[n]) for n, t in whole.state_dict().items())

    def test_a_pretrained_model_is_trained_saved_and_gone_on_with(self, transformers, tmp_path):
        def bert():
            torch.manual_seed(0)
            config = transformers.BertConfig(
                vocab_size=40,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
            return transformers.BertForMaskedLM(config)  # its head shares the embedding

        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(40, (STEPS * BATCH, 6), generator=generator)
        items = [{"input_ids": t, "labels": t} for t in tokens]
        settings = {"save_strategy": "steps", "save_steps": 4}
        whole, callback = bert(), sparsity()
        trainer = self.trainer(transformers, tmp_path, [trainer_callback(callback)], whole, items, **settings)
        trainer.train()
        state = MaskState.of(whole)
        assert state.density == pytest.approx(0.25, abs=0.01) and len(callback.changes) > 4
        assert not any(state.parameter(n)[~m].any() for n, m in state.masks.items())
        again, other = bert(), sparsity()
        rest = self.trainer(transformers, tmp_path, [trainer_callback(other)], again, items, **settings)
        rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
        assert other.changes == callback.changes
        found = again.state_dict()
        assert all(torch.equal(t, found[n]) for n, t in whole.state_dict().items())

    def test_a_callback_that_comes_late_is_refused(self, transformers, tmp_path):
        trainer = self.trainer(transformers, tmp_path, [])
        trainer.add_callback(trainer_callback(sparsity()))
        with pytest.raises(UsageError, match="after the trainer was made"):
            trainer.train()


class TestAccelerate:
    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_the_recipe_of_the_documentation(self, accumulate):
        accelerate = pytest.importorskip("accelerate")
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        plain = make()
        model, optimizer, loader = accelerator.prepare(
            plain, torch.optim.Adam(plain.parameters(), lr=0.01), DataLoader(examples(), BATCH)
        )
        callback = sparsity().attach(model, optimizer, STEPS // accumulate)
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.cross_entropy(model(x), y))
                optimizer.step()
                if accelerator.sync_gradients:
                    callback.step()
                optimizer.zero_grad()
        network = accelerator.unwrap_model(model)
        if accumulate == 1:
            assert_same(network, callback)
        state = MaskState.of(network)
        assert state.density == pytest.approx(0.25, abs=0.01)
        for name, mask in state.masks.items():
            weight = state.parameter(name)
            assert not weight[~mask].any() and not optimizer.state[weight]["exp_avg"][~mask].any()
        assert max(c.step for c in callback.changes) <= STEPS // accumulate


@pytest.mark.parametrize(
    ("make_callback", "module"),
    [(lightning_callback, "lightning.pytorch"), (trainer_callback, "transformers")],
)
def test_what_is_missing_names_the_extra(make_callback, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"netwright\[integrations\]"):
        make_callback(sparsity())
