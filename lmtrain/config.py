"""The configuration of every verb: typed schema, composition, reading and writing, checks.

Dataclasses are the schema and the defaults, YAML chooses and overrides, Hydra composes. Importing
this module registers the schema with Hydra and imports no torch.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, cast, overload

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lmtrain.bench.config import BenchConfig
from lmtrain.data.config import DataConfig, check_tokens_per_step, power_of_two
from lmtrain.data.curriculum_config import CurriculumConfig, Remainder, ViewName
from lmtrain.data.prepare_config import PrepareConfig
from lmtrain.models.config import ModelConfig
from lmtrain.ops.config import OpsConfig, resolve
from lmtrain.parallel.config import ParallelConfig
from lmtrain.settings.budget import BudgetSection
from lmtrain.settings.checkpoint import CheckpointSection, ResumeSection
from lmtrain.settings.distill import DistillSection
from lmtrain.settings.engine import EngineConfig, EngineKind, Precision, Remat
from lmtrain.settings.evaluate import EvalConfig
from lmtrain.settings.export import ExportConfig, ImportConfig
from lmtrain.settings.faults import FaultPolicy, FaultsSection
from lmtrain.settings.findings import Claim, check_claims
from lmtrain.settings.generate import GenerateConfig, SamplesSection
from lmtrain.settings.hybrid import HybridSection
from lmtrain.settings.inspect import HardwareKeys
from lmtrain.settings.launch import LaunchSection
from lmtrain.settings.logging import LoggingSection
from lmtrain.settings.optim import OptimConfig, OptimKind
from lmtrain.settings.report import ReportConfig
from lmtrain.settings.run import RunSection, TrainSection, ValidationSection
from lmtrain.settings.scores import ScoresSection, unanswerable

Root = TypeVar("Root")


@dataclass(kw_only=True)
class RunConfig:
    """Everything that decides a training run."""

    run: RunSection = field(default_factory=RunSection)
    model: ModelConfig = field(default_factory=ModelConfig)
    hybrid: HybridSection = field(default_factory=HybridSection)
    data: DataConfig = field(default_factory=DataConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    ops: OpsConfig = field(default_factory=OpsConfig)
    train: TrainSection = field(default_factory=TrainSection)
    budget: BudgetSection = field(default_factory=BudgetSection)
    distill: DistillSection = field(default_factory=DistillSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    faults: FaultsSection = field(default_factory=FaultsSection)
    resume: ResumeSection = field(default_factory=ResumeSection)
    logging: LoggingSection = field(default_factory=LoggingSection)
    samples: SamplesSection = field(default_factory=SamplesSection)
    scores: ScoresSection = field(default_factory=ScoresSection)
    launch: LaunchSection = field(default_factory=LaunchSection)
    findings: list[Claim] = field(default_factory=list[Claim])
    """What a sweep of such runs should show; it decides nothing in a run."""

    def check(self, world_size: int) -> list[str]:
        """Every problem of the configuration, each a sentence with key, value and remedy.

        Writes nothing and needs no process group; the data is not opened.
        """
        return [
            *self.check_model(),
            *self.data.check(),
            *self.curriculum.check(),
            *self.optim.check(),
            *self.parallel.check(world_size),
            *self.engine.check(self.launch.nproc, world_size),
            *self._task(),
            *self.check_zero(world_size),
            *self._ops(),
            *self._budget(),
            *self.train.check(),
            *self._spending(),
            *self.distill.check(weights=self.run.weights, engine=self.engine, world=world_size),
            *self.validation.check(),
            *self.checkpoint.check(),
            *self.faults.check(self.checkpoint.every),
            *self.logging.check(self.engine.kind),
            *([] if self.budget.said else self.check_steps()),
            *self.samples.check(),
            *self._scores(world_size),
            *self.launch.check(),
            *check_claims(self.findings),
            *self._row(world_size),
            *self.run.check(),
        ]

    def check_steps(self) -> list[str]:
        """What does not lie within the run; asked when a budget has decided its steps."""
        steps, decided = self.train.steps, self.budget.decided(self.train.steps)
        return [
            *self.distill.check_steps(steps, decided),
            *self.logging.check_steps(steps, decided),
        ]

    def check_model(self) -> list[str]:
        """What is wrong with the model, or keeps it from learning as ``optim.base_width`` does."""
        unsound = self.hybrid.check(self.model.n_layers) or self.model.check()
        return unsound or self.optim.check_width(self.model)

    def spelled(self) -> Self:
        """The same with the pattern word that a sound ``hybrid`` stands for."""
        layers = self.model.n_layers
        if self.hybrid.mixer is None or self.hybrid.check(layers):
            return self
        return replace(self, model=replace(self.model, pattern=self.hybrid.word(layers)))

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

    def _task(self) -> list[str]:
        """Rows of a synthetic task must stay whole, and every length be drawn and validated."""
        task, curriculum = self.data.task, self.curriculum
        if task.name is None or task.check() or curriculum.check():
            return []
        if curriculum.view is not ViewName.decompose:
            return [
                f"curriculum.view={curriculum.view} would cut its rows (data.task.name="
                f"{task.name}): use decompose"
            ]
        least, most = curriculum.lengths[0], curriculum.drawn_lengths[-1]
        told, found = f"data.task.lengths={task.lengths} has rows", list[str]()
        if curriculum.name.one_length and set(task.lengths) != {most}:
            found.append(
                f"{told} of other lengths than the {most} of curriculum.name={curriculum.name}, "
                f"which would cut or drop them: say data.task.lengths=[{most}], or change "
                "curriculum.length"
            )
        elif max(task.lengths) > most:
            found.append(
                f"{told} above curriculum.max_length={most}, which would cut them: raise it"
            )
        if min(task.lengths) < least:
            key = "floor" if curriculum.remainder is Remainder.keep else "min_length"
            found.append(f"{told} below curriculum.{key}={least}, which would drop them: lower it")
        return found

    def check_zero(self, world_size: int) -> list[str]:
        """What does not go with ZeRO's flat pieces of parameters and gradients."""
        if world_size == 1 or self.engine.kind is not EngineKind.deepspeed:
            return []
        found: list[str] = []
        if self.optim.kind is OptimKind.muon:
            found.append(
                "optim.kind=muon needs whole matrices, and engine.kind=deepspeed keeps flat pieces "
                "of them: say engine.kind=fsdp, or optim.kind=adamw"
            )
        if self.faults.policy is not FaultPolicy.abort:
            found.append(
                f"faults.policy={self.faults.policy} needs gradients to be forgotten, which "
                "engine.kind=deepspeed cannot: say faults.policy=abort, or engine.kind=fsdp"
            )
        return found

    def _scores(self, world_size: int) -> list[str]:
        """What is asked at the end must have an answer, and every process a way to it."""
        task, what, found = self.data.task, self.scores.what, self.scores.check_sizes("scores.")
        if not what or found:
            return found
        if self.engine.kind is EngineKind.deepspeed and world_size > 1:
            found.append(
                f"scores.what=[{','.join(what)}] reads parameters that engine.kind=deepspeed keeps "
                "to itself: say scores.what=[] and `lmtrain eval` afterwards, or engine.kind=fsdp"
            )
        named = task if task.name else None
        if task.check() or self.model.check():
            return found
        return found + unanswerable(
            self.scores,
            what,
            model=self.model,
            task=named,
            text=named is None,
            prefix="scores.",
        )

    def _ops(self) -> list[str]:
        """What computes must run on this machine, and take the mixers as they are."""
        card = self.engine.capability()
        found = self.ops.check(card)
        if found or self.model.check() or self.parallel.check(self.parallel.sequence):
            return found
        from lmtrain.feasible import problems  # which needs torch

        backend, bf16 = resolve(self.ops.backend, card), self.engine.precision is Precision.bf16
        return problems(backend, self.ops, self.model, self.parallel, bf16=bf16)

    def _spending(self) -> list[str]:
        """A budget must be one, and for at least one step."""
        return self.budget.check(
            steps=self.train.steps,
            tokens_per_step=self.train.tokens_per_step,
            foreseen=not self.data.skip_steps and not self.resume.replan,
            staged=self.distill.teacher is not None,
        )

    def _budget(self) -> list[str]:
        """The blocks must be able to keep as little as asked."""
        engine = self.engine
        if engine.remat is not Remat.budget or engine.remat_budget is None or self.model.check():
            return []
        from lmtrain.budget import choose  # which needs torch

        try:
            choose(self.model, engine.remat_budget, element=engine.element)
        except ValueError as error:
            return [str(error)]
        return []

    def _row(self, world_size: int) -> list[str]:
        """The global batch must cut into equal rows of whole pieces, and those into equal spans."""
        longest, accumulate = self.curriculum.max_length, self.train.accumulate
        sequence = self.parallel.sequence
        counts = min(longest, accumulate, world_size, sequence)
        if counts < 1 or world_size % sequence or power_of_two("", longest):
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
class InspectConfig(RunConfig, HardwareKeys):
    """A training run, and the machines to plan it for."""


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
    directory = str(config_dir())
    with _aside(), initialize_config_dir(version_base="1.3", config_dir=directory):
        return typed(hydra_compose(config_name, overrides=list(overrides)))


@contextmanager
def _aside() -> Generator[None]:
    """Put aside the Hydra that runs a verb: it allows no second one beside it."""
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = outer


def typed(composed: DictConfig) -> Any:
    """The dataclass behind a composed configuration.

    Raises:
        ValueError: a key that ``+key=value`` added and nobody reads.
    """
    config: Any = OmegaConf.to_object(composed)
    unknown = flat(composed).keys() - dict(_leaves(asdict(config), "")).keys()
    if unknown:
        raise ValueError(f"+{min(unknown)} adds a key that nobody reads: leave it out")
    return config.spelled() if isinstance(config, RunConfig) else config


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


def _register() -> None:
    """Give Hydra the schema of every verb; ``configs/*.yaml`` name them in their defaults."""
    store = ConfigStore.instance()
    for name, root in {
        "schema": RunConfig,
        "generate_schema": GenerateConfig,
        "eval_schema": EvalConfig,
        "export_schema": ExportConfig,
        "import_schema": ImportConfig,
        "prepare_schema": PrepareConfig,
        "report_schema": ReportConfig,
        "bench_schema": BenchConfig,
        "inspect_schema": InspectConfig,
    }.items():
        store.store(name=name, node=root)


_register()
