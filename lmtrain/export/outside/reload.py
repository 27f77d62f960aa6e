"""Load a folder with transformers alone and write the logits of a row of tokens.

Run as a program, in a process of its own: ``python reload.py FOLDER TOKENS.json OUT.safetensors``.
The code of ``FOLDER`` runs only with a fourth word, ``code``, which is said for code we wrote.
"""

import json
import os
import sys
from pathlib import Path

# Nothing is looked up or fetched anywhere: what the folder lacks must fail.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
sys.modules["lmtrain"] = None  # type: ignore[assignment]  # importing it fails from here on

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def main(folder, tokens, out, *words):
    """Logits in fp32 of the weights as they are stored.

    Raises:
        SystemExit: a tensor is missing, left over, or of another shape.
    """
    transformers.logging.set_verbosity_error()
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder,  # pyright: ignore[reportGeneralTypeIssues]
        trust_remote_code="code" in words,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    wrong = {name: sorted(map(str, found)) for name, found in told.items() if found}
    if wrong:
        raise SystemExit(f"tensors do not fit: {wrong}")
    ids = torch.tensor(json.loads(Path(tokens).read_text()))
    with torch.no_grad():
        logits = model.eval()(input_ids=ids[None], use_cache=False).logits[0]
    transformers.AutoTokenizer.from_pretrained(folder)
    save_file({"logits": logits.float().contiguous()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
