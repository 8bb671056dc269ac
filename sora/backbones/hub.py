"""Files of the Hugging Face hub at one revision, from its cache or the network (torch-free)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sora.errors import UserError

PATIENCE = 10  # seconds for the hub's first answer


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at a revision."""

    name: str  # such as microsoft/deberta-v3-base
    revision: str  # a commit; "" = the newest, which the hub is asked for
    kind: str = "model"  # model | dataset
    key: str = "backbone.revision"  # what a user sets to have another revision

    @property
    def cached(self) -> Path:
        """Where the cache keeps it."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / f"{self.kind}s--{self.name.replace('/', '--')}"


class NotThere(UserError):
    """The file cannot be had; the message is the reason, without the file."""


def fetch(repository: Repository, name: str) -> Path:
    """The file ``name`` in the hub's cache, downloaded if need be. Raises NotThere with the reason."""
    held = repository.cached / "snapshots" / repository.revision / name
    return held if repository.revision and held.is_file() else snapshot(repository, [name]) / name


def snapshot(repository: Repository, patterns: list[str] | None = None) -> Path:
    """The folder of the repository's files that match ``patterns``, downloaded if need be; None = all of them.

    Without a network it is what the cache holds at the revision, whole or not. Raises NotThere with the reason, also
    where no file matches.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    revision, kind, offline = repository.revision or None, repository.kind, constants.is_offline_mode()
    unknown = (errors.RevisionNotFoundError, errors.RepositoryNotFoundError, ValueError)
    try:
        if not offline:  # asked first: a download tries for half a minute to reach a hub
            try:
                revision = HfApi().repo_info(repository.name, repo_type=kind, revision=revision, timeout=PATIENCE).sha
            except unknown:
                raise
            except Exception:  # what the network and the hub answer comes in many types
                offline = True
        folder = Path(
            snapshot_download(
                repository.name, revision=revision, repo_type=kind, allow_patterns=patterns, local_files_only=offline
            )
        )
    except errors.RevisionNotFoundError as error:
        raise NotThere(f"the repository has no revision {repository.revision}; correct {repository.key}") from error
    except errors.LocalEntryNotFoundError as error:
        raise NotThere(_without_network(repository)) from error
    except unknown as error:
        raise NotThere("there is no such repository (org/model), or it needs a login (hf auth login)") from error
    except Exception as error:  # of the network, or of a disk
        why = getattr(error, "strerror", None) or type(error).__name__
        disk = getattr(error, "errno", None) and not isinstance(error, ConnectionError | TimeoutError)
        advice = "HF_HOME moves it" if disk else "try again"
        raise NotThere(f"it could not be downloaded to {repository.cached} ({why}); {advice}") from error
    if not any(any(folder.glob(pattern)) for pattern in patterns or ["*"]):
        listed = (repository.cached / "trees" / f"{folder.name}.json").is_file()  # what the repository holds
        raise NotThere("the repository has no such file" if listed or not offline else _without_network(repository))
    return folder


def _without_network(repository: Repository) -> str:
    """Why a file cannot be had without a network, as the end of a sentence."""
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
    held = sorted(path.name[:12] for path in (repository.cached / "snapshots").glob("*"))
    if not held:
        return f"{why}, and its cache lacks the repository"
    wanted = repository.revision[:12]
    if wanted and wanted not in held:
        return f"{why}, and its cache has revision {', '.join(held)}, not {wanted} ({repository.key})"
    return f"{why}, and its cache lacks the file"


def blob_hash(path: Path) -> str | None:
    """The sha256 that the hub gives for a large file in its cache (its blob is named by it), else None."""
    name = path.resolve().name
    return name if len(name) == 64 and set(name) <= set("0123456789abcdef") else None
