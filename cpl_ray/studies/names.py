"""Which kind of parameter a name stands for."""

_PROJECTIONS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "qkv_proj": "qkv",
    "query_key_value": "qkv",
    "c_attn": "qkv",
    "gate_up_proj": "gate_up",
    "c_fc": "up",
}
_EMBEDDINGS = ("embed_tokens", "wte", "wpe", "embed_in", "embed_positions", "word_embeddings")
_HEADS = ("lm_head", "embed_out", "score")


def parameter_type(name: str) -> str:
    """Return the type of a parameter by its name: `q`, `k`, `v`, `o`, `gate`, `up`, `down`, `norm`, `embedding`, …

    Fused projections are `qkv` and `gate_up`; what no name tells is `other`. A head tied to the embedding is one
    parameter with it, and goes by the embedding's name.
    """
    parts = name.split(".")
    for part in reversed(parts):
        if part in _PROJECTIONS:
            return _PROJECTIONS[part]
        if part in _EMBEDDINGS:
            return "embedding"
        if part in _HEADS:
            return "head"
        if "norm" in part or part.startswith("ln_"):
            return "norm"
    return "other"
