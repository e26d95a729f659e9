"""``electra-ds convert``."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from electra_ds.command_line import bare_flag, parse
from electra_ds.errors import DataError, UserError
from electra_ds.files import TEMPORARY_SUFFIX, explain_full_disk


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """ZeRO checkpoint to Hugging Face folders, or such folders back to the tied pair.

    electra-ds convert RUN --output hf writes hf/discriminator and hf/generator; electra-ds convert hf --output pair
    writes pair/electra.safetensors, the full weights under this project's own names.
    """

    path: str
    """A run folder, one of its checkpoints, or a folder that convert wrote."""
    output: str
    """Folder to write; must not exist or be empty."""
    step: int | None = None
    """Checkpoint to take (optimizer steps); null takes the newest whole one."""
    verify: bool = False
    """Load the result with stock transformers and compare its logits with the checkpoint's."""
    license: str = "other"
    """License named in the model card."""


def main(arguments: list[str], program: str) -> int:
    """Convert; return the exit status."""
    config = parse(ConvertConfig, bare_flag(arguments, "--verify"), program, positional="path")
    source, output = Path(config.path), Path(config.output)
    _require_free(output)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; expected a run folder, a checkpoint or a converted model")

    from electra_ds.export.huggingface import EXPORT_NAME

    temporary = output.with_name(output.name + TEMPORARY_SUFFIX)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with explain_full_disk(output):
            temporary.mkdir(parents=True)
            if (source / EXPORT_NAME).is_file():
                message = _to_pair(source, temporary)
            else:
                message = _to_huggingface(config, source, temporary)
            if output.is_dir():
                output.rmdir()
            temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    print(message.replace(str(temporary), str(output)))
    return 0


def _to_huggingface(config: ConvertConfig, source: Path, output: Path) -> str:
    from electra_ds.export.card import model_card
    from electra_ds.export.huggingface import NETWORKS, write_folders
    from electra_ds.export.verify import TOLERANCE, greatest_differences
    from electra_ds.model.config import ModelConfig
    from electra_ds.zero_pieces import read_weights

    _quiet()
    path, state, run = _choose(config, source)
    weights = read_weights(path, state)
    model_config = ModelConfig(**state.model)
    tokenizer = _tokenizer_folder(run, state.tokenizer_fingerprint)
    cards = {network: model_card(network, state, run, config.license) for network in NETWORKS}
    origin = {"checkpoint": path.name, "state": asdict(state)}
    write_folders(output, weights, model_config, state.special_ids, tokenizer, cards, origin)
    lines = [f"{path} -> {output}/discriminator, {output}/generator (step {state.step:,})"]
    if config.verify:
        found = greatest_differences(output, weights, model_config, state.special_ids)
        for network, (difference, largest) in found.items():
            lines.append(
                f"verified {network}: greatest difference in logits {difference:.2e} (logits up to {largest:.2f})"
            )
            if not difference <= TOLERANCE * max(1.0, largest):
                raise DataError(
                    f"{network}: logits differ by up to {difference:.2e} from the checkpoint's, expected at most "
                    f"{TOLERANCE * max(1.0, largest):.0e}; nothing was written to {config.output}"
                )
    return "\n".join(lines)


def _to_pair(source: Path, output: Path) -> str:
    from safetensors.torch import save_file

    from electra_ds.export.huggingface import EXPORT_NAME, read_folders
    from electra_ds.export.mapping import from_huggingface
    from electra_ds.export.verify import load_electra

    _quiet()
    generator, discriminator, model_config, special_ids = read_folders(source)
    weights = from_huggingface(generator, discriminator, model_config)
    model = load_electra(weights, model_config, special_ids)
    save_file(
        {name: value.detach().contiguous() for name, value in model.named_parameters()}, output / "electra.safetensors"
    )
    shutil.copyfile(source / EXPORT_NAME, output / EXPORT_NAME)
    return f"{source} -> {output}/electra.safetensors (generator and discriminator as one tied pair)"


def _choose(config: ConvertConfig, source: Path) -> tuple[Path, Any, Path]:
    """The checkpoint asked for, its state, and the run folder it belongs to."""
    from electra_ds.checkpoint import (
        CHECKPOINTS,
        STATE_NAME,
        check_whole,
        checkpoint_name,
        list_checkpoints,
        newest_whole,
    )

    if (source / STATE_NAME).is_file():
        return source, check_whole(source), source.parent.parent
    folder = source / CHECKPOINTS
    if config.step is not None:
        path = folder / checkpoint_name(config.step)
        if not path.is_dir():
            steps = ", ".join(p.name for p in list_checkpoints(folder)) or "none"
            raise UserError(f"--step {config.step}: {path} does not exist; {source} has {steps}")
        return path, check_whole(path), source
    found = newest_whole(folder, print)
    if found is None:
        raise UserError(
            f"{source}: no checkpoints in it; expected a run folder of 'electra-ds pretrain' that has saved one"
        )
    return found[0], found[1], source


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
