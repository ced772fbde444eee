"""Pushes a zoo to the Hugging Face Hub (`--push-to-hub OWNER/NAME`)."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lic.errors import LictuneError
from lic.files import one_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_OWNED = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

#: Files of an earlier zoo of the repository that the new one may lack.
_OWN_FOLDERS = ["q[1-6]/*", "compressai/*"]


class HubError(LictuneError):
    """The zoo cannot be pushed; the message has what is missing and what to do."""


def open_hub(repo: str) -> HfApi:
    """The client that can push to a repository OWNER/NAME. Raises HubError if the package or the token is
    missing, the name is invalid, the Hub does not answer, or the token's user does not belong to OWNER."""
    if find_spec("huggingface_hub") is None:
        raise HubError(
            "--push-to-hub needs the package huggingface_hub, which is not installed; install it with: "
            "pip install 'lictune[hub]'"
        )
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
        valid = _OWNED.fullmatch(repo) is not None
    except HFValidationError:
        valid = False
    if not valid:
        raise HubError(f"--push-to-hub {one_line(repo, 60)}: give OWNER/NAME, such as me/cheng2020-anchor")
    if get_token() is None:
        raise HubError(
            "--push-to-hub needs a token of the Hugging Face Hub; set HF_TOKEN, or run: hf auth login"
        )
    api = HfApi()
    try:
        user = api.whoami()
    except Exception as error:  # whatever the client and its network raise
        raise HubError(
            f"the Hugging Face Hub does not accept the token, or does not answer ({one_line(error)}); check "
            "HF_TOKEN and the network"
        ) from error
    owner, names = repo.split("/")[0], [user["name"], *(org["name"] for org in user.get("orgs", []))]
    if owner not in names:
        raise HubError(f"--push-to-hub {repo}: your token can push to {', '.join(names)}, not to {owner}")
    return api


def push(api: HfApi, root: Path, repo: str, private: bool) -> str:
    """Push a zoo to a repository, which is made if it does not exist; returns its URL. The models of an
    earlier zoo are replaced. Raises HubError."""
    try:
        url = api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise HubError(
                f"the zoo was written to {root}, but not pushed: {repo} exists and is public; make it "
                "private first, or omit --private"
            )
        api.upload_folder(
            repo_id=repo, folder_path=root, commit_message=f"Export {root.name} with lictune",
            delete_patterns=_OWN_FOLDERS,
        )  # fmt: skip
    except HubError:
        raise
    except Exception as error:  # whatever the client and its network raise
        again = shlex.join(["hf", "upload", repo, str(root)])
        raise HubError(
            f"the zoo was written to {root}, but could not be pushed ({one_line(error)}); to push it: {again}"
        ) from error
    return str(url)
