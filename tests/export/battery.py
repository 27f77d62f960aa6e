"""What a person does with a model of transformers, in a process that cannot import lmtrain.

``python battery.py JOBS.json OUT.json``: jobs are folders with the logits that they must give. The
answer has, for each, relative errors, truths and messages by name.
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
sys.modules["lmtrain"] = None  # type: ignore[assignment]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers.masking_utils import (  # noqa: E402
    AttentionMaskInterface,
    flash_attention_mask,
)

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
warnings.simplefilter("ignore")
CUT, PAD = 33, 5


def error(a, b):
    return ((a - b).norm() / b.norm()).item()


def load(folder, *, code):
    model, told = transformers.AutoModelForCausalLM.from_pretrained(
        folder,  # pyright: ignore[reportGeneralTypeIssues]
        trust_remote_code=code,
        dtype=torch.float32,
        output_loading_info=True,
    )
    assert not any(told.values()), told
    return model.eval()


@torch.no_grad()
def reading(model, ids, expected):
    """One forward, two with a cache, a padded one, a packed one."""
    whole = model(input_ids=ids, use_cache=False).logits
    yield "logits", error(whole[0], expected)
    first = model(input_ids=ids[:, :CUT], use_cache=True)
    key = "cache_params" if "cache_params" in first else "past_key_values"
    rest = model(input_ids=ids[:, CUT:], use_cache=True, **{key: first[key]})
    yield "chunked prefill", error(torch.cat([first.logits, rest.logits], 1), whole)
    ones, zeros = torch.ones_like(ids), torch.zeros(1, PAD, dtype=torch.long)
    mask = torch.cat([torch.cat([zeros, ones], 1), torch.cat([ones, 1 - zeros], 1)])
    longer = torch.cat([ids, ids[:, :PAD]], 1)
    both = torch.cat([torch.cat([zeros + 7, ids], 1), longer])
    place = {} if key == "cache_params" else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    padded = model(input_ids=both, attention_mask=mask, use_cache=False, **place).logits
    yield "left padding", error(padded[0, PAD:], whole[0])
    yield "beside padding", error(padded[1, : ids.shape[1]], whole[0])


def refused(ask):
    try:
        ask()
    except ValueError as told:
        return str(told)
    return "nothing"


def varlen(_, query, key, value, attention_mask, *, scaling, sliding_window, **kwargs):
    """What FlashAttention computes: no mask, and documents only where it is told their ends."""
    assert attention_mask is None
    assert "seq_idx" not in kwargs
    rows, _, t, _ = query.shape
    k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    q, k, v = (x.transpose(1, 2).flatten(0, 1).transpose(0, 1) for x in (query, k, v))
    i = torch.arange(rows * t)
    ends = kwargs.get("cu_seq_lens_q", torch.arange(0, rows * t + 1, t))
    document = torch.searchsorted(ends, i.to(ends.dtype), right=True)
    seen = (document[:, None] == document) & (i[:, None] >= i)
    if sliding_window:
        seen &= i[:, None] - i < sliding_window
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling)
    return out.transpose(0, 1).unflatten(0, (rows, t)), None


transformers.AttentionInterface.register("varlen", varlen)
AttentionMaskInterface.register("varlen", flash_attention_mask)


def positions(*spans):
    return torch.cat([torch.arange(*span) for span in spans])[None]


@torch.no_grad()
def packing(model, ids):
    """Documents in a row, with and without masks; with what would mix them."""
    t = ids.shape[1]
    position = positions((CUT,), (t - CUT,))
    alone = model(input_ids=ids[:, CUT:], use_cache=False).logits
    packed = model(input_ids=ids, position_ids=position).logits
    yield "packed", error(packed[:, CUT:], alone)
    cut = torch.cat([positions((PAD, CUT), (1,), (t - CUT + PAD - 1,)), positions((t,))])
    found, rows = {}, [(ids, position), (torch.cat([ids, ids.flip(1)]), cut)]
    for how in ("varlen", "sdpa"):
        model.set_attn_implementation(how)
        found[how] = torch.cat([model(input_ids=i, position_ids=p).logits for i, p in rows])
    yield "packed without a mask", error(found["varlen"], found["sdpa"])
    past = model(input_ids=ids[:, :3], use_cache=True).past_key_values
    wrong = {
        "packed with a mask": {"attention_mask": torch.ones_like(ids), "position_ids": position},
        "packed with a cache": {"past_key_values": past, "position_ids": position},
        "packed without positions": {"cu_seq_lens_q": torch.tensor([0, CUT, ids.shape[1]])},
        "a square mask": {"attention_mask": torch.ones(1, 1, 1, 1)},
    }
    for name, kwargs in wrong.items():
        yield name, refused(lambda kwargs=kwargs: model(input_ids=ids, **kwargs))


@torch.no_grad()
def answering(model, ids):
    """What may be asked of every model of transformers."""
    plain = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    first, *_, last = plain.hidden_states
    ends = first, model.get_input_embeddings()(ids), model.lm_head(last), plain.logits
    yield "hidden states", torch.equal(*ends[:2]) and torch.equal(*ends[2:])
    tuples = model(input_ids=ids, use_cache=False, return_dict=False, output_hidden_states=True)
    yield "a tuple", torch.equal(tuples[0], plain.logits) and len(tuples) == 2
    rows = [{"input_ids": ids[0, :CUT].tolist()}, {"input_ids": ids[0, CUT:].tolist()}]
    how = {"return_seq_idx": True, "return_flash_attn_kwargs": True, "return_tensors": "pt"}
    batch = transformers.DataCollatorWithFlattening(**how)(rows)
    alone = model(input_ids=ids[:, CUT:], use_cache=False).logits
    yield "a collated batch", error(model(**batch).logits[:, CUT:], alone)
    cache = transformers.DynamicCache(config=model.config)
    parts = [model(input_ids=x, past_key_values=cache).logits for x in ids.split(CUT, 1)]
    yield "a cache of transformers", error(torch.cat(parts, 1), plain.logits)
    empty = {"past_key_values": transformers.DynamicCache()}
    yield "a cache without layers", refused(lambda: model(input_ids=ids, **empty))
    yield "weights of attention", refused(lambda: model(input_ids=ids, output_attentions=True))
    static = {"cache_implementation": "static", "max_new_tokens": 2}
    yield "a static cache", refused(lambda: model.generate(ids, **static))


def writing(model, ids, *, beams):
    """Greedy generation with and without a cache, of a batch with padding."""
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[0, :PAD] = 0
    prompt = torch.cat([ids[:, :20], ids[:, 20:40]])
    how = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    for name, count in (("greedy", 1), *((("beam", 3),) if beams else ())):
        texts = [model.generate(prompt, num_beams=count, use_cache=c, **how) for c in (True, False)]
        yield name, torch.equal(*texts)


def learning(model, ids):
    """Gradients with and without checkpointing."""
    found = []
    model.train()
    for _ in range(2):
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.gradient_checkpointing_enable({"use_reentrant": False})
    yield "checkpointing", error(found[1], found[0])
    model.gradient_checkpointing_disable()
    model.eval()


@torch.no_grad()
def saving(model, ids, *, code):
    """What `save_pretrained` writes computes the same, with more tokens too."""
    for name, more in (("saved again", 0), ("resized", 8)):
        with tempfile.TemporaryDirectory() as folder:
            if more:
                model.resize_token_embeddings(model.config.vocab_size + more)
            model.save_pretrained(folder)
            again = load(folder, code=code)
            one, two = (m(input_ids=ids, use_cache=False).logits for m in (model, again))
            yield name, error(two, one)
            model = again


def training(model, ids):
    """Three steps of the Trainer of transformers; the losses."""
    rows = [{"input_ids": ids[0], "labels": ids[0]}] * 6
    with tempfile.TemporaryDirectory() as folder:
        how = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=3,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            warmup_steps=0,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            gradient_checkpointing=True,
            save_strategy="no",
        )
        trainer = transformers.Trainer(model=model, args=how, train_dataset=rows)  # type: ignore[arg-type]
        trainer.train()
        yield "losses", [line["loss"] for line in trainer.state.log_history if "loss" in line]


def judge(job):
    code, beams = job["code"], job["long"]
    ids, expected = torch.tensor(job["tokens"])[None], load_file(job["expected"])["logits"]
    model = load(job["folder"], code=code)
    found = dict(reading(model, ids, expected))
    if code:
        found |= dict(packing(model, ids)) | dict(answering(model, ids))
    if job["save"]:
        found |= dict(saving(model, ids, code=code))
    found |= dict(writing(model, ids, beams=beams))
    found |= dict(learning(model, ids))
    if job["long"]:
        found |= dict(training(model, ids))
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    found["text"] = tokenizer.decode(tokenizer("naïve text")["input_ids"])
    found["class"] = type(model).__name__
    return found


def main(jobs, out):
    answers = {}
    for name, job in json.loads(Path(jobs).read_text()).items():
        try:
            answers[name] = judge(job)
        except Exception as problem:
            import traceback

            answers[name] = {"problem": f"{problem!r}\n{traceback.format_exc()}"}
    Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
