"""What the word `model` in a configuration names: a local folder or a hub id. Loads nothing."""

import re
from pathlib import Path

from cpl_ray.errors import ConfigError

ADAPTER = "adapter_config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def local_source(model: str) -> Path | None:
    """Return the absolute folder that `model` names, or None for a hub id; reads no file.

    Raises:
        ConfigError: it is a path that does not exist, a file, a folder without `config.json`, or one with an adapter.
    """
    folder = Path(model).expanduser()
    if folder.is_file():
        raise ConfigError(f"model {model!r} is a file; give the folder that holds config.json and the weights")
    if folder.is_dir():
        if (folder / ADAPTER).is_file():
            # transformers would put it into the model unasked, frozen, and save nothing else afterwards
            raise ConfigError(
                f"model {model!r} holds a PEFT adapter ({ADAPTER}), which is not the model itself; merge it first "
                "(PeftModel.from_pretrained(…).merge_and_unload().save_pretrained(FOLDER)) and give that folder, "
                f"or delete {ADAPTER} where it is a leftover"
            )
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model {model!r} is no Hugging Face model folder: it holds no config.json")
        return folder.absolute()
    if not _HUB_ID.fullmatch(model) or (folder.parent != Path(".") and folder.parent.is_dir()):
        raise ConfigError(f"model: there is no folder {model!r}; give an existing folder or a hub id (owner/name)")
    return None
