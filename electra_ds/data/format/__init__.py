"""The shard format: blocks in WebDataset tars, a binary index per tar, and one manifest.

Only numpy and the standard library are needed, so a machine that prepares data needs no torch.
`docs/data-format.md` describes the bytes.
"""

from electra_ds.data.format.block import PAIRS, TEXT, Block, decode_block, token_dtype
from electra_ds.data.format.index import INDEX_RECORD, ShardIndex, read_index
from electra_ds.data.format.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardInfo,
    TokenizerInfo,
    read_manifest,
)
from electra_ds.data.format.shard import ShardWriter, read_block_bytes
from electra_ds.data.format.tokenizer_files import tokenizer_fingerprint
from electra_ds.data.format.verify import verify_shards

__all__ = [
    "INDEX_RECORD",
    "MANIFEST_NAME",
    "PAIRS",
    "TEXT",
    "Block",
    "Manifest",
    "ShardIndex",
    "ShardInfo",
    "ShardWriter",
    "TokenizerInfo",
    "decode_block",
    "read_block_bytes",
    "read_index",
    "read_manifest",
    "token_dtype",
    "tokenizer_fingerprint",
    "verify_shards",
]
