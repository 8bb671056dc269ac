"""Files of the Hugging Face hub at one revision, from its cache or the network (torch-free)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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
        from huggingface_hub.file_download import repo_folder_name

        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.name, repo_type=self.kind)


class NotThere(UserError):
    """The file cannot be had; the message is the reason, without the file."""


def fetch(repository: Repository, name: str) -> Path:
    """The file ``name`` in the hub's cache, downloaded if need be. Raises NotThere with the reason."""
    from huggingface_hub import try_to_load_from_cache

    revision, kind = repository.revision or None, repository.kind
    with _reasons(repository):
        there = try_to_load_from_cache(repository.name, name, revision=revision, repo_type=kind)
    if revision and isinstance(there, str):
        return Path(there)
    return snapshot(repository, [name]) / name


def snapshot(repository: Repository, patterns: list[str] | None = None) -> Path:
    """The folder of the repository's files that match ``patterns``, downloaded if need be; None = all of them.

    Without a network it is what the cache holds at the revision, whole or not. Raises NotThere with the reason, also
    where no file matches.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    revision, kind, alone = repository.revision or None, repository.kind, constants.is_offline_mode()
    with _reasons(repository):
        if not alone:  # asked first: a download tries for half a minute to reach a hub
            try:
                revision = HfApi().repo_info(repository.name, repo_type=kind, revision=revision, timeout=PATIENCE).sha
            except (errors.RevisionNotFoundError, errors.RepositoryNotFoundError, errors.HFValidationError, ValueError):
                raise
            except Exception:  # what the network and the hub answer comes in many types
                alone = True
        folder = Path(
            snapshot_download(
                repository.name, revision=revision, repo_type=kind, allow_patterns=patterns, local_files_only=alone
            )
        )
    if not any(any(folder.glob(pattern)) for pattern in patterns or ["*"]):
        listed = (repository.cached / "trees" / f"{folder.name}.json").is_file()  # what the repository holds
        raise NotThere("the repository has no such file" if listed or not alone else _without_network(repository))
    return folder


@contextlib.contextmanager
def _reasons(repository: Repository) -> Iterator[None]:
    """Turn what the client raises into NotThere."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise NotThere(f"the repository has no revision {repository.revision}; correct {repository.key}") from error
    except errors.RepositoryNotFoundError as error:
        raise NotThere("there is no such repository, or it needs a login (hf auth login)") from error
    except (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError) as error:
        raise NotThere(_without_network(repository)) from error
    except (errors.HFValidationError, ValueError) as error:
        raise NotThere("that is no name of a repository, such as org/model") from error
    except OSError as error:
        if error.errno is None:  # the network's errors are OSErrors without a number
            raise NotThere(f"the hub answered {type(error).__name__}") from error
        reason = error.strerror or type(error).__name__
        raise NotThere(f"the cache {repository.cached} cannot be written ({reason}); set HF_HOME") from error
    except Exception as error:  # what the network and the hub answer comes in many types
        raise NotThere(f"the hub answered {type(error).__name__}") from error


def _without_network(repository: Repository) -> str:
    """Why a file cannot be had without a network, as the end of a sentence."""
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub cannot be reached"
    return f"{why}, and {_cache_of(repository)}"


def _cache_of(repository: Repository) -> str:
    """What the cache holds of a repository, as the end of a sentence."""
    snapshots = repository.cached / "snapshots"
    there = sorted(path.name[:12] for path in snapshots.iterdir()) if snapshots.is_dir() else []
    if not there:
        return "its cache lacks the repository"
    wanted = repository.revision[:12] or "main"
    if wanted != "main" and wanted not in there:
        return f"its cache has revision {', '.join(there)}, not {wanted} ({repository.key})"
    if any((repository.cached / "blobs").glob("*.incomplete")):
        return "its cache holds a download that was broken off"
    return "its cache lacks the file"


def blob_hash(path: Path) -> str | None:
    """The sha256 that the hub gives for a large file in its cache (its blob is named by it), else None."""
    name = path.resolve().name
    return name if len(name) == 64 and set(name) <= set("0123456789abcdef") else None
