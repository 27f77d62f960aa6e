"""The configuration of a model trained with lmtrain; needs transformers 5 only."""

import transformers
from transformers import PretrainedConfig

OLDEST = 5
if int(transformers.__version__.partition(".")[0]) < OLDEST:
    raise ImportError(
        f"transformers {transformers.__version__} is installed, and this model needs {OLDEST}.0 or "
        "later: pip install -U 'transformers>=5.20'"
    )

LAYER_TYPES = {
    "A": "full_attention",
    "W": "sliding_attention",
    "M": "linear_attention",
    "G": "linear_attention",
}
"""What the caches of transformers call a mixer: both recurrences carry a state of fixed size."""
FROM_STACK = (
    *("hidden_size", "num_hidden_layers", "layer_types", "num_attention_heads"),
    *("num_key_value_heads", "sliding_window", "initializer_range"),
)


class LmtrainConfig(PretrainedConfig):
    """A stack of blocks.

    ``stack`` is the model section of lmtrain's configuration, the shapes of all mixers in it;
    ``blocks`` says in order which mixers each block has, as letters, and whether it has an MLP.
    """

    model_type = "lmtrain"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(self, stack=None, blocks=(), max_position_embeddings=2048, **kwargs):
        """What transformers asks for by its own names is taken from the stack."""
        self.stack = stack = stack or {}
        self.blocks = [dict(block) for block in blocks]
        # A resized embedding has another number of rows than the one that was trained.
        self.vocab_size = kwargs.pop("vocab_size", stack.get("vocab_size"))
        for name in FROM_STACK:
            kwargs.pop(name, None)
        self.hidden_size = stack.get("d_model")
        # One layer of the cache for each mixer; an MLP alone has none.
        self.layer_types = [LAYER_TYPES[m] for block in self.blocks for m in block["mixers"]]
        self.num_hidden_layers = len(self.layer_types)
        self.num_attention_heads = stack.get("attention", {}).get("heads")
        self.num_key_value_heads = stack.get("attention", {}).get("kv_heads")
        self.sliding_window = stack.get("sliding_window", {}).get("window")
        self.initializer_range = stack.get("init_std", 0.02)
        self.max_position_embeddings = max_position_embeddings
        self.use_cache = kwargs.pop("use_cache", True)
        kwargs.setdefault("tie_word_embeddings", stack.get("tie_embeddings", False))
        super().__init__(**kwargs)


LmtrainConfig.register_for_auto_class()
