"""Pushing converted folders to the Hugging Face hub, one repository a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from electra_ds.errors import DataError, UserError
from electra_ds.export.huggingface import read_export
from electra_ds.files import sha256_of


def check_access(name: str) -> str:
    """Refuse before anything is converted what cannot be pushed afterwards; returns the account's name.

    Raises:
        UserError: no token, a token that the hub does not take, or no network.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        raise UserError(
            f"--push-to-hub {name}: no token of the Hugging Face hub is found; log in with 'hf auth login', or set "
            "HF_TOKEN to one that may write"
        )
    api = HfApi()
    try:
        return str(api.whoami()["name"])
    except HfHubHTTPError as error:
        raise UserError(
            f"--push-to-hub {name}: {api.endpoint} does not take the token ({_first_line(error)}); log in again with "
            "'hf auth login'"
        ) from error
    except Exception as error:  # whatever the network, a proxy or the library's offline mode has to say
        raise UserError(
            f"--push-to-hub {name}: {api.endpoint} cannot be reached ({type(error).__name__}: {_first_line(error)}); "
            "convert without it, and push the folder later where there is a network: 'electra-ds convert FOLDER "
            f"--push-to-hub {name}'"
        ) from error


def push(folder: Path, name: str, private: bool, say: Callable[[str], None]) -> list[str]:
    """Push every network of a converted folder, and compare what the hub then has with what lies here.

    Args:
        folder: that convert wrote.
        name: ``OWNER/NAME``.
        private: make new repositories private.
        say: told of each network that is there whole.

    Returns:
        Addresses of the repositories.

    Raises:
        UserError: names the network that did not arrive, and those that did.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    done: list[str] = []
    networks = read_export(folder).get("networks", ["discriminator", "generator"])
    for network in networks:
        repository = f"{name}-{network}"
        try:
            url = str(api.create_repo(repository, private=private, exist_ok=True))
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=str(folder / network),
                commit_message="Weights, tokenizer and card, by electra-ds convert",
                delete_patterns=["*.safetensors", "*.safetensors.index.json", "*.bin"],
            )
            _compare(api, repository, commit.oid, folder / network)
        except Exception as error:  # the hub's library has many
            there = f"; whole on the hub: {', '.join(done)}" if done else "; no other network was pushed"
            raise UserError(
                f"--push-to-hub: {repository} is not complete on the hub ({type(error).__name__}: "
                f"{_first_line(error)}){there}. The folder {folder} is whole: 'electra-ds convert {folder} "
                f"--push-to-hub {name}' tries again"
            ) from error
        done.append(repository)
        say(f"pushed {network}: {url}")
    return done


def _compare(api: object, repository: str, revision: str, folder: Path) -> None:
    """Compare size, and SHA-256 where the hub tells it, of every file with what the commit has.

    Raises:
        DataError: the first that is missing or differs.
    """
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    found = api.get_paths_info(repository, list(files), revision=revision)  # type: ignore[attr-defined]
    there = {entry.path: entry for entry in found}
    for name, path in files.items():
        entry = there.get(name)
        if entry is None or entry.size != path.stat().st_size:
            raise DataError(f"{name} is missing or of another size there")
        stored = getattr(entry, "lfs", None)
        if stored is not None and stored.sha256 != sha256_of(path):
            raise DataError(f"{name} is of another content there")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
