"""``electra-ds convert``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from electra_ds.command_line import bare_flag, parse
from electra_ds.errors import DataError, UserError
from electra_ds.export.spelling import check_repository, shard_bytes
from electra_ds.files import TEMPORARY_SUFFIX, explain_full_disk

if TYPE_CHECKING:
    from electra_ds.export.networks import Network
    from electra_ds.export.sources import Source
    from electra_ds.model.config import ModelConfig

OWN_NAME = "electra.safetensors"
"""The file that a folder of convert becomes."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """ZeRO checkpoint to Hugging Face folders, or such folders back to one file, or to the hub.

    electra-ds convert RUN --output hf writes hf/discriminator and hf/generator (or what else the objective trains);
    electra-ds convert hf --output own writes own/electra.safetensors, the weights under this project's own names;
    electra-ds convert hf --push-to-hub OWNER/NAME pushes them.
    """

    path: str
    """A run folder, one of its checkpoints, a universal checkpoint of DeepSpeed's, or a folder that convert wrote."""
    output: str | None = None
    """Folder to write; must not exist or be empty. Only a folder that is pushed needs none."""
    step: int | None = None
    """Checkpoint to take (optimizer steps); null takes the newest whole one."""
    average: str | None = None
    """Take the mean of several checkpoints: 5 for the last five (up to step), or their steps: 1000,2000,3000."""
    weights: Literal["raw", "ema"] = "raw"
    """ema: the moving average that the recipe kept with training.ema_decay."""
    verify: bool = False
    """Compare every tensor written with the checkpoint's, and the logits of stock transformers with our own."""
    shard_size: str = "5GB"
    """Bytes of one file of safetensors; more weights are cut into several. What is in memory follows it."""
    license: str = "other"
    """License named in the model card."""
    run: str | None = None
    """Run folder (tokenizer, recipe, metrics) of a checkpoint that lies elsewhere; null: the one it lies in."""
    push_to_hub: str | None = None
    """OWNER/NAME: push each network to the hub as OWNER/NAME-NETWORK, with the token of 'hf auth login' or HF_TOKEN."""
    hub_private: bool = True
    """Make new repositories on the hub private."""

    def __post_init__(self) -> None:
        shard_bytes(self.shard_size)
        if self.push_to_hub is not None:
            check_repository(self.push_to_hub)
        elif self.output is None:
            raise ValueError("output: missing; name the folder to write")


def main(arguments: list[str], program: str) -> int:
    """Convert; return the exit status."""
    config = parse(ConvertConfig, spell_options(arguments), program, positional="path")
    source = Path(config.path)
    if config.output is not None:
        _require_free(Path(config.output))
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; expected a run folder, a checkpoint or a converted model")

    from electra_ds.export.networks import EXPORT_NAME

    converted = (source / EXPORT_NAME).is_file()
    if config.output is None and not converted:
        raise UserError(f"--output: missing; {source} is not converted yet, name the folder to write")
    if config.push_to_hub is not None:
        if converted and config.output is not None:
            raise UserError(f"--output {config.output}: {source} is pushed as it is; leave --output out")
        from electra_ds.export.hub import check_access

        check_access(config.push_to_hub)
    if config.output is not None:
        _write(config, source, Path(config.output), converted)
    if config.push_to_hub is not None:
        from electra_ds.export.hub import push

        folder = Path(config.output) if config.output is not None else source
        push(folder, config.push_to_hub, config.hub_private, print)
    return 0


def spell_options(arguments: Sequence[str]) -> list[str]:
    """Take ``--push-to-hub`` and the like for the fields' names, and flags that stand alone for yes."""
    spelled = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        spelled.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument)
    return bare_flag(bare_flag(spelled, "--verify"), "--hub_private")


def _write(config: ConvertConfig, source: Path, output: Path, converted: bool) -> None:
    """Write the output aside, and give it its name once it is whole."""
    from electra_ds.export.networks import EXPORT_NAME

    temporary = Path(f"{output.absolute()}{TEMPORARY_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with explain_full_disk(output):
            temporary.mkdir(parents=True)
            message = _to_own(source, temporary) if converted else _to_huggingface(config, source, temporary)
            if output.is_dir():  # an empty one, perhaps the one that the user is in: it stays
                for path in sorted(temporary.iterdir(), key=lambda path: path.name == EXPORT_NAME):
                    path.rename(output / path.name)
                temporary.rmdir()
            else:
                temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    print(message.replace(str(temporary), str(output)))


def _to_huggingface(config: ConvertConfig, path: Path, output: Path) -> str:
    from electra_ds.export.card import model_card
    from electra_ds.export.huggingface import add_tokenizer, write_export, write_network
    from electra_ds.export.networks import left_out, trained_by
    from electra_ds.export.progress import Progress
    from electra_ds.export.sources import open_source
    from electra_ds.model.config import ModelConfig

    _quiet()
    run = Path(config.run) if config.run is not None else None
    source = open_source(path, config.step, config.average, config.weights, run)
    state, trained = source.state, trained_by(source.state.objective)
    networks = trained.networks
    model, size = ModelConfig(**state.model), shard_bytes(config.shard_size)
    tokenizer = _tokenizer_folder(source.run, state.tokenizer_fingerprint)
    unused = left_out(trained, source.weights, model)
    for network in networks:
        total = _bytes_of(network, source)
        with Progress(f"writing {network.name}", total) as progress:

            def wrote(name: str, written: int, network: Network = network, progress: Progress = progress) -> None:
                if name:
                    progress.tell(f"wrote {network.name}/{name} ({written / 1e6:,.1f} MB)")
                else:
                    progress.advance(written)

            folder = output / network.name
            write_network(folder, network, source.weights, model, state.special_ids, size, wrote)
        add_tokenizer(folder, tokenizer)
        (folder / "README.md").write_text(model_card(network, source, config.license, config.push_to_hub), "utf-8")
    origin = {
        "checkpoint": source.path.name,
        "state": asdict(state),
        "weights": config.weights,
        "averaged": list(source.averaged),
    }
    write_export(output, networks, model, state.special_ids, origin)
    what = "moving average, " if config.weights == "ema" else ""
    what += f"mean of {len(source.averaged)} checkpoints up to step" if source.averaged else "step"
    folders = ", ".join(f"{output}/{network.name}" for network in networks)
    lines = [f"{source.path} -> {folders} ({what} {state.step:,})"]
    if unused:
        shown = ", ".join(unused[:4]) + (f" and {len(unused) - 4} more parameters" if len(unused) > 4 else "")
        lines.append(f"left out, as no class of transformers has a place for them: {shown}")
    if config.verify:
        lines += _verify(output, networks, source, model)
    return "\n".join(lines)


def _verify(output: Path, networks: Sequence[Network], source: Source, model: ModelConfig) -> list[str]:
    from electra_ds.export.progress import Progress
    from electra_ds.export.verify import verify_network

    lines = []
    for network in networks:
        with Progress(f"verifying {network.name}", _bytes_of(network, source)) as progress:
            try:
                state = source.state
                found = verify_network(
                    *(output / network.name, network, source.weights, model, state.special_ids, state.objective),
                    progress.advance,
                )
            except DataError as error:
                raise DataError(
                    f"{error}; nothing was written to {output.name.removesuffix(TEMPORARY_SUFFIX)}"
                ) from error
        lines.append(
            f"verified {network.name}: greatest difference in logits {found.difference:.2e} (logits up to "
            f"{found.largest:.2f}), {found.tensors} tensors equal bit for bit"
        )
    return lines


def _bytes_of(network: Network, source: Source) -> int:
    from electra_ds.model.config import ModelConfig

    origins = network.origins(ModelConfig(**source.state.model)).values()
    return sum(4 * origin.shape(source.weights).numel() for origin in origins)


def _to_own(source: Path, output: Path) -> str:
    import torch
    from safetensors.torch import save_file

    from electra_ds.export.huggingface import exported_networks, read_folders
    from electra_ds.export.networks import EXPORT_NAME, own_weights
    from electra_ds.model.config import ModelConfig, ObjectiveConfig
    from electra_ds.model.masking import SpecialIds
    from electra_ds.model.objectives import build

    _quiet()
    states, export = read_folders(source)
    networks = exported_networks(export).networks
    try:
        config, special = ModelConfig(**export["model"]), SpecialIds(**export["special_ids"])
        objective = ObjectiveConfig(**export.get("source", {}).get("state", {}).get("objective", {}))
        with torch.device("meta"):
            model = build(config, objective, special)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source}: {EXPORT_NAME} is damaged ({error!r}); convert the checkpoint again") from error
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    weights = own_weights(networks, [states[network.name] for network in networks], config, shapes)
    save_file(weights, output / OWN_NAME)
    shutil.copyfile(source / EXPORT_NAME, output / EXPORT_NAME)
    told = f"{source} -> {output}/{OWN_NAME} ({' and '.join(network.name for network in networks)})"
    if absent := sorted(shapes.keys() - weights.keys()):
        shown = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more parameters" if len(absent) > 4 else "")
        told += f"\nnot in it, as the export left them out: {shown}"
    return told


def _tokenizer_folder(run: Path, fingerprint: str) -> Path:
    """The tokenizer the run was trained with: the copy in the run folder."""
    from electra_ds.data.format.manifest import tokenizer_fingerprint

    folder = run / "tokenizer"
    if not folder.is_dir() or tokenizer_fingerprint(folder) != fingerprint:
        raise DataError(
            f"{folder}: missing, or not the tokenizer this checkpoint was trained with; copy tokenizer/ of its shard "
            "set there"
        )
    return folder


def _require_free(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output}: exists and is not an empty folder; choose another or remove it first")


def _quiet() -> None:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
