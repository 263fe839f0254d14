"""One configuration for each command, composed of concerns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal, TypeVar, get_type_hints

from swift.config.app import PageConfig
from swift.config.backends import BackendConfig
from swift.config.data import DataConfig, TrainDataConfig
from swift.config.deploy import RequestDefaultsConfig, ServeConfig
from swift.config.environments import EnvironmentConfig
from swift.config.evaluate import EvalCommandConfig, TrainEvaluateConfig
from swift.config.fields import Option, at_least, file_size, named, option, options_in, per_class
from swift.config.generate import GenerateConfig
from swift.config.model import AnsweringModelConfig, ModelConfig, SourceConfig
from swift.config.optimizer import OptimizerConfig
from swift.config.output import OutputConfig, PluginConfig
from swift.config.plan import MachineConfig
from swift.config.predict import PredictConfig
from swift.config.remote import RemoteConfig
from swift.config.rollout import RolloutOptions
from swift.config.task import TaskConfig
from swift.config.template import PtTemplateConfig, TemplateConfig, TrainTemplateConfig
from swift.config.train import TrainConfig
from swift.config.training_arguments import training_argument_options
from swift.config.tuner import TunerConfig

C = TypeVar("C", bound="CommandConfig")


@dataclass
class CommandConfig:
    """What the configurations of all commands share: options in concerns, and where each value came from."""

    command: ClassVar[str]
    origins: dict[str, str] = field(default_factory=dict)
    """Option name -> flag, a file's name or python, for each value that somebody gave."""

    @classmethod
    def of(cls: type[C], **options: Any) -> C:
        """Build from flat option names: `SftConfig.of(model="demo", dataset=["data.jsonl"])`.

        Raises:
            SwiftError: an option is unknown or its value does not fit.
        """
        from swift.config.build import build

        return build(cls, {name: (value, "python") for name, value in options.items()})

    def flat(self) -> dict[str, Any]:
        """All options by name, as `config.yaml` holds them; secrets stay out."""
        values: dict[str, Any] = {}
        for part in concerns(type(self)):
            concern = getattr(self, part)
            specs = options_in(type(concern), part)
            values |= {name: getattr(concern, name) for name, spec in specs.items() if not spec.secret}
            values |= getattr(concern, "more", {})
        return values

    def settle(self, values: dict[str, Any]) -> None:
        """Put what a run chose into the options that nobody set, so that `config.yaml` repeats the run."""
        for part, concern in concerns(type(self)).items():
            for name in values.keys() & options_in(concern, part).keys():
                if getattr(getattr(self, part), name) is None:
                    setattr(getattr(self, part), name, values[name])

    def given(self, name: str) -> bool:
        """Whether somebody set this option."""
        return name in self.origins


@per_class
def concerns(config: type[CommandConfig]) -> dict[str, type]:
    """The concerns of a command's configuration: attribute -> dataclass."""
    hints = get_type_hints(config)
    return {f.name: hints[f.name] for f in fields(config) if is_dataclass(hints[f.name])}


@per_class
def options_of(config: type[CommandConfig]) -> dict[str, Option]:
    """Every option of a command by name, in the order `--help` prints them."""
    found: dict[str, Option] = {}
    for part, concern in concerns(config).items():
        found |= options_in(concern, part)
    if "train" in concerns(config):
        found |= {name: spec for name, spec in training_argument_options().items() if name not in found}
    return found


@dataclass
class SftConfig(CommandConfig):
    """Supervised fine-tuning."""

    command: ClassVar[str] = "sft"
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    template: TrainTemplateConfig = field(default_factory=TrainTemplateConfig)
    data: TrainDataConfig = field(default_factory=TrainDataConfig)
    tuner: TunerConfig = field(default_factory=TunerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    evaluate: TrainEvaluateConfig = field(default_factory=TrainEvaluateConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    plugins: PluginConfig = field(default_factory=PluginConfig)


@dataclass
class PtConfig(SftConfig):
    """Pre-training: whole texts, in the same run as fine-tuning."""

    command: ClassVar[str] = "pt"
    template: PtTemplateConfig = field(default_factory=PtTemplateConfig)


@dataclass
class BatchConfig:
    """Options of inference over many rows."""

    infer_backend: str = option(
        "pt",
        "Engine: pt (also called transformers), vllm, remote, auto (vllm where it is there and runs the model), or one "
        "from --external_plugins.",
    )
    load_args: bool = option(True, "Take template, system text and switches from the adapter or checkpoint.")
    val_dataset: list[str] = option(help="Rows to answer; unset means a conversation.", factory=list, check=named)
    val_dataset_shuffle: bool = option(False, "Shuffle the rows.", needs=("val_dataset",))
    val_dataset_sample: int | None = option(
        None,
        "Answer so many of the rows: the first, or with --val_dataset_shuffle any; unset means all.",
        needs=("val_dataset",),
        check=at_least(1),
    )
    columns: dict[str, str] | None = option(
        None, 'Column names of the data to ours, as JSON: {"question": "query"}.', needs=("val_dataset",)
    )
    disable_auto_column_mapping: bool = option(
        False, "Know each column by our own name alone, not by the others it often goes by.", needs=("val_dataset",)
    )
    custom_dataset_info: list[str] = option(
        help="Tables of your own data sets (JSON), which --val_dataset then takes by name.",
        factory=list,
        needs=("val_dataset",),
    )
    strict: bool = option(
        True, "Stop when a row cannot be answered; false leaves such rows out and tells them.", needs=("val_dataset",)
    )
    model_name: list[str] = option(help="Fills {{NAME}} in self-cognition data.", factory=list, needs=("val_dataset",))
    model_author: list[str] = option(help="Fills {{AUTHOR}} likewise.", factory=list, needs=("val_dataset",))
    result_path: str | None = option(
        None,
        "JSONL file for the answers; unset means infer_result/ in the checkpoint's folder, or in this one.",
        check=named,
        needs=("val_dataset",),
    )
    max_batch_size: int = option(
        8,
        "Rows answered at once.",
        why="ms-swift's 1 leaves most of the machine idle; answers are the same",
        check=at_least(1),
    )
    metric: Literal["acc", "rouge"] | None = option(
        None,
        "Compare the answers with those of the rows: the share of equal ones (0 to 1), or ROUGE-1, -2, -L and "
        "BLEU-4 (percent). Classifiers, embedders and rerankers give their figures without it.",
        needs=("val_dataset",),
    )
    write_batch_size: int = option(
        1000, "Rows between writes to --result_path.", needs=("val_dataset",), check=at_least(1)
    )


@dataclass
class InferConfig(CommandConfig):
    """Conversation, or answers to a data set."""

    command: ClassVar[str] = "infer"
    model: AnsweringModelConfig = field(default_factory=AnsweringModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    plugins: PluginConfig = field(default_factory=PluginConfig)


@dataclass
class DeployConfig(CommandConfig):
    """A server for a model, with OpenAI's interface."""

    command: ClassVar[str] = "deploy"
    model: AnsweringModelConfig = field(default_factory=AnsweringModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    generate: RequestDefaultsConfig = field(default_factory=RequestDefaultsConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    plugins: PluginConfig = field(default_factory=PluginConfig)


@dataclass
class RolloutConfig(DeployConfig):
    """A server for a training run, which asks for token ids and sends new weights."""

    command: ClassVar[str] = "rollout"
    rollout: RolloutOptions = field(default_factory=RolloutOptions)


@dataclass
class AppConfig(DeployConfig):
    """A chat page for a model, or for a server at a URL."""

    command: ClassVar[str] = "app"
    page: PageConfig = field(default_factory=PageConfig)


@dataclass
class EvalConfig(DeployConfig):
    """Scores on data sets, by EvalScope."""

    command: ClassVar[str] = "eval"
    evaluate: EvalCommandConfig = field(default_factory=EvalCommandConfig)


@dataclass
class MergeOutputConfig:
    """Options of the merged model's folder."""

    output_dir: str | None = option(None, "Folder of the merged model; unset means ADAPTER-merged.", check=named)
    exist_ok: bool = option(False, "Replace a folder that is there.")
    max_shard_size: str = option("5GB", "Largest file of saved weights.", check=file_size)
    safe_serialization: bool = option(True, "Write safetensors.")


@dataclass
class MergeConfig(CommandConfig):
    """Merge an adapter into its base model."""

    command: ClassVar[str] = "merge-lora"
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    output: MergeOutputConfig = field(default_factory=MergeOutputConfig)
    plugins: PluginConfig = field(default_factory=PluginConfig)


@dataclass
class PreparedConfig:
    """Options of prepared rows."""

    output_dir: str | None = option(None, "Folder of the tokenised rows.", check=named)
    exist_ok: bool = option(False, "Replace a folder that is there.")
    seed: int = option(42, "Seed of the order of rows.")
    data_seed: int | None = option(None, "The same, under the name that training has for it; unset means --seed.")


@dataclass
class PrepareConfig(CommandConfig):
    """Tokenise rows beforehand, for --cached_dataset."""

    command: ClassVar[str] = "prepare"
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    template: TrainTemplateConfig = field(default_factory=TrainTemplateConfig)
    data: DataConfig = field(default_factory=DataConfig)
    output: PreparedConfig = field(default_factory=PreparedConfig)
    plugins: PluginConfig = field(default_factory=PluginConfig)


@dataclass
class RowsConfig:
    """Which rows are shown, and how."""

    row: list[str] = option(
        help="Rows to show, named as --dataset names them; unset means built-in conversations.", factory=list
    )
    columns: dict[str, str] | None = option(
        None, 'Column names of the data to ours, as JSON: {"question": "query"}.', needs=("row",)
    )
    disable_auto_column_mapping: bool = option(
        False, "Know each column by our own name alone, not by the others it often goes by."
    )
    custom_dataset_info: list[str] = option(
        help="Tables of your own data sets (JSON), which --row then takes by name.", factory=list
    )
    model_name: list[str] = option(help="Fills {{NAME}} in self-cognition data.", factory=list, needs=("row",))
    model_author: list[str] = option(help="Fills {{AUTHOR}} likewise.", factory=list, needs=("row",))
    format: Literal["text", "json", "html"] = option(
        "text", "For a terminal, one JSON object a sample, or a page of HTML; all on standard output."
    )


@dataclass
class ShowConfig(CommandConfig):
    """Render, tokens and loss mask of rows, without the model's weights."""

    command: ClassVar[str] = "template"
    model: SourceConfig = field(default_factory=SourceConfig)
    template: TrainTemplateConfig = field(default_factory=TrainTemplateConfig)
    rows: RowsConfig = field(default_factory=RowsConfig)
    plugins: PluginConfig = field(default_factory=PluginConfig)


@dataclass
class ReportConfig:
    """Options of what is printed."""

    format: Literal["text", "json"] = option("text", "For people, or one JSON object a line.")


@dataclass
class PlanConfig(CommandConfig):
    """Settings of training that fit a machine, ranked, without the model's weights."""

    command: ClassVar[str] = "plan"
    model: SourceConfig = field(default_factory=SourceConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


@dataclass
class DoctorConfig(CommandConfig):
    """Versions, devices, extras, and what is missing for which feature."""

    command: ClassVar[str] = "doctor"
    report: ReportConfig = field(default_factory=ReportConfig)


@dataclass
class EnvConfig(CommandConfig):
    """Environments of back ends whose pins exclude ours: make one, or list them with what is wrong."""

    command: ClassVar[str] = "env"
    env: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


@dataclass
class SearchConfig:
    """Options of what is looked for."""

    search: str | None = option(None, "Only those with this word in a name or tag.")


@dataclass
class TablesConfig:
    """Options of the tables that are looked in."""

    custom_dataset_info: list[str] = option(help="Tables of your own data sets (JSON).", factory=list)


@dataclass
class ModelsConfig(CommandConfig):
    """Public models, their architecture, and how far each is supported."""

    command: ClassVar[str] = "models"
    search: SearchConfig = field(default_factory=SearchConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


@dataclass
class DatasetsConfig(CommandConfig):
    """Public data sets that are known by name."""

    command: ClassVar[str] = "datasets"
    search: SearchConfig = field(default_factory=SearchConfig)
    tables: TablesConfig = field(default_factory=TablesConfig)
    report: ReportConfig = field(default_factory=ReportConfig)


COMMANDS: dict[str, type[CommandConfig]] = {
    c.command: c
    for c in (
        PtConfig,
        SftConfig,
        InferConfig,
        DeployConfig,
        RolloutConfig,
        AppConfig,
        EvalConfig,
        PrepareConfig,
        MergeConfig,
        ShowConfig,
        PlanConfig,
        ModelsConfig,
        DatasetsConfig,
        DoctorConfig,
        EnvConfig,
    )
}
