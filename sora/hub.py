"""Files of the Hugging Face hub at one revision, from its cache or the network (torch-free)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from sora.errors import UserError

PATIENCE = 10  # seconds for a connection to the hub


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
    revision, kind = repository.revision or None, repository.kind
    with _reasons(repository):
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

        there = try_to_load_from_cache(repository.name, name, revision=revision, repo_type=kind)
        alone = not isinstance(there, str) and _is_alone()
        return Path(hf_hub_download(repository.name, name, revision=revision, repo_type=kind, local_files_only=alone))


def snapshot(repository: Repository, patterns: list[str] | None = None) -> Path:
    """The folder of the repository's files that match ``patterns``, downloaded if need be; None = all of them.

    Without a network it is what the cache holds at the revision, whole or not. Raises NotThere with the reason, also
    where no file matches.
    """
    revision, kind = repository.revision or None, repository.kind
    with _reasons(repository):
        from huggingface_hub import constants, snapshot_download

        alone = _is_alone()
        folder = snapshot_download(
            repository.name, revision=revision, repo_type=kind, allow_patterns=patterns, local_files_only=alone
        )
    if not any(any(Path(folder).glob(pattern)) for pattern in patterns or ["*"]):
        offline = alone or constants.is_offline_mode()
        raise NotThere(_without_network(repository) if offline else "the repository has no such file")
    return Path(folder)


def _is_alone() -> bool:
    """Whether the network is not to be used, or is not there."""
    from huggingface_hub import constants

    return not constants.is_offline_mode() and not _answers(constants.ENDPOINT)


@contextlib.contextmanager
def _reasons(repository: Repository) -> Iterator[None]:
    """Turn what the client raises into NotThere."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError too, but about the cache
        raise NotThere(_without_network(repository)) from error
    except errors.EntryNotFoundError as error:
        raise NotThere("the repository has no such file") from error
    except errors.RevisionNotFoundError as error:
        raise NotThere(f"the repository has no revision {repository.revision}; correct {repository.key}") from error
    except errors.RepositoryNotFoundError as error:
        raise NotThere("there is no such repository, or it needs a login (hf auth login)") from error
    except OSError as error:
        if error.errno is None:  # the network's errors are OSErrors without a number
            raise NotThere(f"the hub answered {type(error).__name__}") from error
        reason = error.strerror or type(error).__name__
        raise NotThere(f"the cache {repository.cached} cannot be written ({reason}); set HF_HOME") from error
    except Exception as error:  # what the network and the hub answer comes in many types
        raise NotThere(f"the hub answered {type(error).__name__}") from error


@cache
def _answers(endpoint: str) -> bool:
    """Whether a connection to the hub can be made, asked once; a proxy is trusted to make it.

    The client itself would try each file five times, with growing pauses, before it says that there is no network.
    """
    if getproxies():
        return True
    address = urlsplit(endpoint)
    try:
        with socket.create_connection((address.hostname, address.port or address.scheme), PATIENCE):
            return True
    except OSError:
        return False


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
