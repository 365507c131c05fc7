"""The check of the reference model before the first step of a training that compares the policy with one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srlm.errors import TrainingError
from srlm.training.method import Context


def check_trainer(trainer: Any, context: Context[Any], columns: Sequence[str]) -> dict[str, float]:
    """Return how policy and reference differ before the first step; raise as `check_reference`.

    Parameters
    ----------
    columns : sequence of str
        The batch's columns with the reference's log-probabilities, in the order of the rows of `input_ids`.
    """
    difference = reference_difference(trainer, columns)
    same_model = context.reference == context.start
    options = context.options
    check_reference(difference, same_model, options.reference_check_tolerance, options.reference.name, context.group)
    return {"reference_check_difference": difference}


def check_reference(difference: float, same_model: bool, tolerance: float, reference: str, group: str = "dpo") -> None:
    """Check that policy and reference agree before the first step if, and only if, they are the same model.

    Parameters
    ----------
    difference : float
        Largest absolute difference of a sequence's log-probability, in nats per token.
    same_model : bool
        Whether the reference is the model that training starts from.
    tolerance : float
        The group's reference_check_tolerance, nats per token.
    reference : str
        The value of the group's option reference.
    group : str
        The option group, for the error.

    Raises
    ------
    TrainingError
        If training would pull towards the wrong reference model.
    """
    if same_model and not difference <= tolerance:
        raise TrainingError(
            f"Before the first step policy and reference ({reference}) differ by {difference:.4f} nats per token, more "
            f"than {group}.reference_check_tolerance={tolerance}: the reference is not the model that training starts "
            "from. Was model/ of the previous iteration changed? (In low precision the difference can be rounding: "
            "then raise the tolerance.)"
        )
    if not same_model and not difference > 0:
        raise TrainingError(
            f"{group}.reference={reference} is another model than the one training starts from, but both give the same "
            "log-probabilities: the policy itself was taken as reference."
        )


def reference_difference(trainer: Any, columns: Sequence[str]) -> float:
    """Return the largest difference between policy and reference over the first batch, in nats per token."""
    import torch

    from srlm.training.masking import IGNORED

    count = min(trainer.args.per_device_train_batch_size, len(trainer.train_dataset))
    rows = [trainer.train_dataset[i] for i in range(count)]
    batch = {name: value.to(trainer.model.device) for name, value in trainer.data_collator(rows).items()}
    mask = batch["completion_mask"]
    was_training = trainer.model.training
    trainer.model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        output = trainer.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["input_ids"].masked_fill(mask == 0, IGNORED),
            use_cache=False,
            fused_lm_head=True,
        )
    trainer.model.train(was_training)
    policy = output.log_probs.sum(dim=1).float().cpu()
    reference = torch.cat([batch[name] for name in columns]).float().cpu()
    return float(((policy - reference).abs() / mask.sum(dim=1).cpu()).max())
