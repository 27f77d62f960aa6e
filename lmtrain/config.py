"""The configuration of every verb: typed schema, composition, reading and writing, checks.

Dataclasses are the schema and the defaults, YAML chooses and overrides, Hydra composes. Importing
this module registers the schema with Hydra and imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmtrain.bench.config import BenchConfig
from lmtrain.data.config import DataConfig, check_tokens_per_step
from lmtrain.data.curriculum_config import CurriculumConfig
from lmtrain.data.prepare_config import PrepareConfig
from lmtrain.models.config import ModelConfig
from lmtrain.ops.config import OpsConfig, resolve
from lmtrain.parallel.config import ParallelConfig

Root = TypeVar("Root")


class Schedule(StrEnum):
    """How the learning rate moves after the warm-up."""

    cosine = "cosine"
    wsd = "wsd"
    constant = "constant"


class EngineKind(StrEnum):
    """Who holds parameters, gradients and optimizer state when there are several processes."""

    fsdp = "fsdp"


class Precision(StrEnum):
    """Dtype of the activations; parameters and optimizer state are always fp32."""

    fp32 = "fp32"
    bf16 = "bf16"


class Remat(StrEnum):
    """What is computed again in the backward pass instead of being kept."""

    none = "none"
    block = "block"


class Device(StrEnum):
    """Where to compute; auto takes CUDA when there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class WandbMode(StrEnum):
    """Whether wandb sends its log now or keeps it for ``wandb sync``."""

    online = "online"
    offline = "offline"


@dataclass(kw_only=True)
class RunSection:
    """The run itself."""

    dir: str = "runs/default"
    """Run folder; a run continues when it holds a checkpoint."""
    seed: int = 0
    """Decides the initial weights and the order of the data."""


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW and its learning rate."""

    lr: float = 1e-3
    """Learning rate at the end of the warm-up."""
    schedule: Schedule = Schedule.cosine
    """cosine: to the last step; wsd: constant, then linear over decay_fraction; constant."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    final_fraction: float = 0.1
    """Learning rate at the last step over lr (cosine and wsd)."""
    decay_fraction: float = 0.2
    """Share of the steps that wsd decays over."""
    beta1: float = 0.9
    """Decay of the mean of the gradients."""
    beta2: float = 0.95
    """Decay of the mean of their squares."""
    eps: float = 1e-8
    """Added to the root of the mean of squares."""
    weight_decay: float = 0.1
    """Decay of the matrices; vectors and embeddings do not decay."""
    clip: float | None = 1.0
    """Largest norm of the gradient; null never clips."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        shares = {"final_fraction": self.final_fraction, "decay_fraction": self.decay_fraction}
        betas = {"beta1": self.beta1, "beta2": self.beta2}
        positive = {"lr": self.lr, "eps": self.eps, "clip": self.clip}
        return [
            *(
                f"optim.{key}={value} must be positive"
                for key, value in positive.items()
                if value is not None and not value > 0
            ),
            *(
                f"optim.{key}={value} must lie in [0, 1]"
                for key, value in shares.items()
                if not 0 <= value <= 1
            ),
            *(
                f"optim.{key}={value} must lie in [0, 1)"
                for key, value in betas.items()
                if not 0 <= value < 1
            ),
            *(
                f"optim.{key}={value} must not be negative"
                for key, value in {
                    "weight_decay": self.weight_decay,
                    "warmup_steps": self.warmup_steps,
                }.items()
                if not value >= 0
            ),
        ]


@dataclass(kw_only=True)
class EngineConfig:
    """How the model is held and computed."""

    kind: EngineKind = EngineKind.fsdp
    """Used when there are several processes; one process needs none."""
    precision: Precision = Precision.fp32
    """Dtype of the activations."""
    remat: Remat = Remat.none
    """block: keep only the input of each block, compute the rest twice."""
    device: Device = Device.auto
    """Where to compute."""

    def check(self, processes: int = 1) -> list[str]:
        """Every problem of so many processes on this machine, a sentence each."""
        if self.device is Device.cpu:
            return []
        import torch

        found = torch.cuda.device_count()
        if not found and self.device is Device.cuda:
            return ["engine.device=cuda, but torch finds no CUDA device: say engine.device=auto"]
        if 0 < found < processes:
            return [f"launch.nproc={processes} is more than the {found} GPUs here: lower it"]
        return []

    def capability(self) -> int | None:
        """Compute capability of the card times ten; None where a CPU computes."""
        if self.device is Device.cpu:
            return None
        import torch

        if not torch.cuda.is_available():
            return None
        major, minor = torch.cuda.get_device_capability()
        return 10 * major + minor


@dataclass(kw_only=True)
class TrainSection:
    """Length and size of the training."""

    steps: int = 300
    """Optimizer updates; a finished run continues when this grows."""
    tokens_per_step: int = 4096
    """Tokens of a global batch, whatever their length."""
    accumulate: int = 1
    """Parts a global batch is cut into, computed one after the other."""
    z_loss: float = 0.0
    """Weight of the squared log-partition, which keeps logits small."""


@dataclass(kw_only=True)
class ValidationSection:
    """Loss on documents that are never trained on."""

    every: int | None = 100
    """Steps between validations; null validates at the end only."""
    tokens: int = 65_536
    """At most this many tokens, spread over the lengths."""


@dataclass(kw_only=True)
class CheckpointSection:
    """What is kept to continue from."""

    every: int | None = 100
    """Steps between checkpoints; null writes one at the end only."""
    keep: int | None = 2
    """How many of the newest stay; null keeps all."""


@dataclass(kw_only=True)
class ResumeSection:
    """How a run goes on from its checkpoint."""

    replan: bool = False
    """Go on with other data, weights, curriculum or tokens of a step: a new plan uses what the old
    one left of every source and length; false refuses such changes."""


@dataclass(kw_only=True)
class LoggingSection:
    """Who hears of the run. ``metrics.jsonl`` always has every step."""

    every: int = 10
    """Steps between printed lines when the output is not a terminal."""
    wandb: bool = False
    """Also log to Weights & Biases."""
    wandb_project: str = "lmtrain"
    """Project there."""
    wandb_mode: WandbMode = WandbMode.online
    """offline needs no network."""


@dataclass(kw_only=True)
class SamplesSection:
    """Texts written at the end of the training, into ``samples/``."""

    count: int = 2
    """How many; 0 writes none."""
    tokens: int = 120
    """New tokens of each."""
    prompt: str | None = None
    """Text to continue; null takes the openings of validation documents."""
    prompt_tokens: int = 24
    """Length of such an opening."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_p: float = 0.95
    """Draw from the smallest set of tokens with this much probability."""


@dataclass(kw_only=True)
class LaunchSection:
    """Processes of this machine. Under torchrun the processes are already there."""

    nproc: int = 1
    """Processes to start, each with an equal part of every batch."""
    threads: int | None = None
    """Threads of each process; null shares the cores out."""


@dataclass(kw_only=True)
class RunConfig:
    """Everything that decides a training run."""

    run: RunSection = field(default_factory=RunSection)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    ops: OpsConfig = field(default_factory=OpsConfig)
    train: TrainSection = field(default_factory=TrainSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    resume: ResumeSection = field(default_factory=ResumeSection)
    logging: LoggingSection = field(default_factory=LoggingSection)
    samples: SamplesSection = field(default_factory=SamplesSection)
    launch: LaunchSection = field(default_factory=LaunchSection)

    def check(self, world_size: int) -> list[str]:
        """Every problem of the configuration, each a sentence with key, value and remedy.

        Writes nothing and needs no process group; the data is not opened.
        """
        return [
            *self.model.check(),
            *self.data.check(),
            *self.curriculum.check(),
            *self.optim.check(),
            *self.parallel.check(world_size),
            *self.engine.check(self.launch.nproc),
            *self._ops(),
            *self._counts(),
            *self._row(world_size),
            *_wandb(self.logging),
            *_folder(self.run.dir),
        ]

    def resolved(self, vocabulary: int) -> RunConfig:
        """The same run with the model's vocabulary decided.

        Args:
            vocabulary: token ids of the store are below this.

        Raises:
            ValueError: the model's own vocabulary is smaller.
        """
        size = self.model.vocab_size or -(-vocabulary // 64) * 64
        if size < vocabulary:
            raise ValueError(
                f"model.vocab_size={size} is smaller than the {vocabulary} tokens of the data: "
                f"say model.vocab_size=null or at least {vocabulary}"
            )
        return replace(self, model=replace(self.model, vocab_size=size))

    def _counts(self) -> list[str]:
        """Counts that must be positive."""
        counts = {
            "train.steps": self.train.steps,
            "train.accumulate": self.train.accumulate,
            "validation.every": self.validation.every,
            "validation.tokens": self.validation.tokens,
            "checkpoint.every": self.checkpoint.every,
            "checkpoint.keep": self.checkpoint.keep,
            "logging.every": self.logging.every,
            "samples.tokens": self.samples.tokens,
            "samples.prompt_tokens": self.samples.prompt_tokens,
            "launch.nproc": self.launch.nproc,
            "launch.threads": self.launch.threads,
        }
        return [
            *_positive(counts),
            *_sampling(self.samples.temperature, self.samples.top_p, prefix="samples."),
        ]

    def _ops(self) -> list[str]:
        """What computes must run on this machine, and take the mixers as they are."""
        card = self.engine.capability()
        found = self.ops.check(card)
        if found or self.model.check() or self.parallel.check(self.parallel.sequence):
            return found
        from lmtrain.feasible import problems  # which needs torch

        backend, bf16 = resolve(self.ops.backend, card), self.engine.precision is Precision.bf16
        return problems(backend, self.ops, self.model, self.parallel, bf16=bf16)

    def _row(self, world_size: int) -> list[str]:
        """The global batch must cut into equal rows of whole pieces, and those into equal spans."""
        longest, accumulate = self.curriculum.max_length, self.train.accumulate
        sequence = self.parallel.sequence
        if min(longest, accumulate, world_size, sequence) < 1 or world_size % sequence:
            return []
        world = world_size // sequence
        found = check_tokens_per_step(
            self.train.tokens_per_step,
            max_length=longest,
            accumulate=accumulate,
            world=world,
            sequence=sequence,
        )
        if sequence == 1 or found or self.model.check() or self.curriculum.check():
            return found
        from lmtrain.planner import problems  # which needs torch

        row = self.train.tokens_per_step // (accumulate * world)
        return problems(self.model, self.parallel, row=row, lengths=self.curriculum.lengths)


@dataclass(kw_only=True)
class GenerateConfig:
    """Text from a checkpoint."""

    checkpoint: str | None = None
    """A run folder (its latest checkpoint) or one checkpoint folder."""
    prompt: str = "\n"
    """Text to continue."""
    tokens: int = 200
    """New tokens at most."""
    count: int = 1
    """How many texts."""
    temperature: float = 0.8
    """Divides the logits before drawing."""
    top_p: float = 0.95
    """Draw from the smallest set of tokens with this much probability."""
    greedy: bool = False
    """Always take the likeliest token."""
    seed: int = 0
    """Decides the draws."""
    device: Device = Device.auto
    """Where to compute."""
    ops: OpsConfig = field(default_factory=OpsConfig)
    """What computes."""

    def check(self) -> list[str]:
        """Every problem, each a sentence with key, value and remedy."""
        missing = "checkpoint is not set: say checkpoint=runs/default, or another run folder"
        silent = "prompt is empty, and documents have no opening token: give it a character"
        return [
            *([missing] if self.checkpoint is None else []),
            *([silent] if not self.prompt else []),
            *_positive({"tokens": self.tokens, "count": self.count}),
            *_sampling(self.temperature, self.top_p),
            *EngineConfig(device=self.device).check(),
            *self.ops.check(EngineConfig(device=self.device).capability()),
        ]


def require(problems: list[str]) -> None:
    """Raise one ValueError that tells every problem."""
    if len(problems) == 1:
        raise ValueError(problems[0])
    if problems:
        raise ValueError("\n".join([f"{len(problems)} problems:", *(f"- {p}" for p in problems)]))


def config_dir() -> Path:
    """The shipped configs: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "configs"
    return packaged if packaged.is_dir() else here.parent / "configs"


@overload
def compose(
    overrides: Iterable[str] = (), config_name: Literal["config"] = "config"
) -> RunConfig: ...


@overload
def compose(overrides: Iterable[str], config_name: str) -> Any: ...


def compose(overrides: Iterable[str] = (), config_name: str = "config") -> Any:
    """The typed configuration that ``lmtrain VERB overrides`` would use.

    Raises:
        hydra.errors.HydraException: an unknown key or option, or a value of the wrong type.
    """
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return typed(hydra_compose(config_name, overrides=list(overrides)))


def typed(composed: DictConfig) -> Any:
    """The dataclass behind a composed configuration.

    Raises:
        ValueError: a key that ``+key=value`` added and nobody reads.
    """
    config = OmegaConf.to_object(composed)
    unknown = flat(composed).keys() - flat(config).keys()
    if unknown:
        raise ValueError(f"+{min(unknown)} adds a key that nobody reads: leave it out")
    return config


def to_yaml(config: object) -> str:
    """A configuration as YAML, every default written out."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def read(path: Path, root: type[Root] = RunConfig) -> Root:
    """The configuration written by `to_yaml`.

    Raises:
        ValueError: the file is not a configuration of this version.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(root), OmegaConf.load(path))
        config = OmegaConf.to_object(merged)
    except (OSError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} is not a configuration of this version: {error}") from error
    assert isinstance(config, root)
    return config


def flat(config: object) -> dict[str, Any]:
    """Every value of a configuration by its dotted key."""
    node = config if isinstance(config, DictConfig) else OmegaConf.structured(config)
    return dict(_leaves(OmegaConf.to_container(node), ""))


def _leaves(node: Any, key: str) -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, child in cast("Mapping[str, Any]", node).items():
            yield from _leaves(child, f"{key}.{name}" if key else name)
    else:
        yield key, node


def _positive(values: Mapping[str, int | None]) -> list[str]:
    return [
        f"{key}={value} must be at least 1"
        for key, value in values.items()
        if value is not None and value < 1
    ]


def _sampling(temperature: float, top_p: float, *, prefix: str = "") -> list[str]:
    problems: list[str] = []
    if temperature < 0:
        problems.append(f"{prefix}temperature={temperature} must not be negative")
    if not 0 < top_p <= 1:
        problems.append(f"{prefix}top_p={top_p} must lie in (0, 1]")
    return problems


def _wandb(logging: LoggingSection) -> list[str]:
    if not logging.wandb or find_spec("wandb"):
        return []
    return ["logging.wandb=true, but wandb is not installed: pip install 'lmtrain[wandb]'"]


def _folder(run_dir: str) -> list[str]:
    """Whether the run folder can be made and written, without making it."""
    folder = Path(run_dir).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return [f"run.dir={run_dir} cannot be a folder, {existing} is a file: choose another"]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [f"run.dir={run_dir} cannot be written, {existing} is read-only: choose another"]
    return []


def _register() -> None:
    """Give Hydra the schema of every verb; ``configs/*.yaml`` name them in their defaults."""
    store = ConfigStore.instance()
    for name, root in {
        "schema": RunConfig,
        "generate_schema": GenerateConfig,
        "prepare_schema": PrepareConfig,
        "bench_schema": BenchConfig,
    }.items():
        store.store(name=name, node=root)


_register()
