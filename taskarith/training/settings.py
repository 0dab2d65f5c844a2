"""Settings of a fine-tuning, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from taskarith.calls import listed
from taskarith.checkpoints.dtypes import MODEL_DTYPES, dtype_name
from taskarith.data.documents import RowForm
from taskarith.errors import UsageError
from taskarith.training.objective_table import LEARN, Objective, check_options, find_objective
from taskarith.training.ranges import check_ranges

__all__ = [
    "EPOCHS",
    "LORA_RANK",
    "MAX_EPOCHS",
    "RMU_STEERING",
    "SCHEDULERS",
    "SETTINGS",
    "TrainingKeywords",
    "TrainingSettings",
]

SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""transformers' schedules without further arguments."""


LORA_RANK = 16
"""The default rank."""

EPOCHS = 3.0
"""The default number of passes over the data."""

MAX_EPOCHS = 30.0
"""The default limit of epochs with ``until_loss``."""

RMU_STEERING = 6.5
"""The default length of RMU's control vector."""

_OF_VALIDATION = ("validation_share", "validation_steps", "patience")
_FULL_LEARNING_RATE = 5e-5  # transformers' default
_LORA_LEARNING_RATE = 5e-4  # adapters start at zero and need about ten times as much


@dataclass(frozen=True)
class TrainingSettings:
    """Settings that determine the trained weights, and settings of the run, named as in transformers and PEFT.

    :param block_size: Tokens per block of plain text, and the maximum of a row.
    :param stride: Tokens from the start of one block of plain text to that of the next; None for blocks that do not
        overlap. What a block shares with the one before is its context: every token is learned once an epoch.
    :param packing: Lay rows of a batch end to end instead of padding each: they keep their positions and do not attend
        to each other, and a step has the same rows and the same loss.
    :param group_by_length: Put rows of similar lengths into a batch, which then has little padding.
    :param learning_rate: Peak learning rate; None for 5e-5, or 5e-4 with LoRA: see ``rate``.
    :param num_train_epochs: Passes over the data; None for 3, or 30 with ``until_loss``: see ``epochs``.
    :param max_steps: Optimizer steps; overrides ``num_train_epochs``.
    :param until_loss: Stop after the first epoch whose mean training loss of the data, in nats per token, is at most
        this. ``num_train_epochs`` or ``max_steps`` is the limit, and a note says if it was hit first.
    :param per_device_train_batch_size: Batch size per device.
    :param gradient_accumulation_steps: Batches per optimizer step.
    :param gradient_checkpointing: Recompute activations instead of storing them.
    :param lr_scheduler_type: One of ``SCHEDULERS``.
    :param warmup_steps: Warmup steps; below 1, a share of all steps.
    :param weight_decay: AdamW's weight decay, not applied to biases and norms.
    :param max_grad_norm: Gradients are clipped to this norm; 0 disables clipping.
    :param bf16: Compute in bfloat16 under autocast; None to do so where the device is fast at it.
    :param dtype: Dtype of the weights on disk: float32, bfloat16 or float16. Most updates of a fine-tuning are smaller
        than half a unit in the last place of bfloat16 and would be rounded away.
    :param lora: Train an adapter instead of all weights.
    :param lora_rank: Rank r of the adapter.
    :param lora_alpha: The adapter is scaled by alpha / r; None for 2 r: see ``alpha``.
    :param lora_target: Names (last components) of linear layers to adapt; empty for all except the output layer.
    :param load_in_4bit: Quantise the frozen base in memory to 4 bits under the adapter (QLoRA).
    :param load_in_8bit: To 8 bits, likewise (LLM.int8).
    :param retain_weight: Weight w of a retain token in loss = (1/N) sum over all N tokens of w * token loss; tokens of
        ``data`` have weight 1. Weight of the retain term with an objective of forgetting.
    :param objective: ``learn`` the data, or forget them by ``ascent``, ``graddiff``, ``kl``, ``npo``, ``simnpo`` or
        ``rmu``, see ``objectives``: a batch has a retain row beside each row of the data, drawn anew in each epoch,
        and the loss is forget term + ``retain_weight`` * retain term.
    :param beta: Inverse temperature of ``npo`` and ``simnpo``; None is 0.1 and 4.5.
    :param rmu_layer: Decoder layer, counted from 0, after which ``rmu`` steers hidden states; its weights and those of
        the two layers before it are trained. None is 7 of 32 in proportion.
    :param rmu_steering: Length of the random vector to which ``rmu`` steers; None is 6.5.
    :param validation_share: Share of the rows and blocks of the data that is held out to validate on, drawn by the
        seed.
    :param validation_steps: Validate every this many steps; None for at the end of each epoch.
    :param patience: Stop after this many evaluations in a row without a lower validation loss.
    :param seed: Seed of data order, initial adapters, dropout, drawn retain rows and RMU's vector.
    :param device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    :param save_steps: Save a checkpoint every this many steps, to resume a killed run.
    :param resume: Continue an interrupted run with the same arguments from its last checkpoint.
    :param report_to: Trackers of transformers, such as ``tensorboard`` or ``wandb``.
    :param trust_remote_code: Run Python code that comes with the model.
    :param apply_chat_template: Format questions and answers as chats instead of as TOFU does for Phi.
    :param system_prompt: System message of every chat; empty for none.
    :raises UsageError: A value is out of range or unknown, or two contradict each other.
    """

    block_size: int = 256
    stride: int | None = None
    packing: bool = False
    group_by_length: bool = False
    learning_rate: float | None = None
    num_train_epochs: float | None = None
    max_steps: int | None = None
    until_loss: float | None = None
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    bf16: bool | None = None
    dtype: str = "float32"
    lora: bool = False
    lora_rank: int = LORA_RANK
    lora_alpha: float | None = None
    lora_target: Sequence[str] = ()
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    retain_weight: float = 1.0
    objective: str = LEARN
    beta: float | None = None
    rmu_layer: int | None = None
    rmu_steering: float | None = None
    validation_share: float | None = None
    validation_steps: int | None = None
    patience: int | None = None
    seed: int = 42
    device: str = "auto"
    save_steps: int | None = None
    resume: bool = False
    report_to: Sequence[str] = ()
    trust_remote_code: bool = False
    apply_chat_template: bool = False
    system_prompt: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lora_target", tuple(listed(self.lora_target)))
        object.__setattr__(self, "report_to", tuple(name for name in listed(self.report_to) if name != "none"))
        object.__setattr__(self, "dtype", dtype_name(self.dtype, MODEL_DTYPES))
        check_ranges(vars(self))
        if self.lr_scheduler_type not in SCHEDULERS:
            raise UsageError(
                f"unknown --lr-scheduler-type '{self.lr_scheduler_type}'", f"Choose one of {', '.join(SCHEDULERS)}."
            )
        if not self.lora and (self.lora_target or self.lora_alpha is not None or self.lora_rank != LORA_RANK):
            raise UsageError("a LoRA option is given without --lora", "Add --lora, or leave out the option.")
        if self.quantised and not self.lora:
            raise UsageError(
                f"--load-in-{self.quantised} is given without --lora", "Quantised weights are not trained."
            )
        if self.load_in_4bit and self.load_in_8bit:
            raise UsageError("--load-in-4bit and --load-in-8bit are both given", "Choose one of them.")
        given = {"beta", "rmu_layer", "rmu_steering", "until_loss", "packing", "group_by_length"}
        check_options(self.objective, [name for name in given if getattr(self, name) not in {None, False}])

    @property
    def needs(self) -> Objective:
        """What the objective needs."""
        return find_objective(self.objective)

    @property
    def learns(self) -> bool:
        """Whether the data are to be learned; otherwise they are to be forgotten."""
        return self.objective == LEARN

    @property
    def temperature(self) -> float | None:
        """The objective's beta: as given, else its default; None where it does not have one."""
        return self.needs.beta if self.beta is None else self.beta

    @property
    def steering(self) -> float:
        """The length of RMU's control vector: as given, else RMU_STEERING."""
        return RMU_STEERING if self.rmu_steering is None else self.rmu_steering

    @property
    def kind(self) -> str:
        """``full`` or ``lora``."""
        return "lora" if self.lora else "full"

    @property
    def quantised(self) -> str:
        """How the base is quantised in memory: ``4bit``, ``8bit`` or not at all."""
        return "4bit" if self.load_in_4bit else "8bit" if self.load_in_8bit else ""

    @property
    def form(self) -> RowForm:
        """How questions and chats are formatted."""
        return RowForm(self.apply_chat_template, self.system_prompt, learns_tag=True)

    @property
    def rate(self) -> float:
        """The peak learning rate: as given, else 5e-5, or 5e-4 with LoRA."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _LORA_LEARNING_RATE if self.lora else _FULL_LEARNING_RATE

    @property
    def epochs(self) -> float:
        """Passes over the data: as given, else 3, or at most 30 with ``until_loss``."""
        if self.num_train_epochs is not None:
            return self.num_train_epochs
        return EPOCHS if self.until_loss is None else MAX_EPOCHS

    @property
    def alpha(self) -> float:
        """LoRA's alpha: as given, else twice the rank, a scale of 2."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    def record(self) -> dict[str, object]:
        """Return the settings that determine the trained weights, with all defaults filled in."""
        about_run = {"device", "save_steps", "resume", "report_to", "trust_remote_code"}
        about_run |= {"apply_chat_template", "system_prompt"}  # in the record of the data
        about_run |= {name for name in ("stride", "packing", "group_by_length") if not getattr(self, name)}
        about_lora = set() if self.lora else {"lora_rank", "lora_alpha", "lora_target"}
        about_lora |= set() if self.quantised else {"load_in_4bit", "load_in_8bit"}  # older records lack them
        about_objective = {"objective", "beta", "rmu_layer", "rmu_steering"}  # a record without them is of learning
        elsewhere = about_run | about_lora | about_objective
        elsewhere |= {name for name in _OF_VALIDATION if getattr(self, name) is None}  # as before there was any
        record = {name: value for name, value in vars(self).items() if name not in elsewhere}
        record |= {"learning_rate": self.rate, "num_train_epochs": self.epochs}
        if not self.learns:
            record["objective"] = self.objective
        if self.temperature is not None:
            record["beta"] = self.temperature
        if self.objective == "rmu":
            record |= {"rmu_layer": self.rmu_layer, "rmu_steering": self.steering}
        if self.lora:
            record |= {"lora_alpha": self.alpha, "lora_target": list(self.lora_target) or "all-linear"}
        return record


class TrainingKeywords(TypedDict, total=False):
    """The fields of ``TrainingSettings`` as keywords of ``finetune``."""

    block_size: int
    stride: int | None
    packing: bool
    group_by_length: bool
    learning_rate: float | None
    num_train_epochs: float | None
    max_steps: int | None
    until_loss: float | None
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    gradient_checkpointing: bool
    lr_scheduler_type: str
    warmup_steps: float
    weight_decay: float
    max_grad_norm: float
    bf16: bool | None
    dtype: str
    lora: bool
    lora_rank: int
    lora_alpha: float | None
    lora_target: Sequence[str]
    load_in_4bit: bool
    load_in_8bit: bool
    retain_weight: float
    objective: str
    beta: float | None
    rmu_layer: int | None
    rmu_steering: float | None
    validation_share: float | None
    validation_steps: int | None
    patience: int | None
    seed: int
    device: str
    save_steps: int | None
    resume: bool
    report_to: Sequence[str]
    trust_remote_code: bool
    apply_chat_template: bool
    system_prompt: str


SETTINGS = TrainingSettings()
